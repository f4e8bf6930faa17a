/** The numbers a decision rests on, whatever the rule stored: values in a list, features in a table. */

import * as format from "../format";

type Row = Record<string, unknown>;

export function Evidence({ evidence }: { evidence: Record<string, unknown> }) {
  const entries = Object.entries(evidence);
  const tables = entries.filter(([, v]) => asTable(v) !== null);
  const plain = entries.filter(([, v]) => asTable(v) === null);
  return (
    <div className="evidence">
      {plain.length ? (
        <dl>
          {plain.map(([key, value]) => (
            <div key={key}>
              <dt>{format.title(key)}</dt>
              <dd>{cell(key, value)}</dd>
            </div>
          ))}
        </dl>
      ) : null}
      {tables.map(([key, value]) => (
        <EvidenceTable key={key} name={key} rows={asTable(value)!} />
      ))}
    </div>
  );
}

function EvidenceTable({ name, rows }: { name: string; rows: [string, Row][] }) {
  const columns = [...new Set(rows.flatMap(([, row]) => Object.keys(row)))].slice(0, 5);
  return (
    <table>
      <thead>
        <tr>
          <th>{format.title(name)}</th>
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

/** An object of objects, or a list of objects, as named rows; null for anything else. */
function asTable(value: unknown): [string, Row][] | null {
  if (Array.isArray(value)) {
    if (value.length === 0 || !value.every(isRow)) return null;
    return value.map((row, i) => {
      const label = row.name ?? row.feature ?? row.trial ?? i + 1;
      return [String(label), without(row, ["name", "feature"])];
    });
  }
  if (!isRow(value)) return null;
  const entries = Object.entries(value);
  if (entries.length === 0) return null;
  if (entries.every(([, v]) => isRow(v))) return entries as [string, Row][];
  return entries.every(([, v]) => v === null || typeof v !== "object")
    ? entries.map(([key, v]) => [key, { value: v }])
    : null;
}

function cell(column: string, value: unknown) {
  if (/percentile|quantile/.test(column) && typeof value === "number") {
    const share = value > 1 ? value / 100 : value;
    return (
      <span className="percentile">
        <span className="percentile-bar" aria-hidden="true">
          <span style={{ left: `${Math.min(Math.max(share, 0), 1) * 100}%` }} />
        </span>
        {(share * 100).toFixed(0)}
      </span>
    );
  }
  if (Array.isArray(value)) return value.map((v) => format.value(v)).join(", ") || format.ABSENT;
  return format.value(value);
}

function isRow(value: unknown): value is Row {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function without(row: Row, keys: string[]): Row {
  return Object.fromEntries(Object.entries(row).filter(([key]) => !keys.includes(key)));
}
