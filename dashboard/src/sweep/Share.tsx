/** What the sweep gets of the cluster, why not more, and what it has used of its budget. */

import { memo } from "react";
import type { Spending, Sweep } from "../api/types";
import * as format from "../format";
import { sweepEnded } from "../state/derive";
import { Icon } from "../ui/Icon";

const NAMES: Record<Spending["what"], string> = {
  trials: "Trials",
  hours: "Time",
  gpu_hours: "GPU-hours",
  cost: "Cost",
};

export const Share = memo(function Share({ sweep, onChange }: { sweep: Sweep; onChange: (() => void) | null }) {
  const over = sweepEnded(sweep);
  const spending = sweep.budget ?? [];
  if (over && spending.length === 0) return null;
  return (
    <section className="panel share" aria-label="Share and budget">
      <div className="panel-head">
        <h2>Share and budget</h2>
        <span className="faint">{sweep.project ?? "default"}</span>
        {onChange ? (
          <button type="button" className="button small panel-tools" onClick={onChange}>
            <Icon name="sliders" size={13} />
            Change
          </button>
        ) : null}
      </div>
      <dl className="early-list">
        {over ? null : <Slots sweep={sweep} />}
        {spending.map((spent) => (
          <Spent key={spent.what} spent={spent} over={over} />
        ))}
      </dl>
    </section>
  );
});

function Slots({ sweep }: { sweep: Sweep }) {
  const running = sweep.summary.by_state.RUNNING ?? 0;
  const most = sweep.max_concurrent ?? null;
  const claim = [
    `priority ${sweep.priority ?? 0}`,
    `weight ${format.value(sweep.weight ?? 1)}`,
    most === null ? null : `at most ${most} at once`,
  ].filter(Boolean);
  return (
    <div className="early-row" title="Trials at once that the cluster grants this sweep now">
      <dt>Slots</dt>
      <dd>
        {running}
        <span className="faint"> of {sweep.slots ?? format.ABSENT} in use</span>
      </dd>
      <dd className="early-note">{claim.join(" · ")}</dd>
      {sweep.why_pending ? <dd className="early-note waits-note">{format.sentence(sweep.why_pending)}</dd> : null}
    </div>
  );
}

/** A bar from nothing to the limit, or to the projection where that is beyond it. */
function Spent({ spent, over }: { spent: Spending; over: boolean }) {
  const { used, limit } = spent;
  const projected = over ? null : spent.projected;
  const whole = Math.max(limit ?? 0, projected ?? 0, used);
  const beyond = limit !== null && projected !== null && projected > limit;
  const out = limit !== null && used >= limit;
  const share = (value: number) => `${whole > 0 ? (value / whole) * 100 : 0}%`;
  return (
    <div className="early-row">
      <dt>{NAMES[spent.what]}</dt>
      <dd>
        {amount(spent.what, used)}
        {limit === null ? null : <span className="faint"> of {amount(spent.what, limit)}</span>}
      </dd>
      {limit === null ? null : (
        <div
          className={`spent ${out ? "spent-out" : beyond ? "spent-beyond" : ""}`}
          role="img"
          aria-label={label(spent, projected)}
        >
          {projected === null ? null : <span className="spent-projected" style={{ width: share(projected) }} />}
          <span className="spent-used" style={{ width: share(used) }} />
          {beyond ? <span className="spent-limit" style={{ left: share(limit) }} /> : null}
        </div>
      )}
      {projected === null ? null : (
        <dd className={`early-note ${beyond ? "waits-note" : ""}`}>
          About {amount(spent.what, projected)} at its end{beyond ? ": the budget will end it before" : ""}
        </dd>
      )}
      {out ? <dd className="early-note">Used up</dd> : null}
    </div>
  );
}

function label(spent: Spending, projected: number | null): string {
  const figure = (value: number) => amount(spent.what, value);
  const end = projected === null ? "" : `, about ${figure(projected)} at its end`;
  return `${NAMES[spent.what]}: ${figure(spent.used)} of ${figure(spent.limit ?? 0)} used${end}`;
}

/** 3 · 1 h 05 min · 12.5 · 1,204 */
export function amount(what: Spending["what"], value: number): string {
  if (what === "hours") return format.duration(value * 3600);
  if (Number.isInteger(value)) return format.count(value);
  return value >= 100 ? format.count(Math.round(value)) : String(Number(value.toPrecision(3)));
}
