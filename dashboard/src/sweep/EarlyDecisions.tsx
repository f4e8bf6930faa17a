/** What early decisions rest on: risk, the weight of norm and loss, guard, audit, transfer. */

import { memo, type ReactNode } from "react";
import type { Sweep } from "../api/types";
import * as format from "../format";
import { readAccount, type Account, type Audit, type Estimate } from "../state/account";
import { sweepEnded } from "../state/derive";
import { Icon } from "../ui/Icon";

interface SchedulerSpec {
  name?: string;
  mode?: string;
  audit?: number;
}

export const EarlyDecisions = memo(function EarlyDecisions({ sweep }: { sweep: Sweep }) {
  const scheduler = (sweep.spec.scheduler ?? {}) as SchedulerSpec;
  if (scheduler.name === "none") return null;
  const account = readAccount(sweep);
  return (
    <section className="panel early" aria-label="Early decisions">
      <div className="panel-head">
        <h2>Early decisions</h2>
        {scheduler.name ? <span className="faint">{scheduler.name}</span> : null}
        {scheduler.mode === "shadow" ? <span className="tag">recorded only</span> : null}
      </div>
      {account ? (
        <dl className="early-list">
          <Risk risk={account.risk} />
          <Weight weight={account.weight} />
          <Persistence persistence={account.persistence} />
          <Guard guard={account.guard} />
          <AuditRow audit={account.audit} share={scheduler.audit ?? 0} />
          <Sign sign={account.sign} />
          <Transfer transfer={account.transfer} />
        </dl>
      ) : (
        <p className="panel-empty">
          {sweepEnded(sweep)
            ? "This scheduler left no account of its evidence."
            : "Nothing yet. With the first decision, what it rests on is shown here: its risk, the weight of gradient norm and loss, and its audit."}
        </p>
      )}
    </section>
  );
});

function Risk({ risk }: { risk: Account["risk"] }) {
  if (!risk) return null;
  const { announced, taken } = risk;
  const over = taken !== null && taken > announced;
  return (
    <Row
      name="Risk of losing the best"
      hint="The chance that the best trial is among the stopped and paused ones: what the sweep allows, and what has been taken so far"
      figure={
        <>
          {taken === null ? format.ABSENT : format.percent(taken)}
          <span className="faint"> of {format.percent(announced)}</span>
        </>
      }
    >
      <Bar fill={Math.min(1, (taken ?? 0) / announced)} tone={over ? "danger" : "plain"} />
    </Row>
  );
}

function Weight({ weight }: { weight: Estimate | null }) {
  if (!weight) return null;
  const top = Math.max(1, weight.high ?? 0, weight.value);
  const none = weight.value === 0 && !weight.high;
  return (
    <Row
      name="Weight of norm and loss"
      hint="What gradient norm and training loss weigh in a rung’s order, beside the held-out loss, which weighs 1. It is earned on recorded sweeps"
      figure={<Figure estimate={weight} />}
      note={none ? "not earned: held-out loss decides alone" : undefined}
    >
      <Span estimate={weight} from={0} to={top} />
    </Row>
  );
}

function Persistence({ persistence }: { persistence: Estimate | null }) {
  if (!persistence) return null;
  return (
    <Row
      name="Early ranks hold"
      hint="Correlation between places at the first rung and at the end, as this sweep and earlier ones tell so far"
      figure={<Figure estimate={persistence} />}
    >
      <Span estimate={persistence} from={0} to={1} />
    </Row>
  );
}

function Guard({ guard }: { guard: Account["guard"] }) {
  if (!guard) return null;
  return (
    <Row
      name="Guard"
      hint="If early places and ends show no association here, it fires: stopping ends and paused trials are called back"
      figure={
        <span className={`early-state ${guard.fired ? "fired" : "open"}`}>
          <Icon name={guard.fired ? "warning" : "check"} size={12} />
          {guard.fired ? "Fired" : "Has not fired"}
        </span>
      }
      note={guard.text ? format.sentence(guard.text) : undefined}
    />
  );
}

function AuditRow({ audit, share }: { audit: Audit | null; share: number }) {
  if (!audit) return null;
  const hint = "Trials picked by a coin that no model ends: how many of the stops that they were spared would have lost the best";
  if (audit.rate) {
    return (
      <Row
        name="False stops"
        hint={hint}
        figure={<Figure estimate={audit.rate} show={(v) => format.percent(v, 0)} />}
        note={`${audit.falseStops ?? 0} of ${audit.stops} audited stops would have lost the best`}
      >
        <Span estimate={audit.rate} from={0} to={1} />
      </Row>
    );
  }
  const off = share === 0 && audit.stops === 0;
  return (
    <Row
      name="False stops"
      hint={hint}
      figure={<span className="faint">{off ? "no audit" : `not enough audits (${audit.stops})`}</span>}
      note={
        off
          ? "No trial is audited. With scheduler.audit above 0, some run on to measure false stops."
          : `A rate is given from ${audit.needed} on.`
      }
    >
      {off ? null : <Bar fill={audit.stops / audit.needed} tone="faint" />}
    </Row>
  );
}

function Sign({ sign }: { sign: Account["sign"] }) {
  if (!sign) return null;
  return (
    <Row
      name="The paper’s sign"
      hint="Do low gradient norm and high loss early go with a good end here, beyond what learning rate and batch size tell? Right of the middle: yes"
      figure={sign.partial ? <Figure estimate={sign.partial} /> : null}
      note={format.sentence(sign.text)}
    >
      {sign.partial ? <Span estimate={sign.partial} from={-1} to={1} zero /> : null}
    </Row>
  );
}

function Transfer({ transfer }: { transfer: Account["transfer"] }) {
  if (!transfer) return null;
  const { sweeps, weight } = transfer;
  return (
    <Row
      name="Earlier sweeps"
      hint="Sweeps of the same model, data, method and objective that this one started from"
      figure={
        sweeps === 0 ? (
          <span className="faint">none of this kind</span>
        ) : (
          <>
            {sweeps}
            {weight === null ? null : <span className="faint"> with weight {format.number(weight, 2)}</span>}
          </>
        )
      }
    />
  );
}

function Row(props: { name: string; hint: string; figure: ReactNode; note?: string; children?: ReactNode }) {
  return (
    <div className="early-row" title={props.hint}>
      <dt>{props.name}</dt>
      <dd>{props.figure}</dd>
      {props.children}
      {props.note ? <dd className="early-note">{props.note}</dd> : null}
    </div>
  );
}

function Figure({ estimate, show = signed }: { estimate: Estimate; show?: (value: number) => string }) {
  const { value, low, high } = estimate;
  const known = low !== null && high !== null && low !== high;
  return (
    <>
      {show(value)}
      {known ? <span className="faint"> ({show(low)} to {show(high)})</span> : null}
    </>
  );
}

function signed(value: number): string {
  return value.toFixed(2).replace("-", "−");
}

/** A share, filled from the left. Decorative: the figure beside it says the same. */
function Bar({ fill, tone }: { fill: number; tone: "plain" | "faint" | "danger" }) {
  return (
    <dd className={`early-bar bar-${tone}`} aria-hidden="true">
      <span style={{ width: `${Math.max(0, Math.min(1, fill)) * 100}%` }} />
    </dd>
  );
}

/** A value with its interval between two ends. Decorative too. */
function Span(props: { estimate: Estimate; from: number; to: number; zero?: boolean }) {
  const { value, low, high } = props.estimate;
  const at = (v: number) => `${Math.max(0, Math.min(1, (v - props.from) / (props.to - props.from))) * 100}%`;
  return (
    <dd className="early-span" aria-hidden="true">
      {props.zero ? <span className="span-zero" style={{ left: at(0) }} /> : null}
      {low !== null && high !== null ? (
        <span className="span-interval" style={{ left: at(low), right: `calc(100% - ${at(high)})` }} />
      ) : null}
      <span className="span-value" style={{ left: at(value) }} />
    </dd>
  );
}
