import { expect, test } from "vitest";
import type { StreamMessage } from "../api/stream";
import type { Curve, Event, Metrics, Sweep, Trial } from "../api/types";
import { computeSaved, progress, secondsLeft } from "./derive";
import { orderTrials, parseSort, printSort } from "./order";
import { emptyView, reduce, type SweepView } from "./sweep";

const byLoss = { metric: "eval/loss", name: "held-out loss", better: (a: number, b: number) => a - b } as const;

test("streamed points and trials land on what was fetched", () => {
  const view = play(loaded([trial(1, { step: 2 })], [curve("t1", [1, 2])]), [
    { type: "progress", trials: [trial(1, { step: 4 }), trial(2)] },
    { type: "points", curves: [curve("t1", [3, 4])] },
  ]);
  expect(view.curves.get("t1")!.step).toEqual([1, 2, 3, 4]);
  expect([...view.trials.values()].map((t) => t.step)).toEqual([4, 0]);
});

test("fetching anew replaces what was there: superseded points go", () => {
  const before = loaded([trial(1)], [curve("t1", [1, 2, 3, 4, 5])]);
  const after = reduce(before, { type: "loaded", ...fetched([trial(1)], [curve("t1", [1, 2])]) });
  expect(after.curves.get("t1")!.step).toEqual([1, 2]);
});

test("a new attempt drops the points beyond its checkpoint", () => {
  const view = play(loaded([trial(1, { attempt: 1 })], [curve("t1", [1, 2, 3, 4])]), [
    { type: "event", event: attemptStarted(2, 2) },
  ]);
  expect(view.curves.get("t1")!.step).toEqual([1, 2]);
});

test("an old attempt that is told again drops nothing", () => {
  const view = play(loaded([trial(1, { attempt: 2 })], [curve("t1", [1, 2, 3, 4])]), [
    { type: "event", event: attemptStarted(2, 0) },
  ]);
  expect(view.curves.get("t1")!.step).toEqual([1, 2, 3, 4]);
});

test("decisions are shown newest first and each once", () => {
  const decision = (id: number) => ({ id }) as never;
  let view = reduce(emptyView, { type: "decisions", decisions: [decision(1), decision(2)] });
  view = reduce(view, { type: "decisions", decisions: [decision(2), decision(3)] });
  expect(view.decisions.map((d) => d.id)).toEqual([3, 2, 1]);
});

test("what was asked waits until an event tells its result, and a fetched one keeps it", () => {
  const event = (id: number, data: Record<string, unknown>): Event => ({
    id, sweep_id: "s", trial_id: "t1", type: "command", data: { id: 7, kind: "pause", by: "ann", ...data }, created_at: `at ${id}`,
  });
  let view = play(loaded([trial(1)], []), [{ type: "event", event: event(1, {}) }]);
  expect(view.commands.map((c) => [c.kind, c.issued_by, c.result, c.created_at])).toEqual([["pause", "ann", null, "at 1"]]);
  view = play(view, [{ type: "event", event: event(2, { result: "paused" }) }]);
  expect(view.commands.map((c) => [c.result, c.created_at, c.finished_at])).toEqual([["paused", "at 1", "at 2"]]);
  view = play(view, [{ type: "event", event: event(1, {}) }]);
  expect(view.commands[0]!.result).toBe("paused");
});

test("compute saved counts ended trials only", () => {
  const trials = [
    trial(1, { state: "COMPLETED", samples: 100 }),
    trial(2, { state: "PRUNED", samples: 20 }),
    trial(3, { state: "RUNNING", samples: 10 }),
  ];
  expect(computeSaved(trials)).toBeCloseTo(0.4);
  expect(computeSaved([trial(1, { state: "RUNNING" })])).toBeNull();
});

test("time left follows from the pace so far", () => {
  const started = Date.parse("2026-01-01T00:00:00Z");
  const running = sweep({ started_at: "2026-01-01T00:00:00Z" });
  const trials = [trial(1, { state: "COMPLETED" }), trial(2, { samples: 0 })];
  expect(progress(running, trials)).toBe(0.25);
  expect(secondsLeft(running, trials, started + 60_000)).toBeCloseTo(180);
});

test("the leaderboard is best first, and what has no value comes last", () => {
  const trials = [
    trial(1, { eval_loss: null }),
    trial(2, { eval_loss: 1.4 }),
    trial(3, { eval_loss: 1.1 }),
    trial(4, { eval_loss: 0.9, reason: "diverged", state: "PRUNED" }),
  ];
  expect(numbers(orderTrials(trials, parseSort(null), byLoss))).toEqual([3, 2, 1, 4]);
  expect(numbers(orderTrials(trials, { key: "heldout", descending: true }, byLoss))).toEqual([2, 3, 4, 1]);
});

test("a sort order survives the address bar", () => {
  expect(parseSort(printSort({ key: "norm", descending: true }))).toEqual({ key: "norm", descending: true });
  expect(printSort(parseSort("no-such-column"))).toBeNull();
});

function play(view: SweepView, messages: StreamMessage[]): SweepView {
  return reduce(view, { type: "messages", messages });
}

function loaded(trials: Trial[], curves: Curve[]): SweepView {
  return reduce(emptyView, { type: "loaded", ...fetched(trials, curves) });
}

function fetched(trials: Trial[], curves: Curve[]) {
  const metrics: Metrics = { curves, evaluations: [] };
  return { sweep: sweep({}), trials, decisions: [], commands: [], metrics };
}

function attemptStarted(attempt: number, step: number): Event {
  return { id: 9, sweep_id: "s", trial_id: "t1", type: "attempt.started", data: { attempt, step }, created_at: "" };
}

function numbers(trials: Trial[]): number[] {
  return trials.map((t) => t.number);
}

function curve(id: string, steps: number[]): Curve {
  const column = steps.map(() => 1);
  return { trial_id: id, step: steps, samples: steps, loss: column, grad_norm: column, learning_rate: column, total_points: steps.length };
}

function trial(number: number, values: Partial<Trial> = {}): Trial {
  return {
    id: `t${number}`,
    sweep_id: "s",
    number,
    kind: "search",
    state: "RUNNING",
    reason: null,
    message: null,
    params: {},
    attempt: 1,
    step: 0,
    total_steps: 10,
    samples: 0,
    total_samples: 100,
    loss: null,
    grad_norm: null,
    eval_loss: null,
    exact_match: null,
    value: null,
    seconds: 0,
    checkpoint: null,
    created_at: "",
    started_at: null,
    ended_at: null,
    ...values,
  };
}

function sweep(values: Partial<Sweep>): Sweep {
  return {
    id: "s",
    name: "demo",
    state: "RUNNING",
    message: null,
    spec: {},
    summary: {
      trials: 2,
      planned: 4,
      by_state: {},
      samples_trained: 0,
      samples_full: 0,
      seconds: 0,
      best_trial: null,
      best_value: null,
      baseline: {},
      winner: {},
    },
    created_at: "",
    started_at: null,
    ended_at: null,
    ...values,
  };
}
