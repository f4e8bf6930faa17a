/**
 * One chart of many curves. uPlot gives axes, scales and drag-zoom; the curves, which have an x of
 * their own each, are painted into its plot area by `paint.ts`.
 */

import { useEffect, useId, useMemo, useRef, useState } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import * as format from "../format";
import type { Theme } from "./colour";
import { logSplits, pick, yRange, type Hit, type Line, type Range } from "./lines";
import { paintLines, paintReference, type Canvas } from "./paint";

export interface LineChartProps {
  title: string;
  unit: string;
  lines: readonly Line[];
  theme: Theme;
  xLog: boolean;
  yLog: boolean;
  x: Range;
  onZoom(zoom: Range | null): void;
  focus: string | null;
  onHover(trialId: string | null): void;
  onPick(trialId: string): void;
  reference?: { value: number; label: string } | null;
  dots?: boolean;
  empty: string;
  loading: boolean;
}

const REACH = 28;
const CURSOR_SYNC = "samples";

export function LineChart(props: LineChartProps) {
  const { lines, theme, x, xLog, yLog, focus, reference, dots } = props;
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const [hit, setHit] = useState<(Hit & { px: number; py: number }) | null>(null);
  const titleId = useId();

  const y = useMemo(
    () => yRange(lines, x, yLog, reference?.value ?? null),
    [lines, x, yLog, reference?.value],
  );

  // What the long-lived plot reads when it draws or is pointed at: always the latest.
  const latest = useRef({ props, x, y, setHit });
  latest.current = { props, x, y, setHit };

  useEffect(() => {
    const element = host.current!;
    const created = createPlot(element, latest, { theme, xLog, yLog });
    plot.current = created;
    const resize = new ResizeObserver(() => {
      const { clientWidth: width, clientHeight: height } = element;
      if (width > 0 && height > 0) created.setSize({ width, height });
    });
    resize.observe(element);
    return () => {
      resize.disconnect();
      created.destroy();
      plot.current = null;
    };
  }, [theme, xLog, yLog]);

  useEffect(() => {
    plot.current?.batch(() => {
      plot.current?.setScale("x", { min: x[0], max: x[1] });
      plot.current?.setScale("y", { min: y[0], max: y[1] });
    });
  }, [x, y, theme, xLog, yLog]);

  useEffect(() => {
    plot.current?.redraw(false, false);
  }, [lines, focus, reference, dots]);

  const points = lines.reduce((sum, line) => sum + line.ys.length, 0);
  const shown = lines.filter((line) => line.ys.length > 0).length;
  return (
    <figure className="chart" aria-labelledby={titleId}>
      <figcaption id={titleId}>
        <span className="chart-title">{props.title}</span>
        <span className="chart-unit">{props.unit}</span>
      </figcaption>
      <div
        ref={host}
        className="chart-plot"
        role="img"
        aria-label={`${props.title}: ${shown} curves, ${points} points`}
        data-points={points}
        data-samples={x.map(Math.round).join("..")}
      />
      {points === 0 ? (
        <div className={`chart-empty ${props.loading ? "skeleton" : ""}`}>
          {props.loading ? null : props.empty}
        </div>
      ) : null}
      {hit ? <Tooltip hit={hit} width={host.current?.clientWidth ?? 0} /> : null}
    </figure>
  );
}

function Tooltip({ hit, width }: { hit: Hit & { px: number; py: number }; width: number }) {
  const { line, index } = hit;
  const flip = hit.px > width - 190;
  return (
    <div
      className="chart-tip"
      style={{
        transform: `translate(${hit.px + (flip ? -12 : 12)}px, ${hit.py - 12}px) translate(${flip ? "-100%" : "0"}, -50%)`,
      }}
    >
      <div className="chart-tip-name">
        <span className="swatch" style={{ background: line.colour }} />
        {line.name}
      </div>
      <div className="chart-tip-values">
        <b>{format.number(line.raw?.[index] ?? line.ys[index])}</b>
        <span>at {format.count(line.xs[index])} samples</span>
      </div>
    </div>
  );
}

type Latest = {
  current: {
    props: LineChartProps;
    x: Range;
    y: Range;
    setHit(hit: (Hit & { px: number; py: number }) | null): void;
  };
};

function createPlot(
  element: HTMLElement,
  latest: Latest,
  { xLog, yLog }: { theme: Theme; xLog: boolean; yLog: boolean },
): uPlot {
  const style = getComputedStyle(element);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const font = `11px ${style.fontFamily}`;
  const axis = {
    stroke: colour("--text-faint"),
    font,
    grid: { stroke: colour("--grid"), width: 1 },
    ticks: { show: false },
    border: { show: false },
  };
  const log = (key: string, most: number) => ({
    splits: (u: uPlot) => logSplits([u.scales[key]!.min!, u.scales[key]!.max!], most),
    filter: (_: uPlot, splits: number[]) => splits,
  });
  const values = (_: uPlot, splits: (number | null)[]) =>
    splits.map((v) => (v === null ? "" : Math.abs(v) < 1e-3 && v !== 0 ? v.toExponential(0) : format.short(v)));

  const plot = new uPlot(
    {
      width: element.clientWidth || 300,
      height: element.clientHeight || 200,
      padding: [8, 10, 0, 0],
      legend: { show: false },
      scales: {
        x: { time: false, distr: xLog ? 3 : 1, range: () => [...latest.current.x] },
        y: { distr: yLog ? 3 : 1, range: () => [...latest.current.y] },
      },
      axes: [
        { ...axis, scale: "x", size: 26, gap: 4, space: 56, values, ...(xLog ? log("x", 8) : {}) },
        { ...axis, scale: "y", size: 44, gap: 6, space: 34, values, ...(yLog ? log("y", 7) : {}) },
      ],
      series: [{}, { scale: "y", show: true, paths: () => null, points: { show: false } }],
      cursor: {
        y: false,
        points: { show: false },
        drag: { x: true, y: false, setScale: false, dist: 6 },
        sync: { key: CURSOR_SYNC, scales: ["x", null] },
        bind: {
          dblclick: () => () => {
            latest.current.props.onZoom(null);
            return null;
          },
        },
      },
      hooks: {
        draw: [(u) => paint(u, latest.current.props, font)],
        setSelect: [
          (u) => {
            const { left, width } = u.select;
            if (width < 6) return;
            const zoom: Range = [u.posToVal(left, "x"), u.posToVal(left + width, "x")];
            u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            latest.current.props.onZoom(zoom);
          },
        ],
      },
    },
    [
      [0, 1],
      [null, null],
    ],
    element,
  );
  pointAt(plot, latest);
  return plot;
}

function paint(u: uPlot, props: LineChartProps, font: string): void {
  const ratio = uPlot.pxRatio;
  const canvas: Canvas = {
    ctx: u.ctx,
    box: u.bbox,
    ratio,
    x: (value) => u.valToPos(value, "x", true),
    y: (value) => u.valToPos(value, "y", true),
    xLog: props.xLog,
    yLog: props.yLog,
  };
  const style = getComputedStyle(u.root);
  if (props.reference) {
    paintReference(
      canvas,
      props.reference.value,
      props.reference.label,
      style.getPropertyValue("--text-faint").trim(),
      font.replace("11px", `${11 * ratio}px`),
    );
  }
  paintLines(canvas, props.lines, {
    focus: props.focus,
    dots: props.dots ?? false,
    background: style.getPropertyValue("--panel").trim(),
  });
}

/** Hovering names the nearest curve; clicking (without dragging) selects it. */
function pointAt(plot: uPlot, latest: Latest): void {
  const { over } = plot;
  let down: [number, number] | null = null;
  const find = (event: MouseEvent): Hit | null => {
    const { props } = latest.current;
    return pick(
      props.lines,
      { px: event.offsetX, py: event.offsetY, x: plot.posToVal(event.offsetX, "x") },
      (x, y) => [plot.valToPos(x, "x"), plot.valToPos(y, "y")],
      REACH,
    );
  };
  over.addEventListener("mousemove", (event) => {
    const hit = event.buttons === 0 ? find(event) : null;
    const { props, setHit } = latest.current;
    props.onHover(hit?.line.id ?? null);
    if (!hit) {
      setHit(null);
      return;
    }
    const y = hit.line.ys[hit.index];
    const px = over.offsetLeft + plot.valToPos(hit.line.xs[hit.index]!, "x");
    const py = over.offsetTop + (y === null || y === undefined ? event.offsetY : plot.valToPos(y, "y"));
    setHit({ ...hit, px, py: Math.min(Math.max(py, 24), plot.height - 24) });
  });
  over.addEventListener("mouseleave", () => {
    latest.current.props.onHover(null);
    latest.current.setHit(null);
  });
  over.addEventListener("mousedown", (event) => {
    down = [event.clientX, event.clientY];
  });
  over.addEventListener("click", (event) => {
    const still = down && Math.hypot(event.clientX - down[0], event.clientY - down[1]) < 4;
    const hit = still ? find(event) : null;
    if (hit) latest.current.props.onPick(hit.line.id);
  });
}
