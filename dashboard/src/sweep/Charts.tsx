/** Three charts over samples seen, side by side: training loss, gradient norm, held-out loss. */

import { useCallback, useMemo } from "react";
import type { Trial } from "../api/types";
import * as format from "../format";
import { trialColour, type ColourBy, type RateScale, type Theme } from "../charts/colour";
import { LineChart } from "../charts/LineChart";
import { smooth, xRange, type Line, type Range } from "../charts/lines";
import { heldOut } from "../state/curves";
import { endMark } from "../state/derive";
import { numberParam } from "../state/order";
import type { SweepView } from "../state/sweep";
import { setQuery } from "../state/url";
import { Icon } from "../ui/Icon";
import { Segments } from "../ui/Segments";

export interface ChartsProps {
  view: SweepView;
  /** Search trials. */
  trials: readonly Trial[];
  theme: Theme;
  scale: RateScale | null;
  colourBy: ColourBy;
  query: URLSearchParams;
  focus: string | null;
  onHover(trialId: string | null): void;
  onPick(trialId: string): void;
}

/** Time constant of smoothing, as a share of a full run. */
const SMOOTHING = 0.012;

export function Charts(props: ChartsProps) {
  const { view, trials, theme, scale, colourBy, query } = props;
  const xLog = query.get("x") === "log";
  const smoothed = query.get("smooth") !== "off";
  const zoom = useMemo(() => parseZoom(query.get("zoom")), [query.get("zoom")]);
  const onZoom = useCallback((range: Range | null) => setQuery({ zoom: range && printZoom(range) }), []);

  const total = Math.max(0, ...trials.map((t) => t.total_samples));
  const styles = useMemo(
    () => trials.map((trial) => ({ trial, base: lineBase(trial, colourBy, scale, theme) })),
    [trials, colourBy, scale, theme],
  );
  const training = useMemo(() => {
    const lines = { loss: [] as Line[], norm: [] as Line[] };
    for (const { trial, base } of styles) {
      const curve = view.curves.get(trial.id);
      if (!curve) continue;
      const span = SMOOTHING * (trial.total_samples || total || 1);
      const line = (raw: readonly (number | null)[]): Line => ({
        ...base,
        xs: curve.samples,
        ys: smoothed ? smooth(curve.samples, raw, span) : raw,
        ...(smoothed ? { raw } : {}),
      });
      lines.loss.push(line(curve.loss));
      lines.norm.push(line(curve.grad_norm));
    }
    return lines;
  }, [styles, view.curves, smoothed, total]);
  const points = useMemo(() => heldOut(view.evaluations), [view.evaluations]);
  const evaluation = useMemo(
    () =>
      styles.flatMap(({ trial, base }): Line[] => {
        const measured = points.get(trial.id)?.filter((p) => p.loss !== null);
        if (!measured?.length) return [];
        return [{ ...base, xs: measured.map((p) => p.samples), ys: measured.map((p) => p.loss) }];
      }),
    [styles, points],
  );
  const before = view.sweep?.summary.baseline.eval?.loss ?? null;
  const reference = useMemo(
    () => (before === null ? null : { value: before, label: `before training ${format.loss(before)}` }),
    [before],
  );

  const whole = useMemo(
    () => xRange([...training.loss, ...evaluation], xLog, total),
    [training, evaluation, xLog, total],
  );
  const x = zoom ?? whole;
  const shared = {
    theme,
    xLog,
    x,
    onZoom,
    focus: props.focus,
    onHover: props.onHover,
    onPick: props.onPick,
    loading: !view.metricsLoaded,
  };
  return (
    <section className="panel charts" aria-label="Learning curves">
      <div className="panel-head">
        <h2>Learning curves</h2>
        <Legend scale={scale} colourBy={colourBy} />
        <div className="panel-tools">
          {zoom ? (
            <button type="button" className="button small" onClick={() => onZoom(null)}>
              <Icon name="zoomout" size={14} /> Reset zoom
            </button>
          ) : null}
          <Segments
            label="Smoothing"
            value={smoothed ? "on" : "off"}
            options={{ on: "Smoothed", off: "Raw" }}
            onChange={(value) => setQuery({ smooth: value === "off" ? "off" : null })}
          />
          <Segments
            label="Samples axis"
            value={xLog ? "log" : "linear"}
            options={{ linear: "Linear x", log: "Log x" }}
            onChange={(value) => setQuery({ x: value === "log" ? "log" : null, zoom: null })}
          />
          <Segments
            label="Colour"
            value={colourBy}
            options={{ rate: "By rate", state: "By state" }}
            onChange={(value) => setQuery({ colour: value === "state" ? "state" : null })}
          />
        </div>
      </div>
      <div className="chart-row">
        <LineChart {...shared} title="Training loss" unit="nats, by samples seen" lines={training.loss} yLog={false} empty="No steps yet" />
        <LineChart {...shared} title="Gradient norm" unit="before clipping, log" lines={training.norm} yLog empty="No steps yet" />
        <LineChart
          {...shared}
          title="Held-out loss"
          unit="nats, eval sets"
          lines={evaluation}
          yLog={false}
          dots
          reference={reference}
          empty="Measured at the first rung"
        />
      </div>
    </section>
  );
}

function Legend({ scale, colourBy }: { scale: RateScale | null; colourBy: ColourBy }) {
  return (
    <div className="legend">
      {colourBy === "rate" && scale ? (
        <span className="legend-item" title="Colour shows the learning rate, on a logarithmic scale">
          <span className="faint">learning rate</span> {format.rate(scale.min)}
          <span className="legend-ramp" style={{ background: scale.gradient }} />
          {format.rate(scale.max)}
        </span>
      ) : null}
      <span className="legend-item">
        <svg width="10" height="10" viewBox="0 0 10 10" aria-hidden="true"><path d="m1.5 1.5 7 7m0-7-7 7" className="mark-stroke" /></svg>
        stopped
      </span>
      <span className="legend-item">
        <svg width="10" height="10" viewBox="0 0 10 10" aria-hidden="true"><path d="M5 .8 9.6 9H.4z" className="mark-fill" /></svg>
        diverged
      </span>
    </div>
  );
}

function lineBase(trial: Trial, by: ColourBy, scale: RateScale | null, theme: Theme) {
  const mark = endMark(trial);
  const rate = numberParam(trial, "learning_rate");
  return {
    id: trial.id,
    name: rate === null ? `Trial ${trial.number}` : `Trial ${trial.number} · rate ${format.rate(rate)}`,
    colour: trialColour(trial, by, scale, theme),
    mark,
    endX: trial.samples,
    quiet: mark !== null,
  };
}

function parseZoom(text: string | null): Range | null {
  const [from, to] = (text ?? "").split("..").map(Number);
  return from !== undefined && to !== undefined && from < to ? [from, to] : null;
}

function printZoom([from, to]: Range): string {
  return `${Math.round(from)}..${Math.round(to)}`;
}
