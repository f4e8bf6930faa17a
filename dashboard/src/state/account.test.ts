/** What the scheduler says of its evidence, whatever rule it is and however much it says. */

import { describe, expect, it } from "vitest";
import type { Sweep } from "../api/types";
import { readAccount } from "./account";

const said = (summary: unknown) => readAccount({ scheduler_summary: summary } as unknown as Sweep);

describe("readAccount", () => {
  it("reads all that dynamics says", () => {
    expect(
      said({
        announced_risk: 0.05,
        risk_taken: 0.01,
        weights: { held_out: 1, norm_and_loss: 0.2, interval: [0.1, 0.3] },
        persistence: { mean: 0.8, interval: [0.5, 0.9] },
        guard: { state: "fired", text: "why" },
        audit: { audited_stops: 9, needed: 8, false_stops: 1, rate: 0.11, interval: [0.02, 0.3] },
        paper_sign: { agrees: null, partial: 0.1, interval: [-0.2, 0.4], text: "unsure" },
        transfer: { sweeps: 2, weight: 0.4 },
      }),
    ).toEqual({
      risk: { announced: 0.05, taken: 0.01 },
      weight: { value: 0.2, low: 0.1, high: 0.3 },
      persistence: { value: 0.8, low: 0.5, high: 0.9 },
      guard: { fired: true, text: "why" },
      audit: { stops: 9, needed: 8, falseStops: 1, rate: { value: 0.11, low: 0.02, high: 0.3 } },
      sign: { text: "unsure", partial: { value: 0.1, low: -0.2, high: 0.4 } },
      transfer: { sweeps: 2, weight: 0.4 },
    });
  });

  it("reads a rule that only counts audits", () => {
    const account = said({ scheduler: "asha", audit: { audited_stops: 1, needed: 8, note: "not enough audits (1)" } });
    expect(account?.audit).toEqual({ stops: 1, needed: 8, rate: null, falseStops: null });
    expect(account?.risk).toBeNull();
  });

  it("says nothing where nothing was said, or nothing that it knows", () => {
    for (const nothing of [null, undefined, {}, { scheduler: "x" }, { guard: 3, weights: [], audit: { rate: "?" } }]) {
      expect(said(nothing)).toBeNull();
    }
  });

  it("keeps a number without its interval", () => {
    expect(said({ weights: { norm_and_loss: 0.2, interval: [null, null] } })?.weight).toEqual({
      value: 0.2,
      low: null,
      high: null,
    });
  });
});
