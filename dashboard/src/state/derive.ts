/** Numbers the page shows that follow from a sweep and its trials. Pure. */

import type { Scores, Sweep, Trial, TrialState } from "../api/types";

const ENDED: readonly TrialState[] = ["COMPLETED", "PRUNED", "FAILED", "CANCELED"];

export function ended(trial: Trial): boolean {
  return ENDED.includes(trial.state);
}

export function sweepEnded(sweep: Sweep): boolean {
  return ["COMPLETED", "FAILED", "CANCELED"].includes(sweep.state);
}

/** Ended search trials, by the summary alone. */
export function trialsDone(sweep: Sweep): number {
  return ENDED.reduce((sum, state) => sum + (sweep.summary.by_state[state] ?? 0), 0);
}

/** How much of the sweep is behind us, 0 to 1: ended trials whole, running ones by samples seen. */
export function progress(sweep: Sweep, trials: readonly Trial[]): number {
  if (sweepEnded(sweep)) return 1;
  const planned = Math.max(sweep.summary.planned, trials.length, 1);
  const done = trials.reduce((sum, t) => sum + (ended(t) ? 1 : fraction(t)), 0);
  return Math.min(done / planned, 1);
}

/** A trial's own progress, 0 to 1. */
export function fraction(trial: Trial): number {
  return trial.total_samples > 0 ? Math.min(trial.samples / trial.total_samples, 1) : 0;
}

/** Seconds left at the pace so far; null while that would be a guess. */
export function secondsLeft(sweep: Sweep, trials: readonly Trial[], now: number): number | null {
  if (sweep.state !== "RUNNING" || !sweep.started_at) return null;
  const elapsed = (now - Date.parse(sweep.started_at)) / 1000;
  const done = progress(sweep, trials);
  return done < 0.05 || elapsed < 5 ? null : (elapsed * (1 - done)) / done;
}

/**
 * Share of training samples not trained because trials were ended early, of all that the ended
 * trials would have taken. Running trials count on neither side. Null before any trial has ended.
 */
export function computeSaved(trials: readonly Trial[]): number | null {
  let full = 0;
  let trained = 0;
  for (const trial of trials) {
    if (!ended(trial) || trial.total_samples <= 0) continue;
    full += trial.total_samples;
    trained += Math.min(trial.samples, trial.total_samples);
  }
  return full > 0 ? 1 - trained / full : null;
}

/** The same for a list row, from the summary; null until the sweep has ended. */
export function computeSavedInList(sweep: Sweep): number | null {
  const { samples_full: full, samples_trained: trained } = sweep.summary;
  return sweepEnded(sweep) && full > 0 ? Math.max(0, 1 - trained / full) : null;
}

export interface Goal {
  /** As the sweep names it: eval/loss, lm_eval/mmlu/acc, judge/score, … */
  metric: string;
  /** As a reader calls it. */
  name: string;
  better(a: number, b: number): number;
}

/** What the sweep's winner is chosen by. */
export function goal(sweep: Sweep | null): Goal {
  const objective = (sweep?.spec.objective ?? {}) as { metric?: string; mode?: string };
  const metric = objective.metric ?? "eval/loss";
  const higher = objective.mode ? objective.mode === "max" : metric.endsWith("/exact_match");
  return { metric, name: metricName(metric), better: (a, b) => (higher ? b - a : a - b) };
}

/** The metrics that matter beside that, as the sweep names them. */
export function further(sweep: Sweep | null): readonly string[] {
  const { also } = (sweep?.spec.objective ?? {}) as { also?: { metric: string }[] };
  return (also ?? []).map((one) => one.metric);
}

/** Whether held-out loss or exact match, which have places of their own, decide. */
export function isHeldOut(by: Goal): boolean {
  return by.metric === "eval/loss" || by.metric === "eval/exact_match";
}

/** The latest number of a trial under the sweep's objective; null if only its end tells. */
export function score(trial: Trial, by: Goal): number | null {
  if (trial.value !== null) return trial.value;
  if (by.metric === "eval/loss") return trial.eval_loss;
  return by.metric === "eval/exact_match" ? trial.exact_match : null;
}

/** The objective among the scores of the base model or the winner; null if it isn't told there. */
export function measured(scores: Record<string, Scores>, by: Goal): number | null {
  const [kind = "", ...rest] = by.metric.split("/");
  const found = scores[kind];
  if (!found) return null;
  if (rest.length === 1 && rest[0] === "loss") return found.loss;
  if (rest.length === 1 && rest[0] === "exact_match") return found.exact_match;
  const figures = found.scores ?? {};
  const key = rest.join("/");
  if (kind === "judge") return Object.entries(figures).find(([name]) => name.endsWith(`/${key}`))?.[1] ?? null;
  return figures[key] ?? figures[`${key},none`] ?? null;
}

/** held-out loss, mmlu acc, judge score, … */
export function metricName(metric: string): string {
  const [kind = "", ...rest] = metric.split("/");
  const words = rest.join(" ");
  if (kind === "lm_eval") return words;
  const lead = kind === "eval" ? "held-out" : kind;
  return `${lead} ${words.replaceAll("_", " ")}`;
}

/** How a trial ended early, as the chart marks it. */
export type EndMark = "stopped" | "diverged" | "failed";

export function endMark(trial: Trial): EndMark | null {
  if (trial.reason === "diverged") return "diverged";
  if (trial.state === "PRUNED" || trial.state === "CANCELED") return "stopped";
  return trial.state === "FAILED" ? "failed" : null;
}
