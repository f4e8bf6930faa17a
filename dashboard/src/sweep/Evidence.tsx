/** The numbers a decision rests on, whatever the rule stored: values in a list, features in a table. */

import type { ReactNode } from "react";
import * as format from "../format";

type Row = Record<string, unknown>;

/** Said elsewhere on the card already. */
const HIDDEN = new Set(["point", "code"]);

const NAMES: Record<string, string> = { loo_errors: "Leave-one-out errors", may_not: "May not, since" };

export function Evidence({ evidence }: { evidence: Record<string, unknown> }) {
  const entries = Object.entries(withWeights(evidence)).filter(([k, v]) => !HIDDEN.has(k) && !isEmpty(v));
  const tables = entries.filter(([, v]) => asTable(v) !== null);
  const groups = entries.filter((e): e is [string, Row] => asTable(e[1]) === null && isRow(e[1]));
  const texts = entries.filter(([, v]) => isText(v));
  const plain = entries.filter(([, v]) => !isRow(v) && !isText(v) && asTable(v) === null);
  return (
    <div className="evidence">
      <Values entries={plain} />
      {tables.map(([key, value]) => (
        <EvidenceTable key={key} title={name(key)} rows={asTable(value)!} />
      ))}
      {groups.map(([key, value]) => (
        <section key={key}>
          <h4>{name(key)}</h4>
          <Values entries={Object.entries(value).filter(([, v]) => !isEmpty(v))} />
        </section>
      ))}
      {texts.map(([key, text]) => (
        <p key={key}>
          <span className="faint">{name(key)}: </span>
          {String(text)}
        </p>
      ))}
    </div>
  );
}

function Values({ entries }: { entries: [string, unknown][] }) {
  if (entries.length === 0) return null;
  return (
    <dl>
      {entries.map(([key, value]) => (
        <div key={key}>
          <dt>{format.title(key)}</dt>
          <dd>{cell(key, value)}</dd>
        </div>
      ))}
    </dl>
  );
}

function EvidenceTable({ title, rows }: { title: string; rows: [string, Row][] }) {
  const columns = [...new Set(rows.flatMap(([, row]) => Object.keys(row)))].slice(0, 5);
  return (
    <table>
      <thead>
        <tr>
          <th>{title}</th>
          {columns.map((column) => (
            <th key={column} className="num">{format.title(column)}</th>
          ))}
        </tr>
      </thead>
      <tbody>
        {rows.map(([key, row]) => (
          <tr key={key}>
            <td>{format.title(key)}</td>
            {columns.map((column) => (
              <td key={column} className="num">{cell(column, row[column])}</td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function cell(column: string, value: unknown): ReactNode {
  if (column === "percentile" && typeof value === "number") {
    return (
      <span className="percentile">
        <span className="percentile-bar" aria-hidden="true">
          <span style={{ left: `${Math.min(Math.max(value, 0), 100)}%` }} />
        </span>
        {value.toFixed(0)}
      </span>
    );
  }
  if (Array.isArray(value)) return value.map((v) => format.value(v)).join(", ");
  if (isRow(value)) {
    return Object.entries(value)
      .map(([key, v]) => `${key}: ${format.value(v)}`)
      .join(" · ");
  }
  return format.value(value);
}

function name(key: string): string {
  return NAMES[key] ?? format.title(key);
}

/** Features with the weights of the same names as one more column. */
function withWeights(evidence: Row): Row {
  const { features, weights } = evidence;
  if (!isRow(features) || !isRow(weights) || asTable(features) === null) return evidence;
  const joined = Object.fromEntries(
    Object.entries(features).map(([name, row]) => [
      name,
      name in weights ? { ...(row as Row), weight: weights[name] } : (row as Row),
    ]),
  );
  const rest = Object.fromEntries(Object.entries(weights).filter(([name]) => !(name in features)));
  return { ...evidence, features: joined, weights: rest };
}

/** An object of objects, or a list of objects, as named rows; null for anything else. */
function asTable(value: unknown): [string, Row][] | null {
  if (Array.isArray(value)) {
    if (value.length === 0 || !value.every(isRow)) return null;
    return value.map((row, i) => [String(row.name ?? row.trial ?? i + 1), without(row, "name")]);
  }
  if (!isRow(value)) return null;
  const entries = Object.entries(value);
  return entries.length > 0 && entries.every(([, v]) => isRow(v)) ? (entries as [string, Row][]) : null;
}

function isRow(value: unknown): value is Row {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isText(value: unknown): boolean {
  return typeof value === "string" && value.length > 24;
}

function isEmpty(value: unknown): boolean {
  return value === null || value === undefined || value === "" || (isRow(value) && Object.keys(value).length === 0);
}

function without(row: Row, key: string): Row {
  return Object.fromEntries(Object.entries(row).filter(([name]) => name !== key));
}
