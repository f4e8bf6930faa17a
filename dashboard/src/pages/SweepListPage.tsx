/** All sweeps, newest first, refreshed every few seconds. */

import { useEffect, useState } from "react";
import { ApiError, api } from "../api/client";
import type { Health, Sweep } from "../api/types";
import * as format from "../format";
import { computeSavedInList, goal, trialsDone } from "../state/derive";
import { navigate } from "../state/url";
import { SweepBadge } from "../ui/Badge";
import { Copyable } from "../ui/Copyable";
import { Icon } from "../ui/Icon";
import { Link } from "../ui/Link";
import { useNow } from "../ui/useNow";

const REFRESH = 3000;

export function SweepListPage({ onUnauthorized }: { onUnauthorized(): void }) {
  const { sweeps, health, error } = useSweeps(onUnauthorized);
  useEffect(() => {
    const running = sweeps?.filter((s) => s.state === "RUNNING").length ?? 0;
    document.title = running ? `${running} running · winnow` : "winnow";
  }, [sweeps]);

  return (
    <div className="page list-page">
      <h1>Sweeps</h1>
      {error ? <LostBanner error={error} /> : null}
      {health?.orchestrator === "silent" ? (
        <p className="banner warning" role="status">
          <Icon name="warning" />
          No orchestrator has reported for a while: queued sweeps wait until one runs. Start it with{" "}
          <code>winnow up</code>.
        </p>
      ) : null}
      {sweeps === null ? (
        <SkeletonRows />
      ) : sweeps.length === 0 ? (
        <EmptyState />
      ) : (
        <SweepTable sweeps={sweeps} />
      )}
    </div>
  );
}

function SweepTable({ sweeps }: { sweeps: Sweep[] }) {
  const now = useNow(15_000);
  return (
    <div className="panel table-panel">
      <table className="table sweeps">
        <thead>
          <tr>
            <th>Name</th>
            <th>State</th>
            <th>Trials</th>
            <th className="num">Best</th>
            <th className="num">Compute saved</th>
            <th className="num">Started</th>
          </tr>
        </thead>
        <tbody>
          {sweeps.map((sweep) => (
            <SweepRow key={sweep.id} sweep={sweep} now={now} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function SweepRow({ sweep, now }: { sweep: Sweep; now: number }) {
  const done = trialsDone(sweep);
  const planned = Math.max(sweep.summary.planned, sweep.summary.trials);
  const to = `/sweeps/${encodeURIComponent(sweep.id)}`;
  const best = sweep.summary.best_value;
  const isLoss = goal(sweep).metric === "eval/loss";
  return (
    <tr className="clickable" onClick={(event) => !(event.target as Element).closest("a") && navigate(to)}>
      <td className="sweep-name">
        <Link to={to}>{sweep.name}</Link>
        <span className="faint">
          {sweep.project && sweep.project !== "default" ? `${sweep.project} · ` : ""}
          {String(sweep.spec.model ?? "")}
        </span>
      </td>
      <td>
        <SweepBadge state={sweep.state} />
        {sweep.priority ? <span className="mark" title="Priority">priority {sweep.priority}</span> : null}
        {sweep.why_pending ? (
          <span className="waits" title={sweep.why_pending}>
            {format.sentence(sweep.why_pending)}
          </span>
        ) : null}
      </td>
      <td>
        <div className="meter-cell">
          <Meter value={planned ? done / planned : 0} />
          <span className="tabular">
            {done} / {planned}
          </span>
        </div>
      </td>
      <td className="num">
        {best === null ? (
          <span className="faint">{format.ABSENT}</span>
        ) : (
          <>
            {isLoss ? format.loss(best) : format.percent(best)}{" "}
            <span className="faint">{isLoss ? "loss" : "exact"}</span>
          </>
        )}
      </td>
      <td className="num">{format.percent(computeSavedInList(sweep), 0)}</td>
      <td className="num faint" title={sweep.started_at ?? undefined}>
        {sweep.started_at ? format.ago(sweep.started_at, now) : "not yet"}
      </td>
    </tr>
  );
}

function Meter({ value }: { value: number }) {
  return (
    <span className="meter" aria-hidden="true">
      <span style={{ width: `${Math.min(value, 1) * 100}%` }} />
    </span>
  );
}

function EmptyState() {
  return (
    <section className="panel empty-state">
      <svg width="120" height="56" viewBox="0 0 120 56" aria-hidden="true" className="empty-art">
        <path d="M4 8c24 0 28 40 60 40s36-10 52-10" />
        <path d="M4 14c20 0 22 22 40 22" className="ended" />
        <path d="M4 20c16 0 18 10 28 10" className="ended" />
        <path d="m40 32 8 8m0-8-8 8M28 26l8 8m0-8-8 8" className="ended" />
      </svg>
      <h2>No sweeps yet</h2>
      <p>Submit one from the folder that holds your sweep file; it appears here at once.</p>
      <Copyable text="winnow submit sweep.yaml" />
    </section>
  );
}

function SkeletonRows() {
  return (
    <div className="panel table-panel" aria-busy="true" aria-label="Loading sweeps">
      {[0, 1, 2, 3].map((i) => (
        <div key={i} className="skeleton skeleton-row" />
      ))}
    </div>
  );
}

function LostBanner({ error }: { error: ApiError }) {
  return (
    <p className="banner danger" role="alert">
      <Icon name="warning" />
      {error.status === 0 ? "Connection lost: reconnecting…" : error.message}
    </p>
  );
}

function useSweeps(onUnauthorized: () => void) {
  const [sweeps, setSweeps] = useState<Sweep[] | null>(null);
  const [health, setHealth] = useState<Health | null>(null);
  const [error, setError] = useState<ApiError | null>(null);

  useEffect(() => {
    let gone = false;
    let timer: ReturnType<typeof setTimeout>;
    const refresh = async () => {
      try {
        const [list, state] = await Promise.all([api.sweeps(), api.health().catch(() => null)]);
        if (gone) return;
        setSweeps(list);
        setHealth(state);
        setError(null);
      } catch (failure) {
        if (gone) return;
        if (failure instanceof ApiError && failure.unauthorized) {
          onUnauthorized();
          return;
        }
        setError(failure instanceof ApiError ? failure : new ApiError(0, String(failure)));
      }
      timer = setTimeout(refresh, document.hidden ? REFRESH * 5 : REFRESH);
    };
    void refresh();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [onUnauthorized]);

  return { sweeps, health, error };
}
