/** What sets a trial apart, and why it waits. */

import type { Command, Trial } from "../api/types";
import * as format from "../format";
import { told, trialNumber } from "../state/commands";
import { Icon } from "../ui/Icon";

/** Pinned, a clone, a result that was taken over: a word each, never an icon alone. */
export function Marks({ trial }: { trial: Trial }) {
  return (
    <>
      {trial.pinned ? (
        <span className="mark mark-pinned" title="Pinned: no scheduler ends it, and its model is kept">
          <Icon name="pin" size={11} />
          pinned
        </span>
      ) : null}
      {trial.parent ? (
        <span className="mark" title={`Cloned from trial ${trialNumber(trial.parent)}`}>
          clone of {trialNumber(trial.parent)}
        </span>
      ) : null}
      {trial.reused_from ? (
        <span className="mark" title={`An identical trial, ${trial.reused_from}, has this result: nothing was trained again`}>
          reused
        </span>
      ) : null}
    </>
  );
}

/** What was asked of a trial, until it is done; else why it waits. */
export function Waits({ trial, waiting }: { trial: Trial; waiting: Command | undefined }) {
  if (waiting) {
    return (
      <span className="waits asked" role="status">
        {format.title(told(waiting).replace(/ trial \d+.*/, ""))} asked, waiting
      </span>
    );
  }
  const waits = trial.state === "PENDING" || trial.state === "PAUSED";
  if (!waits || !trial.why_pending) return null;
  return (
    <span className="waits" title={trial.why_pending}>
      {format.sentence(trial.why_pending)}
    </span>
  );
}
