/** Values as people read them. An absent value is an en dash. */

export const ABSENT = "–";

/** A loss or norm: four significant figures, plain digits where that is short enough. */
export function number(value: number | null | undefined, digits = 4): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return ABSENT;
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e5 || size < 1e-3)) return exponent(value, Math.max(digits - 2, 0));
  if (size >= 1000) return value.toLocaleString("en-US", { maximumFractionDigits: 0 });
  return size === 0 ? "0" : value.toPrecision(digits);
}

/** A loss or norm to three decimals, so that a column of them can be compared by eye. */
export function loss(value: number | null | undefined): string {
  if (value === null || value === undefined) return ABSENT;
  return Math.abs(value) < 1000 ? value.toFixed(3) : number(value, 3);
}

/** A learning rate: 2e-5, 3.1e-4. */
export function rate(value: number | null | undefined): string {
  return value === null || value === undefined ? ABSENT : exponent(value, 1);
}

/** 0.4213 → 42.1 %. */
export function percent(value: number | null | undefined, digits = 1): string {
  return value === null || value === undefined ? ABSENT : `${(value * 100).toFixed(digits)} %`;
}

/** A figure under the name of what it measures: a share as per cent, a loss as a loss. */
export function figure(figure: number | null | undefined, name: string): string {
  const last = (name.split("/").pop() ?? "").split(",")[0];
  if (last === "loss") return loss(figure);
  return ["exact_match", "acc", "acc_norm"].includes(last ?? "") ? percent(figure) : number(figure);
}

export function count(value: number | null | undefined): string {
  return value === null || value === undefined ? ABSENT : value.toLocaleString("en-US");
}

/** 1,234 → 1.2k: for axes and tight cells. */
export function short(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6) return `${trim(value / 1e6)}M`;
  if (size >= 1e3) return `${trim(value / 1e3)}k`;
  return trim(value);
}

/** Seconds → 8 s, 3 min, 2 h 05 min, 4 d 3 h. */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined) return ABSENT;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 60) return whole < 600 ? `${Math.floor(whole / 60)} min ${whole % 60} s` : `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** How long ago a time was: just now, 4 min ago, 3 h ago, 12 Nov. */
export function ago(iso: string | null, now: number): string {
  if (!iso) return ABSENT;
  const seconds = (now - Date.parse(iso)) / 1000;
  if (seconds < 45) return "just now";
  if (seconds < 3600) return `${Math.max(1, Math.round(seconds / 60))} min ago`;
  if (seconds < 86_400) return `${Math.round(seconds / 3600)} h ago`;
  return new Date(iso).toLocaleDateString("en-GB", { day: "numeric", month: "short" });
}

/** Any JSON value on one line. */
export function value(anything: unknown): string {
  if (anything === null || anything === undefined) return ABSENT;
  if (typeof anything === "number") {
    if (Number.isInteger(anything) && Math.abs(anything) < 1e7) return count(anything);
    return number(anything).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
  }
  if (typeof anything === "boolean") return anything ? "yes" : "no";
  if (typeof anything === "string") return anything;
  return JSON.stringify(anything);
}

/** A reason as a sentence of its own: the server's begin like the middle of one. */
export function sentence(text: string): string {
  const trimmed = text.trim();
  const ended = /[.!?…]$/.test(trimmed) || trimmed === "" ? trimmed : `${trimmed}.`;
  return ended.charAt(0).toUpperCase() + ended.slice(1);
}

/** effective_batch_size → Effective batch size. */
export function title(key: string): string {
  const words = key.replaceAll(/[_-]+/g, " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function exponent(value: number, digits: number): string {
  const [mantissa, power] = value.toExponential(digits).split("e") as [string, string];
  return `${mantissa.replace(/\.0+$/, "")}e${Number(power)}`;
}

function trim(value: number): string {
  return String(Number(value.toPrecision(3)));
}
