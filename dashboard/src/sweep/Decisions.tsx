/** What the scheduler decided, newest first, each with its reason and the numbers behind it. */

import { memo, useState } from "react";
import type { Action, Decision } from "../api/types";
import * as format from "../format";
import { setQuery } from "../state/url";
import { Icon, type IconName } from "../ui/Icon";
import { useNow } from "../ui/useNow";
import { Evidence } from "./Evidence";

export interface DecisionsProps {
  decisions: readonly Decision[];
  /** The one kind to show; null shows all. */
  filter: Action | null;
  onHover(trialId: string | null): void;
  onPick(trialId: string): void;
}

const ICONS: Record<Action, IconName> = { stop: "stop", pause: "pause", resume: "play", continue: "check" };
const VERBS: Record<Action, string> = {
  stop: "stopped",
  pause: "paused",
  resume: "resumed",
  continue: "goes on",
};
const FILTERS: Record<Action, string> = { stop: "Stop", pause: "Pause", resume: "Resume", continue: "Go on" };
const FIRST_SHOWN = 100;

export const Decisions = memo(function Decisions({ decisions, filter, onHover, onPick }: DecisionsProps) {
  const [all, setAll] = useState(false);
  const now = useNow(10_000);
  const matching = filter ? decisions.filter((d) => d.action === filter) : decisions;
  const shown = all ? matching : matching.slice(0, FIRST_SHOWN);

  return (
    <section className="panel decisions" aria-label="Decisions">
      <div className="panel-head">
        <h2>Decisions</h2>
        <div className="chips" role="group" aria-label="Show">
          <Chip text="All" count={decisions.length} active={!filter} value={null} />
          {(Object.keys(FILTERS) as Action[]).map((action) => {
            const count = decisions.filter((d) => d.action === action).length;
            return count || action === filter ? (
              <Chip key={action} text={FILTERS[action]} count={count} active={filter === action} value={action} />
            ) : null;
          })}
        </div>
      </div>
      {shown.length === 0 ? (
        <p className="panel-empty">
          {filter
            ? "None of this kind."
            : "No decisions yet. Each time a trial reaches a rung, or goes wrong before it, what was decided and why is shown here."}
        </p>
      ) : (
        <ol className="decision-list" onMouseLeave={() => onHover(null)}>
          {shown.map((decision) => (
            <Entry key={decision.id} decision={decision} now={now} onHover={onHover} onPick={onPick} />
          ))}
        </ol>
      )}
      {matching.length > shown.length ? (
        <button type="button" className="button small more" onClick={() => setAll(true)}>
          Show all {matching.length}
        </button>
      ) : null}
    </section>
  );
});

/** The kind of decision that the address names; null if it names none. */
export function parseFilter(text: string | null): Action | null {
  return text !== null && text in FILTERS ? (text as Action) : null;
}

function Chip(props: { text: string; count: number; active: boolean; value: string | null }) {
  return (
    <button
      type="button"
      className="chip"
      aria-pressed={props.active}
      onClick={() => setQuery({ decisions: props.value })}
    >
      {props.text} <span>{props.count}</span>
    </button>
  );
}

function Entry(props: {
  decision: Decision;
  now: number;
  onHover(trialId: string | null): void;
  onPick(trialId: string): void;
}) {
  const { decision } = props;
  const [open, setOpen] = useState(false);
  const tone = decision.code === "diverged" ? "diverged" : decision.action;
  const hasEvidence = Object.keys(decision.evidence).length > 0;
  return (
    <li className={`decision action-${tone}`} onMouseEnter={() => props.onHover(decision.trial_id)}>
      <span className="decision-icon" aria-hidden="true">
        <Icon name={tone === "diverged" ? "warning" : ICONS[decision.action]} size={14} />
      </span>
      <div className="decision-body">
        <div className="decision-head">
          <button type="button" className="link" onClick={() => props.onPick(decision.trial_id)}>
            Trial {decision.trial_number}
          </button>{" "}
          {decision.acted ? VERBS[decision.action] : `would be ${VERBS[decision.action]}`}
          {decision.acted ? null : <span className="tag">recorded only</span>}
          <span className="decision-when" title={decision.created_at}>
            {format.ago(decision.created_at, props.now)}
          </span>
        </div>
        <p className="decision-reason">{format.sentence(decision.reason)}</p>
        <div className="decision-foot">
          <span className="tag">{decision.rule}</span>
          <span>{format.count(decision.samples)} samples</span>
          {hasEvidence ? (
            <button type="button" className="link evidence-toggle" aria-expanded={open} onClick={() => setOpen(!open)}>
              <Icon name="chevron" size={12} /> Evidence
            </button>
          ) : null}
        </div>
        {open ? <Evidence evidence={decision.evidence} /> : null}
      </div>
    </li>
  );
}
