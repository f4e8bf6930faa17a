import { expect, test } from "vitest";
import * as format from "./format";

test("numbers keep the digits that matter", () => {
  expect(format.number(1.23456)).toBe("1.235");
  expect(format.number(0.000123456)).toBe("1.23e-4");
  expect(format.number(123456)).toBe("1.23e5");
  expect(format.number(null)).toBe("–");
  expect(format.number(Infinity)).toBe("–");
});

test("values of any kind are shown without padding", () => {
  expect([0.05, 1234, 2.5, -0.0021, true, "cosine", null].map(format.value)).toEqual([
    "0.05",
    "1,234",
    "2.5",
    "-0.0021",
    "yes",
    "cosine",
    "–",
  ]);
});

test("losses line up in a column", () => {
  expect([2, 1.5, 0.12345].map(format.loss)).toEqual(["2.000", "1.500", "0.123"]);
});

test("learning rates are short", () => {
  expect(format.rate(2e-5)).toBe("2e-5");
  expect(format.rate(3.14e-4)).toBe("3.1e-4");
});

test("durations read like speech", () => {
  expect([8, 92, 1500, 7500, 300_000].map(format.duration)).toEqual([
    "8 s",
    "1 min 32 s",
    "25 min",
    "2 h 05 min",
    "3 d 11 h",
  ]);
});

test("times are told from now", () => {
  const now = Date.parse("2026-01-01T12:00:00Z");
  expect(format.ago("2026-01-01T11:59:30Z", now)).toBe("just now");
  expect(format.ago("2026-01-01T11:48:00Z", now)).toBe("12 min ago");
  expect(format.ago(null, now)).toBe("–");
});

test("the server's reasons become sentences", () => {
  expect(format.sentence("its loss was not finite at step 3")).toBe("Its loss was not finite at step 3.");
  expect(format.sentence("")).toBe("");
});
