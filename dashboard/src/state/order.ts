/** The leaderboard's columns and their order. Pure. */

import type { Trial, TrialState } from "../api/types";
import { fraction, score, type Goal } from "./derive";

export const SORT_KEYS = [
  "score",
  "number",
  "rate",
  "batch",
  "schedule",
  "state",
  "progress",
  "loss",
  "norm",
  "heldout",
  "match",
] as const;

export type SortKey = (typeof SORT_KEYS)[number];

export interface Sort {
  key: SortKey;
  descending: boolean;
}

const STATE_RANK: Record<TrialState, number> = {
  RUNNING: 0,
  PAUSED: 1,
  PENDING: 2,
  COMPLETED: 3,
  PRUNED: 4,
  FAILED: 5,
  CANCELED: 6,
};

/** Trials in order; those without the value come last either way, by number. */
export function orderTrials(trials: readonly Trial[], sort: Sort, by: Goal): Trial[] {
  const sign = sort.descending ? -1 : 1;
  return [...trials].sort((a, b) => {
    const x = column(a, sort.key, by);
    const y = column(b, sort.key, by);
    if (x === null || y === null) return Number(x === null) - Number(y === null) || a.number - b.number;
    const order =
      typeof x === "string" || typeof y === "string"
        ? String(x).localeCompare(String(y))
        : sort.key === "score"
          ? by.better(x, y)
          : x - y;
    return sign * order || a.number - b.number;
  });
}

/** `score,desc` and back, for the address bar. */
export function parseSort(text: string | null): Sort {
  const [key, direction] = (text ?? "").split(",");
  return SORT_KEYS.includes(key as SortKey)
    ? { key: key as SortKey, descending: direction === "desc" }
    : { key: "score", descending: false };
}

export function printSort(sort: Sort): string | null {
  if (sort.key === "score" && !sort.descending) return null;
  return sort.descending ? `${sort.key},desc` : sort.key;
}

function column(trial: Trial, key: SortKey, by: Goal): number | string | null {
  switch (key) {
    case "score":
      return trial.reason === "diverged" ? null : score(trial, by);
    case "number":
      return trial.number;
    case "rate":
      return numberParam(trial, "learning_rate");
    case "batch":
      return numberParam(trial, "effective_batch_size");
    case "schedule":
      return (trial.params.schedule as string | undefined) ?? null;
    case "state":
      return STATE_RANK[trial.state];
    case "progress":
      return fraction(trial);
    case "loss":
      return trial.loss;
    case "norm":
      return trial.grad_norm;
    case "heldout":
      return trial.eval_loss;
    case "match":
      return trial.exact_match;
  }
}

export function numberParam(trial: Trial, name: string): number | null {
  const value = trial.params[name];
  return typeof value === "number" ? value : null;
}
