/** Draws lines and end marks on a canvas, in the plot area that uPlot laid out. */

import type { EndMark } from "../state/derive";
import type { Line } from "./lines";

export interface Canvas {
  ctx: CanvasRenderingContext2D;
  /** Plot area in canvas pixels. */
  box: { left: number; top: number; width: number; height: number };
  ratio: number;
  x(value: number): number;
  y(value: number): number;
  /** Axes are logarithmic: values at or below zero have no place. */
  xLog: boolean;
  yLog: boolean;
}

export interface Look {
  /** The line to bring forward; the others step back. */
  focus: string | null;
  /** Points are few and worth seeing: held-out measurements. */
  dots: boolean;
  background: string;
}

export function paintLines(canvas: Canvas, lines: readonly Line[], look: Look): void {
  const { ctx, box } = canvas;
  ctx.save();
  ctx.beginPath();
  ctx.rect(box.left, box.top, box.width, box.height);
  ctx.clip();
  ctx.lineJoin = "round";
  ctx.lineCap = "round";
  const focused = lines.find((l) => l.id === look.focus) ?? null;
  for (const line of lines) if (line !== focused) paintLine(canvas, line, look, focused !== null);
  if (focused) paintLine(canvas, focused, look, false);
  ctx.restore();
  for (const line of lines) if (line !== focused) paintMark(canvas, line, look, focused !== null);
  if (focused) paintMark(canvas, focused, look, false);
}

/** A dashed horizontal line across the plot, e.g. the model before training. */
export function paintReference(canvas: Canvas, value: number, label: string, colour: string, font: string): void {
  const { ctx, box, ratio } = canvas;
  const y = canvas.y(value);
  if (y < box.top || y > box.top + box.height) return;
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.fillStyle = colour;
  ctx.lineWidth = ratio;
  ctx.setLineDash([4 * ratio, 4 * ratio]);
  ctx.beginPath();
  ctx.moveTo(box.left, y);
  ctx.lineTo(box.left + box.width, y);
  ctx.stroke();
  ctx.font = font;
  ctx.textAlign = "right";
  ctx.textBaseline = y - box.top < 18 * ratio ? "top" : "bottom";
  ctx.fillText(label, box.left + box.width - 4 * ratio, y + (ctx.textBaseline === "top" ? 4 : -3) * ratio);
  ctx.restore();
}

function paintLine(canvas: Canvas, line: Line, look: Look, behind: boolean): void {
  const { ctx, ratio } = canvas;
  const focused = line.id === look.focus;
  ctx.strokeStyle = line.colour;
  if (focused && line.raw) {
    ctx.globalAlpha = 0.3;
    ctx.lineWidth = ratio;
    trace(canvas, line.xs, line.raw);
  }
  ctx.globalAlpha = behind ? 0.2 : focused ? 1 : line.quiet ? 0.6 : 0.95;
  ctx.lineWidth = (focused ? 2.5 : line.quiet ? 1.1 : 1.6) * ratio;
  trace(canvas, line.xs, line.ys);
  if (look.dots) {
    ctx.fillStyle = line.colour;
    for (let i = 0; i < line.xs.length; i++) {
      const y = line.ys[i];
      if (y === null || y === undefined || (canvas.xLog && line.xs[i]! <= 0)) continue;
      ctx.beginPath();
      ctx.arc(canvas.x(line.xs[i]!), canvas.y(y), (focused ? 3.5 : 2.2) * ratio, 0, 2 * Math.PI);
      ctx.fill();
    }
  }
  ctx.globalAlpha = 1;
}

/**
 * Strokes a polyline. Where several points share a pixel column, only its entry, lowest, highest
 * and exit are kept: the same picture from a bounded number of segments.
 */
function trace(canvas: Canvas, xs: readonly number[], ys: readonly (number | null)[]): void {
  const { ctx, box } = canvas;
  // Far outside the plot, canvas coordinates lose precision: clamp well beyond the clip.
  const far = box.height * 4;
  ctx.beginPath();
  let column = NaN;
  let low = 0;
  let high = 0;
  let exit = 0;
  let open = false;
  const close = () => {
    if (!open) return;
    ctx.lineTo(column, low);
    ctx.lineTo(column, high);
    ctx.lineTo(column, exit);
  };
  for (let i = 0; i < xs.length; i++) {
    const value = ys[i];
    if (value === null || value === undefined || (canvas.yLog && value <= 0) || (canvas.xLog && xs[i]! <= 0)) {
      close();
      open = false;
      continue;
    }
    const px = Math.round(canvas.x(xs[i]!) * 2) / 2;
    const py = Math.min(Math.max(canvas.y(value), box.top - far), box.top + box.height + far);
    if (open && px === column) {
      low = Math.min(low, py);
      high = Math.max(high, py);
      exit = py;
      continue;
    }
    close();
    if (open) ctx.lineTo(px, py);
    else ctx.moveTo(px, py);
    column = px;
    low = high = exit = py;
    open = true;
  }
  close();
  ctx.stroke();
}

/** The mark where a trial ended early; one whose curve left the plot sits on the edge. */
function paintMark(canvas: Canvas, line: Line, look: Look, behind: boolean): void {
  if (line.mark === null) return;
  const { ctx, box, ratio } = canvas;
  let last = line.ys.length - 1;
  while (last >= 0 && (line.ys[last] === null || line.ys[last] === undefined)) last--;
  if (last < 0) return;
  const at = line.mark === "diverged" ? Math.max(line.endX, line.xs[last]!) : line.xs[last]!;
  if (canvas.xLog && at <= 0) return;
  const x = canvas.x(at);
  if (x < box.left - 1 || x > box.left + box.width + 1) return;
  const inset = 6 * ratio;
  const y = Math.min(Math.max(canvas.y(line.ys[last]!), box.top + inset), box.top + box.height - inset);
  ctx.save();
  ctx.globalAlpha = behind ? 0.3 : 1;
  drawMark(ctx, line.mark, x, y, (line.id === look.focus ? 5.5 : 4) * ratio, line.colour, look.background, ratio);
  ctx.restore();
}

/** × stopped, ▲ diverged, ■ failed: told apart without colour. */
export function drawMark(
  ctx: CanvasRenderingContext2D,
  mark: EndMark,
  x: number,
  y: number,
  size: number,
  colour: string,
  halo: string,
  ratio: number,
): void {
  ctx.beginPath();
  if (mark === "stopped") {
    const arm = size * 0.8;
    ctx.moveTo(x - arm, y - arm);
    ctx.lineTo(x + arm, y + arm);
    ctx.moveTo(x + arm, y - arm);
    ctx.lineTo(x - arm, y + arm);
    ctx.strokeStyle = halo;
    ctx.lineWidth = 4.5 * ratio;
    ctx.stroke();
    ctx.strokeStyle = colour;
    ctx.lineWidth = 1.9 * ratio;
    ctx.stroke();
    return;
  }
  if (mark === "diverged") {
    ctx.moveTo(x, y - size * 1.15);
    ctx.lineTo(x + size * 1.1, y + size * 0.85);
    ctx.lineTo(x - size * 1.1, y + size * 0.85);
    ctx.closePath();
  } else {
    ctx.rect(x - size * 0.85, y - size * 0.85, size * 1.7, size * 1.7);
  }
  ctx.strokeStyle = halo;
  ctx.lineWidth = 2.5 * ratio;
  ctx.stroke();
  ctx.fillStyle = colour;
  ctx.fill();
}
