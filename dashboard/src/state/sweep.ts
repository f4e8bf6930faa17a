/** Everything the page of one sweep shows, as one value, and how messages change it. Pure. */

import type { ApiError } from "../api/client";
import type { StreamMessage } from "../api/stream";
import type { Command, Curve, Decision, EvaluationPoint, Event, Metrics, Sweep, Trial } from "../api/types";
import { commandOf, withCommands } from "./commands";
import { mergeCurves, mergeEvaluations, rewindCurve } from "./curves";

export type Connection =
  | { status: "connecting" }
  | { status: "live" }
  | { status: "lost"; retryAt: number }
  | { status: "ended" };

export interface SweepView {
  sweep: Sweep | null;
  trials: ReadonlyMap<string, Trial>;
  curves: ReadonlyMap<string, Curve>;
  evaluations: readonly EvaluationPoint[];
  decisions: readonly Decision[];
  /** What people asked for, newest first; those without a result wait. */
  commands: readonly Command[];
  /** Metrics were fetched at least once: an empty chart is empty, not loading. */
  metricsLoaded: boolean;
  connection: Connection;
  error: ApiError | null;
}

export type SweepAction =
  | { type: "loaded"; sweep: Sweep; trials: Trial[]; decisions: Decision[]; commands: Command[]; metrics: Metrics }
  | { type: "commands"; commands: Command[] }
  | { type: "decisions"; decisions: Decision[] }
  | { type: "evaluations"; evaluations: EvaluationPoint[] }
  | { type: "messages"; messages: StreamMessage[] }
  | { type: "connection"; connection: Connection }
  | { type: "failed"; error: ApiError };

export const emptyView: SweepView = {
  sweep: null,
  trials: new Map(),
  curves: new Map(),
  evaluations: [],
  decisions: [],
  commands: [],
  metricsLoaded: false,
  connection: { status: "connecting" },
  error: null,
};

export function reduce(view: SweepView, action: SweepAction): SweepView {
  switch (action.type) {
    case "loaded":
      return {
        ...view,
        sweep: action.sweep,
        trials: withTrials(new Map(), action.trials),
        decisions: withDecisions([], action.decisions),
        commands: withCommands([], action.commands),
        curves: mergeCurves(new Map(), action.metrics.curves),
        evaluations: mergeEvaluations([], action.metrics.evaluations),
        metricsLoaded: true,
        error: null,
      };
    case "decisions":
      return { ...view, decisions: withDecisions(view.decisions, action.decisions) };
    case "commands":
      return { ...view, commands: withCommands(view.commands, action.commands) };
    case "evaluations":
      return { ...view, evaluations: mergeEvaluations(view.evaluations, action.evaluations) };
    case "messages":
      return action.messages.reduce(apply, view);
    case "connection":
      return { ...view, connection: action.connection };
    case "failed":
      return { ...view, error: action.error };
  }
}

function apply(view: SweepView, message: StreamMessage): SweepView {
  switch (message.type) {
    case "progress":
      return { ...view, trials: withTrials(view.trials, message.trials) };
    case "sweep":
      return { ...view, sweep: message.sweep };
    case "points":
      return { ...view, curves: mergeCurves(view.curves, message.curves) };
    case "reset":
      return view;
    case "end":
      return { ...view, connection: { status: "ended" } };
    case "event":
      return applyEvent(view, message.event);
  }
}

function applyEvent(view: SweepView, event: Event): SweepView {
  if (event.type === "attempt.started") return rewind(view, event);
  const command = commandOf(event, view.commands);
  return command ? { ...view, commands: withCommands(view.commands, [command]) } : view;
}

/** A new attempt goes on from a checkpoint; the points beyond it come again. */
function rewind(view: SweepView, { trial_id: id, data }: Event): SweepView {
  const trial = id === null ? undefined : view.trials.get(id);
  const { attempt, step } = data;
  if (!trial || typeof attempt !== "number" || typeof step !== "number") return view;
  // An event that is told again, of an attempt whose points are here already.
  if (attempt <= trial.attempt) return view;
  const curve = view.curves.get(trial.id);
  return {
    ...view,
    curves: curve ? new Map(view.curves).set(trial.id, rewindCurve(curve, step)) : view.curves,
    evaluations: view.evaluations.filter((e) => e.trial_id !== trial.id || e.step <= step),
  };
}

function withTrials(trials: ReadonlyMap<string, Trial>, changed: Trial[]): ReadonlyMap<string, Trial> {
  if (changed.length === 0) return trials;
  const next = new Map(trials);
  for (const trial of changed) next.set(trial.id, trial);
  return next;
}

function withDecisions(decisions: readonly Decision[], added: Decision[]): readonly Decision[] {
  const known = new Map(decisions.map((d) => [d.id, d]));
  for (const decision of added) known.set(decision.id, decision);
  return known.size === decisions.length && added.length === 0
    ? decisions
    : [...known.values()].sort((a, b) => b.id - a.id);
}
