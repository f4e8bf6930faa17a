/** Merging points by step: what was fetched, what was streamed, and what a second attempt replaces. */

import type { Curve, EvaluationPoint } from "../api/types";

/** All points of both; where both have a step, `newer` wins. Steps rise in the result. */
export function mergeCurve(older: Curve | undefined, newer: Curve): Curve {
  if (!older || older.step.length === 0) return newer;
  if (newer.step.length === 0) return older;
  const total = Math.max(older.total_points, newer.total_points);
  if (newer.step[0]! > older.step[older.step.length - 1]!) {
    return {
      trial_id: newer.trial_id,
      step: older.step.concat(newer.step),
      samples: older.samples.concat(newer.samples),
      loss: older.loss.concat(newer.loss),
      grad_norm: older.grad_norm.concat(newer.grad_norm),
      learning_rate: older.learning_rate.concat(newer.learning_rate),
      total_points: total,
    };
  }
  const merged: Curve = {
    trial_id: newer.trial_id,
    step: [],
    samples: [],
    loss: [],
    grad_norm: [],
    learning_rate: [],
    total_points: total,
  };
  let i = 0;
  let j = 0;
  while (i < older.step.length || j < newer.step.length) {
    const a = older.step[i] ?? Infinity;
    const b = newer.step[j] ?? Infinity;
    const [from, at] = b <= a ? [newer, j] : [older, i];
    merged.step.push(from.step[at]!);
    merged.samples.push(from.samples[at]!);
    merged.loss.push(from.loss[at] ?? null);
    merged.grad_norm.push(from.grad_norm[at] ?? null);
    merged.learning_rate.push(from.learning_rate[at]!);
    if (a <= b) i++;
    if (b <= a) j++;
  }
  return merged;
}

export function mergeCurves(
  older: ReadonlyMap<string, Curve>,
  newer: Iterable<Curve>,
): ReadonlyMap<string, Curve> {
  const merged = new Map(older);
  for (const curve of newer) merged.set(curve.trial_id, mergeCurve(merged.get(curve.trial_id), curve));
  return merged;
}

/** Adds points; one of the same trial, split, set and step is replaced. Ordered by samples seen. */
export function mergeEvaluations(
  older: readonly EvaluationPoint[],
  newer: readonly EvaluationPoint[],
): readonly EvaluationPoint[] {
  if (newer.length === 0) return older;
  const key = (p: EvaluationPoint) => `${p.trial_id}\0${p.split}\0${p.dataset}\0${p.step}`;
  const byKey = new Map(older.map((p) => [key(p), p]));
  for (const point of newer) byKey.set(key(point), point);
  return [...byKey.values()].sort((a, b) => a.samples - b.samples);
}

/** A trial's quality over its eval sets, combined as the server does: see `heldOut`. */
export interface HeldOutPoint {
  step: number;
  samples: number;
  loss: number | null;
  exact_match: number | null;
}

/** A trial went on from an earlier step: what it had computed beyond that counts no more. */
export function rewindCurve(curve: Curve, step: number): Curve {
  const kept = curve.step.findLastIndex((s) => s <= step) + 1;
  const cut = <T>(column: T[]) => column.slice(0, kept);
  return {
    trial_id: curve.trial_id,
    step: cut(curve.step),
    samples: cut(curve.samples),
    loss: cut(curve.loss),
    grad_norm: cut(curve.grad_norm),
    learning_rate: cut(curve.learning_rate),
    total_points: kept,
  };
}

/**
 * Held-out points of each trial on `eval`, by rising samples. Loss is weighted by target tokens,
 * exact match by generated samples; one set with a loss that wasn't finite leaves none.
 */
export function heldOut(
  evaluations: readonly EvaluationPoint[],
): ReadonlyMap<string, readonly HeldOutPoint[]> {
  const byTrial = new Map<string, Map<number, EvaluationPoint[]>>();
  for (const point of evaluations) {
    if (point.split !== "eval") continue;
    const steps = byTrial.get(point.trial_id) ?? new Map<number, EvaluationPoint[]>();
    steps.set(point.step, [...(steps.get(point.step) ?? []), point]);
    byTrial.set(point.trial_id, steps);
  }
  const result = new Map<string, readonly HeldOutPoint[]>();
  for (const [trial, steps] of byTrial) {
    const points = [...steps.entries()].map(([step, sets]) => ({
      step,
      samples: sets[0]!.samples,
      loss: weightedLoss(sets),
      exact_match: shareExact(sets),
    }));
    result.set(trial, points.sort((a, b) => a.samples - b.samples));
  }
  return result;
}

function weightedLoss(sets: readonly EvaluationPoint[]): number | null {
  let sum = 0;
  let tokens = 0;
  for (const set of sets) {
    if (set.loss === null) return null;
    sum += set.loss * set.tokens;
    tokens += set.tokens;
  }
  return tokens > 0 ? sum / tokens : null;
}

function shareExact(sets: readonly EvaluationPoint[]): number | null {
  let right = 0;
  let generated = 0;
  for (const set of sets) {
    if (set.exact_match === null || set.generated === 0) continue;
    right += set.exact_match * set.generated;
    generated += set.generated;
  }
  return generated > 0 ? right / generated : null;
}
