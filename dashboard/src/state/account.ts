/** What a scheduler says of its evidence, read from JSON that differs from rule to rule. Pure. */

import type { Sweep } from "../api/types";

/** A number with the interval it was told with. */
export interface Estimate {
  value: number;
  low: number | null;
  high: number | null;
}

export interface Account {
  risk: { announced: number; taken: number | null } | null;
  /** What norm and loss weigh beside the held-out loss, which weighs 1. */
  weight: Estimate | null;
  /** Correlation between places at the first rung and at the end. */
  persistence: Estimate | null;
  guard: { fired: boolean; text: string } | null;
  audit: Audit | null;
  /** Positive: it agrees with the paper. Null while too few trials have ended. */
  sign: { text: string; partial: Estimate | null } | null;
  transfer: { sweeps: number; weight: number | null } | null;
}

export interface Audit {
  stops: number;
  needed: number;
  /** Null while there are not enough of them. */
  rate: Estimate | null;
  falseStops: number | null;
}

/** Null if the scheduler has said nothing yet, or has nothing to say. */
export function readAccount(sweep: Sweep): Account | null {
  const said = sweep.scheduler_summary;
  if (!said) return null;
  const account = {
    risk: risk(said),
    weight: estimate(part(said, "weights"), "norm_and_loss"),
    persistence: estimate(part(said, "persistence"), "mean"),
    guard: guard(part(said, "guard")),
    audit: audit(part(said, "audit")),
    sign: sign(part(said, "paper_sign")),
    transfer: transfer(part(said, "transfer")),
  };
  return Object.values(account).some((found) => found !== null) ? account : null;
}

type Part = Record<string, unknown>;

function risk(said: Part): Account["risk"] {
  const announced = num(said.announced_risk);
  return announced === null ? null : { announced, taken: num(said.risk_taken) };
}

function guard(found: Part): Account["guard"] {
  if (found.state !== "open" && found.state !== "fired") return null;
  return { fired: found.state === "fired", text: text(found.text) };
}

function audit(found: Part): Audit | null {
  const stops = num(found.audited_stops);
  const needed = num(found.needed);
  if (stops === null || needed === null) return null;
  return { stops, needed, rate: estimate(found, "rate"), falseStops: num(found.false_stops) };
}

function sign(found: Part): Account["sign"] {
  const words = text(found.text);
  return words === "" ? null : { text: words, partial: estimate(found, "partial") };
}

function transfer(found: Part): Account["transfer"] {
  const sweeps = num(found.sweeps);
  return sweeps === null ? null : { sweeps, weight: num(found.weight) };
}

function estimate(found: Part, name: string): Estimate | null {
  const value = num(found[name]);
  if (value === null) return null;
  const interval = Array.isArray(found.interval) ? found.interval : [];
  return { value, low: num(interval[0]), high: num(interval[1]) };
}

function part(said: Part, name: string): Part {
  const found = said[name];
  return typeof found === "object" && found !== null && !Array.isArray(found) ? (found as Part) : {};
}

function num(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}
