/** What a chart draws, and the arithmetic on it: smoothing, axis ranges, nearest curve. Pure. */

import type { EndMark } from "../state/derive";

export interface Line {
  id: string;
  name: string;
  colour: string;
  xs: readonly number[];
  ys: readonly (number | null)[];
  /** Unsmoothed values, drawn faintly under a highlighted line. */
  raw?: readonly (number | null)[];
  mark: EndMark | null;
  /** Where the trial ended: the mark's place if its last values weren't finite. */
  endX: number;
  /** Ended early: drawn thinner, so that the trials still in the race stand out. */
  quiet: boolean;
}

export type Range = readonly [number, number];

/**
 * Exponential moving average over samples seen, so that trials with different batch sizes are
 * smoothed alike. `span` is the time constant in samples; the start is corrected for bias.
 */
export function smooth(
  xs: readonly number[],
  ys: readonly (number | null)[],
  span: number,
): (number | null)[] {
  let mean = 0;
  let weight = 0;
  let last: number | null = null;
  return ys.map((y, i) => {
    if (y === null) return null;
    const x = xs[i]!;
    const keep = last === null ? 0 : Math.exp(-(x - last) / span);
    last = x;
    mean = keep * mean + (1 - keep) * y;
    weight = keep * weight + (1 - keep);
    return mean / weight;
  });
}

/** The x axis over all lines; a logarithmic one starts at the first positive sample count. */
export function xRange(lines: readonly Line[], log: boolean, total: number): Range {
  let min = Infinity;
  let max = -Infinity;
  for (const line of lines) {
    for (const x of line.xs) {
      if (log && x <= 0) continue;
      if (x < min) min = x;
      if (x > max) max = x;
    }
  }
  if (max === -Infinity) return log ? [1, Math.max(total, 10)] : [0, Math.max(total, 1)];
  // A little room on the right, so that the last point of a full run stays whole.
  const end = Math.max(max, total);
  return log ? [min, Math.max(end * 1.03, min * 10)] : [0, end * 1.012];
}

/**
 * The y axis for what is visible. A diverging curve would flatten all others, so the axis follows
 * the bulk: the outermost percent of values may leave a plain axis unless a curve begins or ends
 * there, and diverged trials don't count as long as there are others.
 */
export function yRange(lines: readonly Line[], x: Range, log: boolean, extra: number | null): Range {
  const sound = lines.filter((l) => l.mark !== "diverged");
  let values = visible(sound, x, log);
  if (values.length === 0) values = visible(lines, x, log);
  if (extra !== null && (!log || extra > 0)) values.push(extra);
  if (values.length === 0) return log ? [0.1, 10] : [0, 1];
  values.sort((a, b) => a - b);
  const cut = log ? 0 : Math.floor(values.length * 0.01);
  let low = values[cut]!;
  let high = values[values.length - 1 - cut]!;
  const reach = high - low;
  for (const end of ends(sound, x, log)) {
    if (end > high && end - high < reach) high = end;
    if (end < low && low - end < reach) low = end;
  }
  if (log) {
    const pad = Math.max((high / low) ** 0.06, 1.08);
    return [low / pad, high * pad];
  }
  const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low >= 0 ? Math.max(low - pad, 0) : low - pad, high + pad];
}

function visible(lines: readonly Line[], [from, to]: Range, log: boolean): number[] {
  const values: number[] = [];
  for (const line of lines) {
    for (let i = 0; i < line.xs.length; i++) {
      const x = line.xs[i]!;
      const y = line.ys[i];
      if (x >= from && x <= to && y !== null && y !== undefined && (!log || y > 0)) values.push(y);
    }
  }
  return values;
}

/** First and last visible value of each line. */
function ends(lines: readonly Line[], x: Range, log: boolean): number[] {
  return lines.flatMap((line) => {
    const values = visible([line], x, log);
    return values.length ? [values[0]!, values[values.length - 1]!] : [];
  });
}

/**
 * Where a logarithmic axis is labelled: powers of ten, with 2 and 5 between them while there are
 * few enough, and steps of a plain axis if it spans less than half a decade.
 */
export function logSplits([from, to]: Range, most: number): number[] {
  for (const digits of [[1, 1.5, 2, 3, 4, 5, 6, 8], [1, 2, 5], [1, 3], [1]]) {
    const splits: number[] = [];
    for (let power = Math.floor(Math.log10(from)); power <= Math.ceil(Math.log10(to)); power++) {
      for (const digit of digits) {
        const value = Number(`${digit}e${power}`);
        if (value >= from && value <= to) splits.push(value);
      }
    }
    if (splits.length <= most) return splits;
  }
  const every = Math.ceil(Math.log10(to / from) / most);
  const first = Math.ceil(Math.log10(from));
  return Array.from({ length: most }, (_, i) => 10 ** (first + i * every)).filter((v) => v <= to);
}

/** Index of the point nearest to `x`; -1 in an empty list. `xs` rises. */
export function nearestIndex(xs: readonly number[], x: number): number {
  let low = 0;
  let high = xs.length - 1;
  if (high < 0) return -1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle]! < x) low = middle;
    else high = middle;
  }
  return x - xs[low]! <= xs[high]! - x ? low : high;
}

export interface Hit {
  line: Line;
  index: number;
}

/**
 * The line closest to a point on screen, within `reach` pixels. `place` turns data into pixels;
 * distances are to segments, so a sparse line can be picked between its points.
 */
export function pick(
  lines: readonly Line[],
  at: { px: number; py: number; x: number },
  place: (x: number, y: number) => [number, number],
  reach: number,
): Hit | null {
  let best: Hit | null = null;
  let bestDistance = reach * reach;
  for (const line of lines) {
    const near = nearestIndex(line.xs, at.x);
    for (let i = Math.max(near - 1, 0); i <= Math.min(near + 1, line.xs.length - 1); i++) {
      const y = line.ys[i];
      if (y === null || y === undefined) continue;
      const a = place(line.xs[i]!, y);
      const nextY = line.ys[i + 1];
      const b = nextY === null || nextY === undefined ? a : place(line.xs[i + 1]!, nextY);
      const distance = segmentDistance(at.px, at.py, a, b);
      if (distance < bestDistance) {
        bestDistance = distance;
        best = { line, index: near };
      }
    }
  }
  return best;
}

/** Squared distance of a point from a segment, in pixels. */
function segmentDistance(px: number, py: number, a: [number, number], b: [number, number]): number {
  const dx = b[0] - a[0];
  const dy = b[1] - a[1];
  const length = dx * dx + dy * dy;
  const t = length === 0 ? 0 : Math.min(1, Math.max(0, ((px - a[0]) * dx + (py - a[1]) * dy) / length));
  return (px - a[0] - t * dx) ** 2 + (py - a[1] - t * dy) ** 2;
}
