import { expect, test } from "vitest";
import { logSplits, pick, smooth, xRange, yRange, type Line } from "./lines";
import { onRamp } from "./colour";

test("a diverging curve doesn't flatten the others", () => {
  const sound = line({ ys: [3, 2, 1] });
  const wild = line({ id: "wild", ys: [3, 400, 90_000], mark: "diverged" });
  const [low, high] = yRange([sound, wild], [0, 100], false, null);
  expect(high).toBeLessThan(4);
  expect(low).toBeGreaterThan(0);
});

test("where only diverged trials exist, they are shown", () => {
  const [, high] = yRange([line({ ys: [3, 50], mark: "diverged" })], [0, 100], false, null);
  expect(high).toBeGreaterThan(40);
});

test("the axis reaches to a full run, and a logarithmic one never to zero", () => {
  const lines = [line({ xs: [0, 8, 16], ys: [1, 1, 1] })];
  expect(xRange(lines, false, 1000)[1]).toBeGreaterThanOrEqual(1000);
  expect(xRange(lines, true, 1000)[0]).toBe(8);
});

test("smoothing keeps gaps and the first value, and follows samples, not steps", () => {
  expect(smooth([10, 20, 30], [4, null, 2], 1e-9)).toEqual([4, null, 2]);
  const dense = smooth([10, 15, 20], [0, 0, 1], 10).at(-1)!;
  const sparse = smooth([10, 20], [0, 1], 10).at(-1)!;
  expect(dense).toBeGreaterThan(0.3);
  expect(Math.abs(dense - sparse)).toBeLessThan(0.3);
});

test("logarithmic axes are labelled with round numbers", () => {
  expect(logSplits([0.3, 4], 7)).toEqual([0.5, 1, 2]);
  expect(logSplits([1, 1e6], 7)).toEqual([1, 10, 100, 1000, 10_000, 100_000, 1_000_000]);
  expect(logSplits([1, 1e12], 6).length).toBeLessThanOrEqual(6);
});

test("the nearest curve is picked, between its points too, and none from afar", () => {
  const lines = [line({ ys: [0, 0, 0] }), line({ id: "b", ys: [50, 50, 50] })];
  const place = (x: number, y: number): [number, number] => [x, y];
  expect(pick(lines, { px: 15, py: 45, x: 15 }, place, 20)!.line.id).toBe("b");
  expect(pick(lines, { px: 15, py: 25, x: 15 }, place, 20)).toBeNull();
});

test("a ramp runs from its first to its last colour", () => {
  expect(onRamp(["#000000", "#ffffff"], 0)).toBe("#000000");
  expect(onRamp(["#000000", "#ffffff"], 0.5)).toBe("#808080");
  expect(onRamp(["#000000", "#ffffff"], 7)).toBe("#ffffff");
});

function line(values: Partial<Line>): Line {
  return {
    id: "a",
    name: "Trial 1",
    colour: "#000000",
    xs: [10, 20, 30],
    ys: [1, 1, 1],
    mark: null,
    endX: 30,
    quiet: false,
    ...values,
  };
}
