/** One trial, beside the page: its numbers, parameters, and what was decided about it. */

import { useEffect, useMemo, useRef } from "react";
import type { Command, Decision, EvaluationPoint, Sweep, Trial } from "../api/types";
import * as format from "../format";
import { heldOut, type HeldOutPoint } from "../state/curves";
import { goal, score } from "../state/derive";
import type { SweepView } from "../state/sweep";
import { TrialBadge } from "../ui/Badge";
import { Copyable } from "../ui/Copyable";
import { Icon } from "../ui/Icon";
import { useNow } from "../ui/useNow";
import { ChangeList } from "./Changes";
import { Evidence } from "./Evidence";
import { Marks, Waits } from "./Marks";
import { NamedActions, type AskTrial } from "./TrialActions";

export interface TrialDrawerProps {
  trial: Trial;
  sweep: Sweep;
  view: SweepView;
  /** What was asked of it and waits to be carried out. */
  waiting: Command | undefined;
  onAsk: AskTrial;
  onClose(): void;
}

export function TrialDrawer({ trial, sweep, view, waiting, onAsk, onClose }: TrialDrawerProps) {
  const close = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) onClose();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [onClose]);

  const decisions = view.decisions.filter((d) => d.trial_id === trial.id);
  const points = useMemo(() => heldOut(view.evaluations).get(trial.id) ?? [], [view.evaluations, trial.id]);
  const best = sweep.summary.best_trial ? view.trials.get(sweep.summary.best_trial) : undefined;
  const changes = view.commands.filter((c) => c.trial_id === trial.id);
  const now = useNow(10_000);

  return (
    <aside className="drawer" aria-label={`Trial ${trial.number}`}>
      <header className="drawer-head">
        <h2>Trial {trial.number}</h2>
        <TrialBadge trial={trial} />
        <Marks trial={trial} />
        <button ref={close} type="button" className="icon-button" aria-label="Close" onClick={onClose}>
          <Icon name="close" />
        </button>
      </header>
      <NamedActions trial={trial} sweep={sweep} waiting={waiting} onAsk={onAsk} />
      <div className="drawer-body">
        <Waits trial={trial} waiting={waiting} />
        {trial.message ? <p className="drawer-message">{format.sentence(trial.message)}</p> : null}
        <Facts trial={trial} sweep={sweep} />
        <Parameters trial={trial} best={best && best.id !== trial.id ? best : undefined} />
        {points.length ? <HeldOutTable points={points} /> : null}
        <Benchmarks points={view.evaluations.filter((p) => p.trial_id === trial.id)} />
        <History decisions={decisions} />
        {changes.length ? (
          <section>
            <h3>Changes</h3>
            <ChangeList commands={changes} now={now} />
          </section>
        ) : null}
        {trial.checkpoint ? (
          <section>
            <h3>Model</h3>
            <Copyable text={trial.checkpoint} />
          </section>
        ) : null}
      </div>
    </aside>
  );
}

function Facts({ trial, sweep }: { trial: Trial; sweep: Sweep }) {
  const by = goal(sweep);
  const objective = score(trial, by);
  const rows: [string, string][] = [
    ["Step", `${format.count(trial.step)} of ${format.count(trial.total_steps)}`],
    ["Samples seen", `${format.count(trial.samples)} of ${format.count(trial.total_samples)}`],
    ["Training loss", format.loss(trial.loss)],
    ["Gradient norm", format.number(trial.grad_norm)],
    [
      trial.value === null ? "Objective so far" : "Objective",
      objective === null
        ? format.ABSENT
        : `${format.figure(objective, by.metric)} ${by.metric === "eval/exact_match" ? "exact match" : by.name}`,
    ],
    ["Exact match", format.percent(trial.exact_match)],
    ["Worker time", format.duration(trial.seconds)],
    ["Attempts", String(trial.attempt)],
  ];
  return (
    <dl className="facts">
      {rows.map(([name, text]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{text}</dd>
        </div>
      ))}
    </dl>
  );
}

function Parameters({ trial, best }: { trial: Trial; best: Trial | undefined }) {
  const names = Object.keys(trial.params);
  const show = (name: string, value: unknown) =>
    name === "learning_rate" && typeof value === "number" ? format.rate(value) : format.value(value);
  return (
    <section>
      <h3>Parameters</h3>
      <table className="small-table">
        {best ? (
          <thead>
            <tr>
              <th />
              <th className="num">This trial</th>
              <th className="num">Best (trial {best.number})</th>
            </tr>
          </thead>
        ) : null}
        <tbody>
          {names.map((name) => (
            <tr key={name} className={best && best.params[name] !== trial.params[name] ? "differs" : ""}>
              <td>{format.title(name)}</td>
              <td className="num">{show(name, trial.params[name])}</td>
              {best ? <td className="num">{show(name, best.params[name])}</td> : null}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function HeldOutTable({ points }: { points: readonly HeldOutPoint[] }) {
  return (
    <section>
      <h3>Held out</h3>
      <table className="small-table">
        <thead>
          <tr>
            <th className="num">Samples</th>
            <th className="num">Loss</th>
            <th className="num">Exact match</th>
          </tr>
        </thead>
        <tbody>
          {points.map((point) => (
            <tr key={point.step}>
              <td className="num">{format.count(point.samples)}</td>
              <td className="num">{format.loss(point.loss)}</td>
              <td className="num">{format.percent(point.exact_match)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

/** What was measured beside the held-out sets: general text, benchmarks, a judge's grades. */
function Benchmarks({ points }: { points: readonly EvaluationPoint[] }) {
  const rows = new Map<string, string>();
  for (const point of points) {
    if (point.split === "general") rows.set(`${point.dataset} loss`, format.loss(point.loss));
    for (const [name, figure] of Object.entries(point.scores ?? {})) {
      if (!name.includes("stderr")) rows.set(`${point.dataset} ${name.replace(/,none$/, "")}`, format.figure(figure, name));
    }
  }
  if (rows.size === 0) return null;
  return (
    <section>
      <h3>Benchmarks and general text</h3>
      <table className="small-table">
        <tbody>
          {[...rows].map(([name, text]) => (
            <tr key={name}>
              <td>{name}</td>
              <td className="num">{text}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function History({ decisions }: { decisions: readonly Decision[] }) {
  return (
    <section>
      <h3>Decisions</h3>
      {decisions.length === 0 ? <p className="faint">Not judged yet.</p> : null}
      <ol className="history">
        {decisions.map((decision) => (
          <li key={decision.id}>
            <details>
              <summary>
                <b>{format.title(decision.action)}</b>
                <span className="faint"> at {format.count(decision.samples)} samples · {decision.rule}</span>
                <p>{format.sentence(decision.reason)}</p>
              </summary>
              <Evidence evidence={decision.evidence} />
            </details>
          </li>
        ))}
      </ol>
    </section>
  );
}
