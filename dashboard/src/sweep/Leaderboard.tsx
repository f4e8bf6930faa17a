/** Trials as a table: sortable, linked with the charts, usable by keyboard alone. */

import { memo, useEffect, useRef, type KeyboardEvent } from "react";
import type { Command, Sweep, Trial } from "../api/types";
import * as format from "../format";
import { trialColour, type ColourBy, type RateScale, type Theme } from "../charts/colour";
import { fraction, metricName } from "../state/derive";
import { numberParam, printSort, type Sort, type SortKey } from "../state/order";
import { setQuery } from "../state/url";
import { TrialBadge } from "../ui/Badge";
import { Marks, Waits } from "./Marks";
import { actionOfKey, RowActions, type AskTrial } from "./TrialActions";

export interface LeaderboardProps {
  sweep: Sweep;
  /** In the order to show. */
  trials: readonly Trial[];
  sort: Sort;
  theme: Theme;
  scale: RateScale | null;
  colourBy: ColourBy;
  selected: string | null;
  hovered: string | null;
  best: string | null;
  /** With several objectives: the completed trials that no other beats in all of them. */
  front: readonly string[];
  /** The metrics beside the one that the winner is chosen by. */
  further: readonly string[];
  /** What was asked and waits to be carried out, by trial. */
  waiting: ReadonlyMap<string, Command>;
  onHover(trialId: string | null): void;
  onSelect(trial: Trial | null): void;
  onAsk: AskTrial;
}

const COLUMNS: { key: SortKey; title: string; numeric?: boolean; hint?: string; rest?: boolean }[] = [
  { key: "number", title: "Trial" },
  { key: "rate", title: "Rate", numeric: true, hint: "Learning rate" },
  { key: "batch", title: "Batch", numeric: true, hint: "Effective batch size, in samples" },
  { key: "schedule", title: "Schedule" },
  { key: "state", title: "State" },
  { key: "progress", title: "Step", numeric: true, hint: "Optimizer steps of the full run; sorts by share done" },
  { key: "loss", title: "Loss", numeric: true, hint: "Training loss of the latest step" },
  { key: "norm", title: "Norm", numeric: true, hint: "Gradient norm of the latest step, before clipping" },
  { key: "heldout", title: "Held-out", numeric: true, hint: "Latest mean token loss on the eval sets" },
  { key: "match", title: "Exact", numeric: true, hint: "Exact match on the eval sets" },
];

export function Leaderboard(props: LeaderboardProps) {
  const { trials, sort, selected, onSelect, onHover } = props;
  const body = useRef<HTMLTableSectionElement>(null);
  const withSchedule = trials.some((trial) => trial.params.schedule != null);

  const move = (event: KeyboardEvent) => {
    const row = (event.target as Element).closest<HTMLElement>("tr[data-trial]");
    if (!row) return;
    const rows = [...body.current!.querySelectorAll<HTMLElement>("tr[data-trial]")];
    const at = rows.indexOf(row);
    const target = {
      ArrowDown: rows[at + 1],
      ArrowUp: rows[at - 1],
      Home: rows[0],
      End: rows[rows.length - 1],
    }[event.key];
    if (target) {
      event.preventDefault();
      target.focus();
    } else if ((event.key === "Enter" || event.key === " ") && event.target === row) {
      event.preventDefault();
      onSelect(trials[at] ?? null);
    } else if (event.target === row && !event.ctrlKey && !event.metaKey && !event.altKey) {
      const trial = trials[at];
      const action = trial ? actionOfKey(event.key, trial, props.sweep) : null;
      if (trial && action) {
        event.preventDefault();
        props.onAsk(trial, action);
      }
    }
  };

  useEffect(() => {
    if (selected) revealRow(body.current, selected);
  }, [selected]);

  return (
    <section className="panel leaderboard" aria-label="Leaderboard">
      <div className="panel-head">
        <h2>Leaderboard</h2>
        <span className="faint">{trials.length} {trials.length === 1 ? "trial" : "trials"}</span>
        {props.front.length ? <span className="faint">{props.front.length} on the front</span> : null}
        {sort.key === "score" ? (
          <span className="faint">best first</span>
        ) : (
          <button type="button" className="button small" onClick={() => setQuery({ sort: null })}>
            Best first
          </button>
        )}
      </div>
      {trials.length === 0 ? (
        <p className="panel-empty">No trials yet: they appear as the sampler proposes them.</p>
      ) : (
        <div className="table-scroll">
          <table className="table trials">
            <thead>
              <tr>
                {COLUMNS.filter((c) => c.key !== "schedule" || withSchedule).map((column) => (
                  <Header key={column.key} column={column} sort={sort} />
                ))}
                {props.further.map((metric) => (
                  <th key={metric} className="num" title={`${format.title(metricName(metric))}, measured at a trial’s end`}>
                    {format.title(metricName(metric))}
                  </th>
                ))}
                <th className="action-cell"><span className="sr-only">Actions</span></th>
              </tr>
            </thead>
            <tbody ref={body} onKeyDown={move} onMouseLeave={() => onHover(null)}>
              {trials.map((trial, index) => (
                <Row
                  key={trial.id}
                  trial={trial}
                  colour={trialColour(trial, props.colourBy, props.scale, props.theme)}
                  selected={trial.id === selected}
                  hovered={trial.id === props.hovered}
                  isBest={trial.id === props.best}
                  onFront={props.front.includes(trial.id)}
                  further={props.further}
                  tabStop={selected ? trial.id === selected : index === 0}
                  sweep={props.sweep}
                  waiting={props.waiting.get(trial.id)}
                  withSchedule={withSchedule}
                  onHover={onHover}
                  onSelect={onSelect}
                  onAsk={props.onAsk}
                />
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

/** Scrolls the table, and only the table, so that a trial's row is in it. */
function revealRow(body: HTMLElement | null, trialId: string): void {
  const row = body?.querySelector<HTMLElement>(`tr[data-trial="${CSS.escape(trialId)}"]`);
  const frame = row?.closest<HTMLElement>(".table-scroll");
  if (!row || !frame) return;
  const head = frame.querySelector("thead")?.clientHeight ?? 0;
  if (row.offsetTop < frame.scrollTop + head) frame.scrollTop = row.offsetTop - head;
  const bottom = row.offsetTop + row.offsetHeight;
  if (bottom > frame.scrollTop + frame.clientHeight) frame.scrollTop = bottom - frame.clientHeight;
}

function Header({ column, sort }: { column: (typeof COLUMNS)[number]; sort: Sort }) {
  const active = sort.key === column.key;
  const next: Sort = { key: column.key, descending: active ? !sort.descending : false };
  return (
    <th
      className={column.numeric ? "num" : ""}
      aria-sort={active ? (sort.descending ? "descending" : "ascending") : "none"}
    >
      <button type="button" title={column.hint} onClick={() => setQuery({ sort: printSort(next) })}>
        {column.title}
        <span className="sort-mark" aria-hidden="true">{active ? (sort.descending ? "↓" : "↑") : ""}</span>
      </button>
    </th>
  );
}

interface RowProps {
  sweep: Sweep;
  trial: Trial;
  colour: string;
  selected: boolean;
  hovered: boolean;
  isBest: boolean;
  onFront: boolean;
  further: readonly string[];
  tabStop: boolean;
  withSchedule: boolean;
  waiting: Command | undefined;
  onHover(trialId: string | null): void;
  onSelect(trial: Trial | null): void;
  onAsk: AskTrial;
}

const Row = memo(function Row(props: RowProps) {
  const { trial } = props;
  return (
    <tr
      data-trial={trial.id}
      tabIndex={props.tabStop ? 0 : -1}
      aria-selected={props.selected}
      className={`clickable ${props.hovered ? "hovered" : ""} ${trial.state === "PRUNED" || trial.state === "FAILED" ? "out" : ""}`}
      onMouseEnter={() => props.onHover(trial.id)}
      onFocus={() => props.onHover(trial.id)}
      onBlur={() => props.onHover(null)}
      onClick={() => props.onSelect(props.selected ? null : trial)}
    >
      <td className="trial-number">
        <span className="swatch" style={{ background: props.colour }} />
        {trial.number}
        {props.isBest ? <span className="best-tag">best</span> : null}
        {props.onFront && !props.isBest ? (
          <span className="front-tag" title="On the front: no trial is better in all objectives">front</span>
        ) : null}
        <Marks trial={trial} />
      </td>
      <td className="num">{format.rate(numberParam(trial, "learning_rate"))}</td>
      <td className="num">{format.count(numberParam(trial, "effective_batch_size"))}</td>
      {props.withSchedule ? <td>{String(trial.params.schedule ?? format.ABSENT)}</td> : null}
      <td>
        <TrialBadge trial={trial} />
        <Waits trial={trial} waiting={props.waiting} />
      </td>
      <td className="num step-cell">
        {trial.total_steps > 0 ? (
          <>
            {format.count(trial.step)}
            <span className="faint"> / {format.count(trial.total_steps)}</span>
            <span className="step-bar" aria-hidden="true">
              <span style={{ width: `${fraction(trial) * 100}%` }} />
            </span>
          </>
        ) : (
          <span className="faint">{format.ABSENT}</span>
        )}
      </td>
      <td className="num">{format.loss(trial.loss)}</td>
      <td className="num">{format.loss(trial.grad_norm)}</td>
      <td className="num strong">{format.loss(trial.eval_loss)}</td>
      <td className="num">{format.percent(trial.exact_match)}</td>
      {props.further.map((metric) => (
        <td key={metric} className="num">{format.figure(trial.also?.[metric], metric)}</td>
      ))}
      <td className="action-cell">
        <RowActions trial={trial} sweep={props.sweep} waiting={props.waiting} onAsk={props.onAsk} />
      </td>
    </tr>
  );
});
