/** What can be asked of one trial, as buttons: small ones in a row, named ones in the drawer. */

import type { TrialAction } from "../api/client";
import type { Command, Sweep, Trial } from "../api/types";
import { trialActions } from "../state/commands";
import { Icon, type IconName } from "../ui/Icon";

/** Asks for something to be done with a trial; `clone` opens its dialog. */
export type AskTrial = (trial: Trial, action: TrialAction | "clone") => void;

const LOOKS: Record<TrialAction | "clone", { icon: IconName; text: string; key: string; busy: string }> = {
  pause: { icon: "pause", text: "Pause", key: "P", busy: "is being paused" },
  resume: { icon: "play", text: "Resume", key: "P", busy: "is being resumed" },
  stop: { icon: "stop", text: "Stop", key: "S", busy: "is being stopped" },
  revive: { icon: "revive", text: "Revive", key: "R", busy: "is being revived" },
  pin: { icon: "pin", text: "Pin", key: "I", busy: "is being pinned" },
  unpin: { icon: "pin", text: "Unpin", key: "I", busy: "is being unpinned" },
  clone: { icon: "copy", text: "Clone", key: "C", busy: "is being cloned" },
};

const HINTS: Partial<Record<TrialAction | "clone", string>> = {
  pin: "No scheduler ends a pinned trial, and its model is kept",
  clone: "Run it once more with some parameters changed",
  revive: "Let it go on from where it was",
};

/** The action that a key stands for on a focused trial, if it can be asked of it now. */
export function actionOfKey(key: string, trial: Trial, sweep: Sweep): TrialAction | "clone" | null {
  const wanted = key.toUpperCase();
  const open: (TrialAction | "clone")[] = [...trialActions(trial, sweep), ...(trial.kind === "search" ? (["clone"] as const) : [])];
  return open.find((action) => LOOKS[action].key === wanted) ?? null;
}

export interface TrialActionsProps {
  trial: Trial;
  sweep: Sweep;
  /** What was asked and waits to be carried out. */
  waiting: Command | undefined;
  onAsk: AskTrial;
}

/** The few that are wanted often, for a table's row. */
export function RowActions({ trial, sweep, waiting, onAsk }: TrialActionsProps) {
  const usual = trialActions(trial, sweep).filter((action) => action !== "pin" && action !== "unpin");
  return (
    <span className="row-actions">
      {usual.map((action) => {
        const { icon, text, key, busy } = LOOKS[action];
        const asked = waiting?.kind === action;
        return (
          <button
            key={action}
            type="button"
            tabIndex={-1}
            className={`icon-button ${action === "stop" ? "stop-button" : ""}`}
            disabled={asked}
            aria-label={asked ? `Trial ${trial.number} ${busy}` : `${text} trial ${trial.number}`}
            title={asked ? "Asked, waiting" : `${text} this trial (${key})`}
            onClick={(event) => {
              event.stopPropagation();
              onAsk(trial, action);
            }}
          >
            <Icon name={icon} size={14} />
          </button>
        );
      })}
    </span>
  );
}

/** All of them, with their names. */
export function NamedActions({ trial, sweep, waiting, onAsk }: TrialActionsProps) {
  const open: (TrialAction | "clone")[] = [...trialActions(trial, sweep)];
  if (trial.kind === "search") open.push("clone");
  if (open.length === 0) return null;
  return (
    <div className="named-actions" role="group" aria-label={`Actions on trial ${trial.number}`}>
      {open.map((action) => {
        const asked = action !== "clone" && waiting?.kind === action;
        return (
          <button
            key={action}
            type="button"
            className={`button small ${action === "stop" ? "danger-quiet" : ""}`}
            disabled={asked}
            title={HINTS[action]}
            onClick={() => onAsk(trial, action)}
          >
            <Icon name={LOOKS[action].icon} size={13} />
            {action === "clone" ? "Clone…" : LOOKS[action].text}
          </button>
        );
      })}
    </div>
  );
}
