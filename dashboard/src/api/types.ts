/** The API's values. Mirrors `winnow/types.py`, field by field; a test compares the two. */

export type SweepState = "QUEUED" | "RUNNING" | "PAUSED" | "COMPLETED" | "FAILED" | "CANCELED";

export type TrialState =
  | "PENDING"
  | "RUNNING"
  | "PAUSED"
  | "COMPLETED"
  | "PRUNED"
  | "FAILED"
  | "CANCELED";

export type TrialKind = "search" | "baseline" | "report";

export type Split = "eval" | "test" | "general" | "lm_eval" | "judge";

export interface Page<T> {
  items: T[];
  next: string | null;
}

export interface Scores {
  loss: number | null;
  exact_match: number | null;
  scores?: Record<string, number>;
}

export interface Trial {
  id: string;
  sweep_id: string;
  number: number;
  kind: TrialKind;
  state: TrialState;
  reason: string | null;
  message: string | null;
  params: Record<string, unknown>;
  attempt: number;
  step: number;
  total_steps: number;
  samples: number;
  total_samples: number;
  loss: number | null;
  grad_norm: number | null;
  eval_loss: number | null;
  exact_match: number | null;
  value: number | null;
  also?: Record<string, number | null>;
  seconds: number;
  checkpoint: string | null;
  pinned?: boolean;
  parent?: string | null;
  reused_from?: string | null;
  why_pending?: string | null;
  created_at: string;
  started_at: string | null;
  ended_at: string | null;
}

export interface SweepSummary {
  trials: number;
  planned: number;
  by_state: Partial<Record<TrialState, number>>;
  samples_trained: number;
  samples_full: number;
  seconds: number;
  best_trial: string | null;
  best_value: number | null;
  front?: string[];
  baseline: Record<string, Scores>;
  winner: Record<string, Scores>;
}

export interface Spending {
  what: "trials" | "hours" | "gpu_hours" | "cost";
  used: number;
  limit: number | null;
  projected: number | null;
}

export type CommandKind =
  | "stop"
  | "pause"
  | "resume"
  | "revive"
  | "pin"
  | "unpin"
  | "clone"
  | "cancel"
  | "add"
  | "extend"
  | "narrow"
  | "set";

export interface Command {
  id: number;
  sweep_id: string;
  trial_id: string | null;
  kind: CommandKind;
  payload?: Record<string, unknown> | null;
  issued_by: string;
  result: string | null;
  created_at: string;
  finished_at: string | null;
}

export interface Sweep {
  id: string;
  name: string;
  project?: string;
  state: SweepState;
  message: string | null;
  spec: Record<string, unknown>;
  facts?: Record<string, unknown>;
  summary: SweepSummary;
  scheduler_summary?: Record<string, unknown> | null;
  priority?: number;
  weight?: number;
  max_concurrent?: number | null;
  slots?: number | null;
  why_pending?: string | null;
  budget?: Spending[];
  created_at: string;
  started_at: string | null;
  ended_at: string | null;
}

export interface Curve {
  trial_id: string;
  step: number[];
  samples: number[];
  loss: (number | null)[];
  grad_norm: (number | null)[];
  learning_rate: number[];
  total_points: number;
  x?: number[] | null;
  details?: Record<string, (number | null)[]> | null;
}

export interface EvaluationPoint {
  trial_id: string;
  step: number;
  samples: number;
  split: Split;
  dataset: string;
  loss: number | null;
  exact_match: number | null;
  tokens: number;
  generated: number;
  scores?: Record<string, number>;
}

export interface Metrics {
  curves: Curve[];
  evaluations: EvaluationPoint[];
  next?: string | null;
}

export type Action = "continue" | "pause" | "resume" | "stop";

export interface Decision {
  id: number;
  trial_id: string;
  trial_number: number;
  action: Action;
  rule: string;
  reason: string;
  code: string;
  samples: number;
  evidence: Record<string, unknown>;
  acted: boolean;
  created_at: string;
}

export interface Event {
  id: number;
  sweep_id: string;
  trial_id: string | null;
  type: string;
  data: Record<string, unknown>;
  created_at: string;
}

export interface FieldError {
  pointer: string;
  message: string;
}

export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  errors: FieldError[];
  request_id: string | null;
}

export interface Health {
  status: "ok" | "degraded";
  version: string;
  database: "ok" | "unreachable";
  orchestrator: "ok" | "silent";
  cluster: Record<string, number>;
}

/** A browser that is signed in. */
export interface Session {
  /** The token's name. */
  name: string;
  token_id: number;
  scopes: ("read" | "submit" | "control" | "admin")[];
  /** The only project that it sees; null: all of them. */
  project: string | null;
  expires_at: string;
  /** What changes carry as `X-CSRF-Token`. */
  csrf: string;
}
