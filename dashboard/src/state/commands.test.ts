import { expect, test } from "vitest";
import type { Command, Sweep, Trial } from "../api/types";
import { told, trialActions, typed, waiting } from "./commands";

const running = { state: "RUNNING", spec: {} } as Sweep;
const over = { state: "COMPLETED", spec: {} } as Sweep;

test("what can be asked of a trial follows from its state", () => {
  expect(trialActions(trial("RUNNING"), running)).toEqual(["pause", "stop", "pin"]);
  expect(trialActions(trial("PENDING"), running)).toEqual(["pause", "stop", "pin"]);
  expect(trialActions(trial("PAUSED", { pinned: true }), running)).toEqual(["resume", "stop", "unpin"]);
  expect(trialActions(trial("PRUNED"), running)).toEqual(["revive"]);
  expect(trialActions(trial("FAILED"), over)).toEqual(["revive"]);
  expect(trialActions(trial("COMPLETED"), over)).toEqual([]);
  expect(trialActions(trial("RUNNING", { kind: "baseline" }), running)).toEqual(["stop"]);
});

test("the latest command without a result waits, by what it is about", () => {
  const found = waiting([
    command({ id: 4, kind: "extend", trial_id: null, result: "8 trials more" }),
    command({ id: 3, kind: "pin" }),
    command({ id: 2, kind: "pause" }),
    command({ id: 1, kind: "cancel", trial_id: null }),
  ]);
  expect([...found].map(([subject, c]) => [subject, c.kind])).toEqual([["s-7", "pin"], ["s", "cancel"]]);
});

test("a command is told in words", () => {
  expect(told(command({ kind: "stop" }))).toBe("stop trial 7");
  expect(told(command({ kind: "clone", payload: { params: { learning_rate: 2e-5, warmup_steps: 25 } } }))).toBe(
    "clone trial 7 with learning rate 2e-5, warmup steps 25",
  );
  expect(told(command({ kind: "extend", trial_id: null, payload: { trials: 8 } }))).toBe("8 trials more");
  const changes = { priority: 5, max_concurrent: null, budget: { hours: 4, gpu_hours: null } };
  expect(told(command({ kind: "set", trial_id: null, payload: changes }))).toBe(
    "set priority 5, trials at once without limit, budget hours 4",
  );
  const space = { learning_rate: { log_uniform: [1e-5, 1e-4] }, schedule: { choice: ["linear", "cosine"] } };
  expect(told(command({ kind: "narrow", trial_id: null, payload: { space } }))).toBe(
    "narrow the space: learning rate 1e-5 to 1e-4, schedule linear, cosine",
  );
});

test("what is typed becomes what the API takes", () => {
  expect(["2e-5", "16", "cosine", "true", "null", " 3 ", "1_000", ".5"].map(typed)).toEqual([
    2e-5, 16, "cosine", true, null, 3, "1_000", 0.5,
  ]);
});

function trial(state: Trial["state"], values: Partial<Trial> = {}): Trial {
  return { id: "s-7", kind: "search", state, ...values } as Trial;
}

function command(values: Partial<Command>): Command {
  return { id: 1, sweep_id: "s", trial_id: "s-7", kind: "stop", issued_by: "ann", result: null, created_at: "", finished_at: null, ...values };
}
