/** States and reasons as small labels: a dot or shape and a word, never colour alone. */

import type { SweepState, Trial, TrialState } from "../api/types";

const SWEEP_WORDS: Record<SweepState, string> = {
  QUEUED: "Queued",
  RUNNING: "Running",
  PAUSED: "Paused",
  COMPLETED: "Completed",
  FAILED: "Failed",
  CANCELED: "Canceled",
};

const TRIAL_WORDS: Record<TrialState, string> = {
  PENDING: "Pending",
  RUNNING: "Running",
  PAUSED: "Paused",
  COMPLETED: "Completed",
  PRUNED: "Stopped",
  FAILED: "Failed",
  CANCELED: "Canceled",
};

const REASON_WORDS: Record<string, string> = {
  dynamics: "dynamics",
  asha: "ASHA",
  "paper-sign": "paper’s sign",
  diverged: "diverged",
  oom: "out of memory",
  user: "by a user",
  sweep: "sweep ended",
  error: "error",
  budget: "budget",
  infrastructure: "infrastructure",
  preempted: "preempted",
};

export function SweepBadge({ state }: { state: SweepState }) {
  return <Badge tone={state.toLowerCase()} text={SWEEP_WORDS[state]} />;
}

export function TrialBadge({ trial }: { trial: Trial }) {
  const tone = trial.reason === "diverged" ? "diverged" : trial.state.toLowerCase();
  const reason = trial.state === "COMPLETED" || !trial.reason ? null : reasonWord(trial.reason);
  return (
    <Badge
      tone={tone}
      text={TRIAL_WORDS[trial.state]}
      detail={reason}
      title={trial.message ?? undefined}
    />
  );
}

export function reasonWord(code: string): string {
  return REASON_WORDS[code] ?? code;
}

function Badge(props: { tone: string; text: string; detail?: string | null; title?: string | undefined }) {
  return (
    <span className={`badge tone-${props.tone}`} title={props.title}>
      <span className="badge-dot" aria-hidden="true" />
      {props.text}
      {props.detail ? <span className="badge-detail">{props.detail}</span> : null}
    </span>
  );
}
