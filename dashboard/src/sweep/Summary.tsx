/** The head of a sweep's page: name, state, progress, what was gained and what was saved. */

import { memo, type ReactNode } from "react";
import type { Command, Scores, Sweep, Trial } from "../api/types";
import * as format from "../format";
import { canExtend, told } from "../state/commands";
import { computeSaved, ended, fraction, goal, isHeldOut, measured, progress, score, secondsLeft, sweepEnded } from "../state/derive";
import { SweepBadge } from "../ui/Badge";
import { Icon } from "../ui/Icon";
import { useNow } from "../ui/useNow";

export interface SummaryProps {
  sweep: Sweep;
  trials: readonly Trial[];
  /** What was asked of the sweep and waits to be carried out. */
  waiting: Command | undefined;
  onAsk(action: SweepAsk): void;
}

export type SweepAsk = "pause" | "resume" | "cancel" | "extend" | "add";

export const Summary = memo(function Summary({ sweep, trials, waiting, onAsk }: SummaryProps) {
  const now = useNow();
  const { summary } = sweep;
  const saved = computeSaved(trials);
  const stopped = trials.filter((t) => t.state === "PRUNED" || t.reason === "diverged").length;
  const baseline = summary.baseline.eval;
  const best = bestScores(sweep, trials);
  const onTest = summary.winner.test;
  const by = goal(sweep);

  return (
    <section className="summary" aria-label="Summary">
      <div className="summary-head">
        <h1>{sweep.name}</h1>
        <SweepBadge state={sweep.state} />
        <span className="summary-facts">{facts(sweep, now).join("  ·  ")}</span>
        {waiting ? (
          <span className="waits asked" role="status">
            {format.sentence(told(waiting)).replace(/\.$/, "")}: asked, waiting
          </span>
        ) : null}
        <Actions sweep={sweep} waiting={waiting} onAsk={onAsk} />
      </div>
      {sweep.why_pending && (sweep.state === "QUEUED" || sweep.slots === 0) ? (
        <p className="banner plain">
          <Icon name="pause" /> Waiting: {sweep.why_pending}
        </p>
      ) : null}
      {sweep.state === "PAUSED" ? (
        <p className="banner plain">
          <Icon name="pause" /> Paused: its trials keep where they are, and its workers are free for others.
        </p>
      ) : null}
      {sweep.message ? (
        <p className={`banner ${sweep.state === "FAILED" ? "danger" : "plain"}`}>{sweep.message}</p>
      ) : null}
      <div className="tiles">
        <ProgressTile sweep={sweep} trials={trials} now={now} />
        <Tile label="Held-out loss" hint="Mean token loss on the eval sets, before training and for the best trial so far">
          <Change from={format.loss(baseline?.loss)} to={format.loss(best?.loss)} />
          <small>
            {gain(baseline?.loss, best?.loss)}
            {onTest?.loss === null || onTest?.loss === undefined ? "" : ` · test ${format.loss(onTest.loss)}`}
          </small>
        </Tile>
        <Tile label="Exact match" hint="Greedy answers equal to the reference on the eval sets">
          <Change from={format.percent(baseline?.exact_match)} to={format.percent(best?.exact_match)} />
          <small>
            {best?.exact_match === null || best?.exact_match === undefined
              ? "measured when a trial completes"
              : points(baseline?.exact_match, best.exact_match)}
            {onTest?.exact_match === null || onTest?.exact_match === undefined
              ? ""
              : ` · test ${format.percent(onTest.exact_match)}`}
          </small>
        </Tile>
        {isHeldOut(by) ? null : (
          <Tile label={format.title(by.name)} hint="What the winner is chosen by, before training and for the best trial so far">
            <Change from={format.figure(measured(summary.baseline, by), by.metric)} to={format.figure(summary.best_value, by.metric)} />
            <small>{summary.best_value === null ? "measured when a trial completes" : "the winner is chosen by it"}</small>
          </Tile>
        )}
        {summary.baseline.general && by.metric !== "general/loss" ? (
          <Tile label="General text" hint="Mean token loss on text that is not about the task: what the model retained">
            <Change from={format.loss(summary.baseline.general.loss)} to={format.loss(summary.winner.general?.loss)} />
            <small>{summary.winner.general ? "a rise is forgetting" : "measured when a trial completes"}</small>
          </Tile>
        ) : null}
        <Tile
          label="Compute saved"
          hint="Training samples not trained because trials ended early, as a share of what the ended trials would have taken"
        >
          <strong>{format.percent(saved, 0)}</strong>
          <small>
            {stopped === 0 ? "no trial stopped yet" : `${stopped} ${stopped === 1 ? "trial" : "trials"} ended early`}
          </small>
        </Tile>
      </div>
    </section>
  );
});

function Actions({ sweep, waiting, onAsk }: Pick<SummaryProps, "sweep" | "waiting" | "onAsk">) {
  const over = sweepEnded(sweep);
  const canceling = waiting?.kind === "cancel";
  const hold = sweep.state === "PAUSED" ? "resume" : "pause";
  return (
    <div className="summary-actions" role="group" aria-label="Actions on the sweep">
      {over ? null : (
        <button type="button" className="button" disabled={waiting?.kind === hold} onClick={() => onAsk(hold)}>
          <Icon name={hold === "pause" ? "pause" : "play"} size={14} />
          {hold === "pause" ? "Pause" : "Resume"}
        </button>
      )}
      {canExtend(sweep) ? (
        <button type="button" className="button" title="More trials from the sampler" onClick={() => onAsk("extend")}>
          Extend…
        </button>
      ) : null}
      <button type="button" className="button" title="A configuration of your own" onClick={() => onAsk("add")}>
        <Icon name="plus" size={14} />
        Add trial…
      </button>
      {over ? null : (
        <button type="button" className="button danger-quiet" onClick={() => onAsk("cancel")} disabled={canceling}>
          {canceling ? "Canceling…" : "Cancel sweep"}
        </button>
      )}
    </div>
  );
}

function ProgressTile({ sweep, trials, now }: { sweep: Sweep; trials: readonly Trial[]; now: number }) {
  const done = trials.filter(ended).length;
  const planned = Math.max(sweep.summary.planned, trials.length);
  const left = secondsLeft(sweep, trials, now);
  return (
    <Tile label="Progress" className="tile-wide">
      <div className="progress-line">
        <strong>{format.percent(progress(sweep, trials), 0)}</strong>
        <span>
          {done} of {planned} trials{left === null ? "" : `, about ${format.duration(left)} left`}
        </span>
      </div>
      <TrialStrip trials={trials} planned={planned} />
    </Tile>
  );
}

/** One cell a trial: its colour says the state, its fill how far it came. */
function TrialStrip({ trials, planned }: { trials: readonly Trial[]; planned: number }) {
  const cells = [...trials].sort((a, b) => a.number - b.number);
  return (
    <div className="strip" role="img" aria-label={stripLabel(trials, planned)}>
      {cells.map((trial) => (
        <span
          key={trial.id}
          className={`strip-cell tone-${trial.reason === "diverged" ? "diverged" : trial.state.toLowerCase()}`}
          title={`Trial ${trial.number}`}
        >
          <span style={{ height: `${Math.max(trial.state === "PENDING" ? 0 : 12, fraction(trial) * 100)}%` }} />
        </span>
      ))}
      {Array.from({ length: Math.max(0, planned - cells.length) }, (_, i) => (
        <span key={`planned-${i}`} className="strip-cell" />
      ))}
    </div>
  );
}

function Tile(props: { label: string; hint?: string; className?: string; children: ReactNode }) {
  return (
    <div className={`tile ${props.className ?? ""}`} title={props.hint}>
      <span className="tile-label">{props.label}</span>
      {props.children}
    </div>
  );
}

function Change({ from, to }: { from: string; to: string }) {
  return (
    <span className="change">
      <span className="change-from" title="before training">{from}</span>
      <span aria-label="to" className="change-arrow">→</span>
      <strong title="best trial">{to}</strong>
    </span>
  );
}

/** The winner's scores once the server names it, else those of the best trial so far. */
function bestScores(sweep: Sweep, trials: readonly Trial[]): Scores | undefined {
  const winner = sweep.summary.winner.eval;
  if (winner) return winner;
  const by = goal(sweep);
  const ranked = trials
    .filter((t) => score(t, by) !== null && t.reason !== "diverged")
    .sort((a, b) => by.better(score(a, by)!, score(b, by)!));
  const first = ranked[0];
  return first && { loss: first.eval_loss, exact_match: first.exact_match };
}

function facts(sweep: Sweep, now: number): string[] {
  const spec = sweep.spec as {
    model?: string;
    recipe?: string;
    scheduler?: { name?: string; mode?: string };
    search?: { sampler?: string };
  };
  const scheduler = spec.scheduler?.name;
  const model = spec.model?.replace(/\/+$/, "").split("/").slice(-2).join("/");
  return [
    model,
    spec.recipe && `${spec.recipe.toUpperCase()} recipe`,
    spec.search?.sampler && `${spec.search.sampler} search`,
    scheduler && `${scheduler} scheduler${spec.scheduler?.mode === "shadow" ? " (shadow)" : ""}`,
    sweep.ended_at && sweep.started_at
      ? `took ${format.duration((Date.parse(sweep.ended_at) - Date.parse(sweep.started_at)) / 1000)}`
      : sweep.started_at
        ? `running for ${format.duration((now - Date.parse(sweep.started_at)) / 1000)}`
        : "not started yet",
  ].filter((fact): fact is string => Boolean(fact));
}

function gain(from: number | null | undefined, to: number | null | undefined): string {
  if (to === null || to === undefined) return "measured at the first rung";
  if (from === null || from === undefined || from === 0) return "best so far";
  const change = (to - from) / from;
  return `${change <= 0 ? "−" : "+"}${Math.abs(change * 100).toFixed(0)} % against the base model`;
}

function points(from: number | null | undefined, to: number): string {
  if (from === null || from === undefined) return "best so far";
  const change = (to - from) * 100;
  return `${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(1)} points`;
}

function stripLabel(trials: readonly Trial[], planned: number): string {
  const counts = new Map<string, number>();
  for (const t of trials) counts.set(t.state.toLowerCase(), (counts.get(t.state.toLowerCase()) ?? 0) + 1);
  const parts = [...counts].map(([state, n]) => `${n} ${state}`);
  return `${trials.length} of ${planned} trials created: ${parts.join(", ")}`;
}
