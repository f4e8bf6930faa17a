/** What a sweep is judged by, and how it is named. */

import { describe, expect, it } from "vitest";
import type { Sweep, Trial } from "../api/types";
import { figure } from "../format";
import { goal, measured, score } from "./derive";

const sweep = (objective: object) => ({ spec: { objective } }) as unknown as Sweep;
const trial = (values: object) => ({ value: null, eval_loss: 1, exact_match: 0.5, ...values }) as unknown as Trial;

describe("goal", () => {
  it("is held-out loss where nothing else is said", () => {
    expect(goal(null).name).toBe("held-out loss");
    expect(score(trial({}), goal(null))).toBe(1);
  });

  it("orders by the sweep's own direction", () => {
    expect(goal(sweep({ metric: "lm_eval/mmlu/acc", mode: "max" })).better(0.2, 0.4)).toBeGreaterThan(0);
    expect(goal(sweep({ metric: "general/loss", mode: "min" })).better(0.2, 0.4)).toBeLessThan(0);
    expect(goal(sweep({ metric: "eval/exact_match" })).better(0.2, 0.4)).toBeGreaterThan(0);
  });

  it("never takes held-out loss for another objective", () => {
    const by = goal(sweep({ metric: "judge/score", mode: "max" }));
    expect(by.name).toBe("judge score");
    expect(score(trial({}), by)).toBeNull();
    expect(score(trial({ value: 7 }), by)).toBe(7);
  });

  it("finds the base model's figure", () => {
    const none = { loss: null, exact_match: null };
    const scores = {
      general: { ...none, loss: 2 },
      lm_eval: { ...none, scores: { "mmlu/acc,none": 0.25 } },
      judge: { ...none, scores: { "mt_bench/score": 6 } },
    };
    const of = (metric: string) => measured(scores, goal(sweep({ metric, mode: "max" })));
    expect([of("general/loss"), of("lm_eval/mmlu/acc"), of("judge/score"), of("eval/loss")]).toEqual([2, 0.25, 6, null]);
  });
});

describe("figure", () => {
  it("shows shares as per cent and losses as losses", () => {
    expect([figure(0.25, "lm_eval/mmlu/acc"), figure(2, "general/loss"), figure(6.5, "judge/score")]).toEqual([
      "25.0 %",
      "2.000",
      "6.500",
    ]);
  });
});
