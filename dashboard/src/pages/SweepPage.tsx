/** One sweep, live: where it stands, its curves, its leaderboard, and why trials were stopped. */

import { useCallback, useEffect, useMemo, useState, type ComponentType, type ReactNode } from "react";
import { api, ApiError } from "../api/client";
import type { Trial } from "../api/types";
import * as format from "../format";
import { rateScale, type ColourBy } from "../charts/colour";
import { waiting as waitingOf } from "../state/commands";
import { ended, further, goal, progress, sweepEnded } from "../state/derive";
import { orderTrials, parseSort } from "../state/order";
import type { SweepView } from "../state/sweep";
import { setQuery, useAddress } from "../state/url";
import { useSweep } from "../state/useSweep";
import { Changes } from "../sweep/Changes";
import { Charts } from "../sweep/Charts";
import { Decisions, parseFilter } from "../sweep/Decisions";
import { EarlyDecisions } from "../sweep/EarlyDecisions";
import { addForm, cloneForm, extendForm, settingsForm } from "../sweep/forms";
import { Leaderboard } from "../sweep/Leaderboard";
import { Share } from "../sweep/Share";
import { Summary, type SweepAsk } from "../sweep/Summary";
import type { AskTrial } from "../sweep/TrialActions";
import { TrialDrawer } from "../sweep/TrialDrawer";
import { Confirm, type Question } from "../ui/Confirm";
import { FormDialog, type Form } from "../ui/FormDialog";
import { Icon } from "../ui/Icon";
import { Link } from "../ui/Link";
import { useTheme } from "../ui/theme";
import { useNow } from "../ui/useNow";

const NO_FRONT: readonly string[] = [];

export interface SweepPageProps {
  id: string;
  frame: ComponentType<{ crumb?: string; status?: ReactNode; children: ReactNode }>;
  onUnauthorized(): void;
}

export function SweepPage({ id, frame: Frame, onUnauthorized }: SweepPageProps) {
  const [view, note] = useSweep(id);
  const { query } = useAddress();
  const theme = useTheme();
  const [hovered, setHovered] = useState<string | null>(null);
  const [question, setQuestion] = useState<Question | null>(null);
  const [form, setForm] = useState<Form | null>(null);
  const [refusal, setRefusal] = useState<string | null>(null);

  useEffect(() => {
    if (view.error?.unauthorized) onUnauthorized();
  }, [view.error, onUnauthorized]);

  const { sweep } = view;
  const trials = useMemo(() => [...view.trials.values()].filter((t) => t.kind === "search"), [view.trials]);
  const by = useMemo(() => goal(sweep), [sweep]);
  const others = useMemo(() => further(sweep), [sweep]);
  const sort = useMemo(() => parseSort(query.get("sort")), [query.get("sort")]);
  const ordered = useMemo(() => orderTrials(trials, sort, by), [trials, sort, by]);
  const scale = useMemo(() => rateScale(trials, theme), [trials, theme]);
  const colourBy: ColourBy = query.get("colour") === "state" ? "state" : "rate";
  const selectedNumber = query.get("trial");
  const selected = trials.find((t) => String(t.number) === selectedNumber) ?? null;
  usePageTitle(view, trials);

  const select = useCallback((trial: Trial | null) => setQuery({ trial: trial ? String(trial.number) : null }), []);
  const selectId = useCallback(
    (trialId: string) => select(view.trials.get(trialId) ?? null),
    [select, view.trials],
  );

  const waiting = useMemo(() => waitingOf(view.commands), [view.commands]);

  /** Asks at once; a refusal is said above the page. */
  const ask = useCallback(
    async (request: ReturnType<typeof api.askTrial>) => {
      setRefusal(null);
      try {
        note(await request);
      } catch (error) {
        setRefusal(error instanceof ApiError ? error.message : String(error));
      }
    },
    [note],
  );

  const askTrial: AskTrial = useCallback(
    (trial, action) => {
      if (action === "clone") {
        setForm(cloneForm(trial, note));
      } else if (action === "stop") {
        setQuestion({
          title: `Stop trial ${trial.number}?`,
          text: "It ends within a second or two and frees its workers. What it measured so far is kept, and it can be revived.",
          action: "Stop trial",
          run: async () => note(await api.askTrial(trial.id, "stop")),
        });
      } else {
        void ask(api.askTrial(trial.id, action));
      }
    },
    [ask, note],
  );

  const best = sweep?.summary.best_trial ? view.trials.get(sweep.summary.best_trial) : undefined;
  const unfinished = trials.filter((t) => !ended(t)).length;
  const askSweep = useCallback(
    (action: SweepAsk) => {
      if (!sweep) return;
      if (action === "extend") setForm(extendForm(sweep, note));
      else if (action === "add") setForm(addForm(sweep, best, note));
      else if (action !== "cancel") void ask(api.askSweep(id, action));
      else
        setQuestion({
          title: `Cancel ${sweep.name}?`,
          text: `${unfinished === 1 ? "1 trial has" : `${unfinished} trials have`} not finished and will end. Finished trials, their numbers and checkpoints are kept.`,
          action: "Cancel sweep",
          run: async () => note(await api.askSweep(id, "cancel")),
        });
    },
    [ask, best, id, note, sweep, unfinished],
  );
  const changeShare = useCallback(() => sweep && setForm(settingsForm(sweep, note)), [note, sweep]);

  if (sweep === null) {
    return (
      <Frame crumb={view.error ? "Not shown" : "…"}>
        {view.error && !view.error.unauthorized && view.error.status !== 0 ? (
          <section className="panel empty-state">
            <h2>{view.error.status === 404 ? "There is no such sweep" : "This sweep can’t be shown"}</h2>
            <p>{view.error.message}</p>
            <Link to="/" className="button">All sweeps</Link>
          </section>
        ) : (
          <div className="page sweep-page" aria-busy="true" aria-label="Loading">
            <LostBanner view={view} />
            <div className="skeleton skeleton-head" />
            <div className="skeleton skeleton-charts" />
            <div className="skeleton skeleton-table" />
          </div>
        )}
      </Frame>
    );
  }

  return (
    <Frame crumb={sweep.name} status={<LiveDot view={view} />}>
      <div className={`page sweep-page ${selected ? "with-drawer" : ""}`}>
        <LostBanner view={view} />
        {refusal ? (
          <p className="banner danger" role="alert">
            <Icon name="warning" />
            {refusal}
            <button type="button" className="icon-button" aria-label="Dismiss" onClick={() => setRefusal(null)}>
              <Icon name="close" size={14} />
            </button>
          </p>
        ) : null}
        <Summary sweep={sweep} trials={trials} waiting={waiting.get(id)} onAsk={askSweep} />
        <Charts
          view={view}
          trials={ordered}
          theme={theme}
          scale={scale}
          colourBy={colourBy}
          query={query}
          focus={hovered ?? selected?.id ?? null}
          onHover={setHovered}
          onPick={selectId}
        />
        <div className="lower">
          <Leaderboard
            sweep={sweep}
            trials={ordered}
            sort={sort}
            theme={theme}
            scale={scale}
            colourBy={colourBy}
            selected={selected?.id ?? null}
            hovered={hovered}
            best={sweep.summary.best_trial}
            front={sweep.summary.front ?? NO_FRONT}
            further={others}
            waiting={waiting}
            onHover={setHovered}
            onSelect={select}
            onAsk={askTrial}
          />
          <div className="side">
            <Share sweep={sweep} onChange={sweepEnded(sweep) ? null : changeShare} />
            <Changes commands={view.commands} />
            <EarlyDecisions sweep={sweep} />
            <Decisions decisions={view.decisions} filter={parseFilter(query.get("decisions"))} onHover={setHovered} onPick={selectId} />
          </div>
        </div>
        {selected ? (
          <TrialDrawer
            trial={selected}
            sweep={sweep}
            view={view}
            waiting={waiting.get(selected.id)}
            onAsk={askTrial}
            onClose={() => select(null)}
          />
        ) : null}
        {question ? <Confirm question={question} onDone={() => setQuestion(null)} /> : null}
        {form ? <FormDialog form={form} onDone={() => setForm(null)} /> : null}
      </div>
    </Frame>
  );
}

function LiveDot({ view }: { view: SweepView }) {
  const { status } = view.connection;
  const words = { connecting: "Connecting", live: "Live", lost: "Reconnecting", ended: "Up to date" };
  return (
    <span className={`live live-${status}`} role="status">
      <span className="live-dot" aria-hidden="true" />
      {words[status]}
    </span>
  );
}

function LostBanner({ view }: { view: SweepView }) {
  const lost = view.connection.status === "lost" ? view.connection : null;
  const now = useNow();
  if (lost) {
    const left = Math.max(0, Math.ceil((lost.retryAt - now) / 1000));
    return (
      <p className="banner danger" role="alert">
        <Icon name="warning" />
        Connection lost: reconnecting{left > 1 ? ` in ${left} s` : ""}… What you see is from before.
      </p>
    );
  }
  if (view.error && !view.error.unauthorized && view.sweep) {
    return (
      <p className="banner danger" role="alert">
        <Icon name="warning" />
        {view.error.message}
      </p>
    );
  }
  return null;
}

function usePageTitle({ sweep }: SweepView, trials: Trial[]): void {
  useEffect(() => {
    if (!sweep) return;
    const done = sweepEnded(sweep)
      ? sweep.state.toLowerCase()
      : format.percent(progress(sweep, trials), 0).replace(" ", "");
    document.title = `${done} · ${sweep.name} · winnow`;
  }, [sweep, trials]);
}
