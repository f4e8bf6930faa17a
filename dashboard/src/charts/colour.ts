/** Colours of curves: by learning rate on a sequential ramp, or by state. Pure. */

import type { Trial } from "../api/types";
import { numberParam } from "../state/order";

export type Theme = "light" | "dark";
export type ColourBy = "rate" | "state";

/** Low to high. Every stop keeps a contrast of 3:1 or more with its theme's panel. */
const RAMPS: Record<Theme, readonly string[]> = {
  light: ["#2743b8", "#6a3fc4", "#a833b0", "#d03a7e", "#dd5a3c", "#b87708"],
  dark: ["#6f8dff", "#a284ff", "#d977ea", "#ff7fa8", "#ff9a6b", "#f5c95a"],
};

export const STATE_COLOURS: Record<Theme, Record<string, string>> = {
  light: {
    RUNNING: "#2563eb",
    COMPLETED: "#15803d",
    PAUSED: "#8a6100",
    PRUNED: "#7c8594",
    FAILED: "#c92a2a",
    CANCELED: "#7c8594",
    PENDING: "#7c8594",
    diverged: "#c92a2a",
  },
  dark: {
    RUNNING: "#6ea8fe",
    COMPLETED: "#51cf80",
    PAUSED: "#e9b949",
    PRUNED: "#8b93a3",
    FAILED: "#ff7b7b",
    CANCELED: "#8b93a3",
    PENDING: "#8b93a3",
    diverged: "#ff7b7b",
  },
};

export interface RateScale {
  min: number;
  max: number;
  /** CSS gradient of the whole ramp, for the legend. */
  gradient: string;
  /** Position of a rate on the ramp, 0 to 1, on a logarithmic scale. */
  position(rate: number): number;
}

/** The ramp over the rates of these trials; null if none has one. */
export function rateScale(trials: readonly Trial[], theme: Theme): RateScale | null {
  const rates = trials
    .map((t) => numberParam(t, "learning_rate"))
    .filter((r): r is number => r !== null && r > 0);
  if (rates.length === 0) return null;
  const min = Math.min(...rates);
  const max = Math.max(...rates);
  const span = Math.log(max / min);
  return {
    min,
    max,
    gradient: `linear-gradient(90deg, ${RAMPS[theme].join(", ")})`,
    position: (rate) => (span > 0 ? Math.log(rate / min) / span : 0.5),
  };
}

export function trialColour(trial: Trial, by: ColourBy, scale: RateScale | null, theme: Theme): string {
  if (by === "state") {
    const key = trial.reason === "diverged" ? "diverged" : trial.state;
    return STATE_COLOURS[theme][key]!;
  }
  const rate = numberParam(trial, "learning_rate");
  return rate !== null && scale !== null
    ? onRamp(RAMPS[theme], scale.position(rate))
    : STATE_COLOURS[theme].PENDING!;
}

/** Linear interpolation between the ramp's stops, as #rrggbb. */
export function onRamp(ramp: readonly string[], position: number): string {
  const at = Math.min(Math.max(position, 0), 1) * (ramp.length - 1);
  const low = Math.min(Math.floor(at), ramp.length - 2);
  const mix = at - low;
  const a = channels(ramp[low]!);
  const b = channels(ramp[low + 1]!);
  return `#${a
    .map((v, i) => Math.round(v + (b[i]! - v) * mix))
    .map((v) => v.toString(16).padStart(2, "0"))
    .join("")}`;
}

function channels(hex: string): number[] {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}
