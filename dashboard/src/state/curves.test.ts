import { expect, test } from "vitest";
import type { Curve, EvaluationPoint } from "../api/types";
import { heldOut, mergeCurve, mergeEvaluations, rewindCurve } from "./curves";

test("points that follow are appended", () => {
  const merged = mergeCurve(curve([1, 2]), curve([3, 4]));
  expect(merged.step).toEqual([1, 2, 3, 4]);
  expect(merged.samples).toEqual([8, 16, 24, 32]);
});

test("overlapping points are merged by step, and the newer value wins", () => {
  const merged = mergeCurve(curve([1, 2, 4, 6], 9), curve([2, 3, 4, 5], 1));
  expect(merged.step).toEqual([1, 2, 3, 4, 5, 6]);
  expect(merged.loss).toEqual([9, 1, 1, 1, 1, 9]);
});

test("points older than all that is known are put in front", () => {
  expect(mergeCurve(curve([5, 6]), curve([1, 2])).step).toEqual([1, 2, 5, 6]);
});

test("a merge with nothing changes nothing", () => {
  expect(mergeCurve(undefined, curve([1])).step).toEqual([1]);
  expect(mergeCurve(curve([1]), curve([])).step).toEqual([1]);
});

test("a loss that wasn't finite stays a gap", () => {
  const broken = { ...curve([2]), loss: [null] };
  expect(mergeCurve(curve([1], 3), broken).loss).toEqual([3, null]);
});

test("a rewound curve ends at the step that the new attempt goes on from", () => {
  expect(rewindCurve(curve([1, 2, 3, 4]), 2).step).toEqual([1, 2]);
  expect(rewindCurve(curve([1, 2]), 0).samples).toEqual([]);
});

test("an evaluation made again replaces the first", () => {
  const points = mergeEvaluations([evaluation({ loss: 2 })], [evaluation({ loss: 1 })]);
  expect(points.map((p) => p.loss)).toEqual([1]);
});

test("held-out loss weighs sets by their tokens, exact match by generated samples", () => {
  const points = heldOut([
    evaluation({ dataset: "a", loss: 1, tokens: 300, exact_match: 1, generated: 10 }),
    evaluation({ dataset: "b", loss: 2, tokens: 100, exact_match: 0, generated: 30 }),
    evaluation({ dataset: "c", split: "test", loss: 50 }),
  ]);
  expect(points.get("t")).toEqual([{ step: 4, samples: 32, loss: 1.25, exact_match: 0.25 }]);
});

test("one set without a finite loss leaves no mean", () => {
  const points = heldOut([evaluation({ dataset: "a" }), evaluation({ dataset: "b", loss: null })]);
  expect(points.get("t")![0]!.loss).toBeNull();
});

function curve(steps: number[], loss = 2): Curve {
  return {
    trial_id: "t",
    step: steps,
    samples: steps.map((s) => s * 8),
    loss: steps.map(() => loss),
    grad_norm: steps.map(() => 1),
    learning_rate: steps.map(() => 1e-3),
    total_points: steps.length,
  };
}

function evaluation(values: Partial<EvaluationPoint>): EvaluationPoint {
  return {
    trial_id: "t",
    step: 4,
    samples: 32,
    split: "eval",
    dataset: "a",
    loss: 2,
    exact_match: null,
    tokens: 100,
    generated: 0,
    ...values,
  };
}
