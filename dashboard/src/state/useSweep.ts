/** One sweep, loaded and kept current. */

import { useEffect, useReducer } from "react";
import { ApiError, api } from "../api/client";
import { followSweep, type StreamMessage } from "../api/stream";
import type { EvaluationPoint, Event } from "../api/types";
import { emptyView, reduce, type SweepAction, type SweepView } from "./sweep";

/** Messages are gathered for this long, so that a busy sweep renders a few times a second. */
const GATHER = 150;
/** Rows that events told of are fetched after this long, many at once. */
const FETCH_SOON = 300;

export function useSweep(id: string): SweepView {
  const [view, dispatch] = useReducer(reduce, emptyView);
  useEffect(() => {
    const link = new SweepLink(id, dispatch);
    return () => link.close();
  }, [id]);
  return view;
}

/**
 * Opens the stream first, then fetches, then applies what streamed meanwhile: nothing falls in
 * between. After a lost connection, and at the sweep's end, all is fetched anew.
 */
class SweepLink {
  private closed = false;
  private load = 0;
  private loading = true;
  private pending: StreamMessage[] = [];
  private lastDecision = 0;
  private measured = new Set<string>();
  private flushTimer: ReturnType<typeof setTimeout> | undefined;
  private fetchTimer: ReturnType<typeof setTimeout> | undefined;
  private readonly stop: () => void;

  constructor(
    private readonly id: string,
    private readonly dispatch: (action: SweepAction) => void,
  ) {
    this.stop = followSweep(id, {
      onOpen: () => {
        dispatch({ type: "connection", connection: { status: "live" } });
        void this.loadAll();
      },
      onMessage: (message) => this.take(message),
      onLost: (retryIn) =>
        dispatch({ type: "connection", connection: { status: "lost", retryAt: Date.now() + retryIn } }),
      onRefused: (error) => dispatch({ type: "failed", error }),
    });
  }

  close(): void {
    this.closed = true;
    this.stop();
    clearTimeout(this.flushTimer);
    clearTimeout(this.fetchTimer);
  }

  private take(message: StreamMessage): void {
    this.pending.push(message);
    if (message.type === "end") {
      // The last word comes from the database, not from what happened to be streamed.
      void this.loadAll();
    } else {
      this.flushTimer ??= setTimeout(() => this.flush(), GATHER);
    }
  }

  private async loadAll(): Promise<void> {
    const mine = ++this.load;
    this.loading = true;
    try {
      const [sweep, trials, decisions, metrics] = await Promise.all([
        api.sweep(this.id),
        api.trials(this.id),
        api.decisions(this.id),
        api.metrics(this.id),
      ]);
      if (this.closed || mine !== this.load) return;
      this.lastDecision = decisions.at(-1)?.id ?? 0;
      this.measured = new Set(metrics.evaluations.map((e) => measuredKey(e.trial_id, e)));
      this.dispatch({ type: "loaded", sweep, trials, decisions, metrics });
    } catch (error) {
      if (this.closed || mine !== this.load) return;
      this.dispatch({ type: "failed", error: error instanceof ApiError ? error : new ApiError(0, String(error)) });
    }
    this.loading = false;
    this.flush();
  }

  private flush(): void {
    this.flushTimer = undefined;
    if (this.loading || this.closed || this.pending.length === 0) return;
    const messages = this.pending;
    this.pending = [];
    this.dispatch({ type: "messages", messages });
    const events = messages.flatMap((m) => (m.type === "event" ? [m.event] : []));
    if (events.some((e) => this.isNews(e))) {
      const trials = new Set(events.filter((e) => e.type === "evaluation").map((e) => e.trial_id!));
      this.fetchSoon(trials);
    }
  }

  /** Whether an event tells of a row that isn't here yet: a fresh stream tells old ones again. */
  private isNews(event: Event): boolean {
    if (event.type === "decision") return Number(event.data.id) > this.lastDecision;
    return event.type === "evaluation" && !this.measured.has(measuredKey(event.trial_id!, event.data as never));
  }

  private wanted = new Set<string>();

  /** Events carry neither a decision's evidence nor an evaluation's weight: the rows do. */
  private fetchSoon(trialIds: Set<string>): void {
    for (const trialId of trialIds) this.wanted.add(trialId);
    this.fetchTimer ??= setTimeout(async () => {
      this.fetchTimer = undefined;
      const trials = [...this.wanted];
      this.wanted.clear();
      try {
        const [decisions, evaluations] = await Promise.all([
          api.decisions(this.id, this.lastDecision),
          trials.length ? api.evaluations(this.id, trials) : [],
        ]);
        if (this.closed) return;
        this.lastDecision = Math.max(this.lastDecision, ...decisions.map((d) => d.id));
        for (const e of evaluations) this.measured.add(measuredKey(e.trial_id, e));
        this.dispatch({ type: "decisions", decisions });
        this.dispatch({ type: "evaluations", evaluations });
      } catch {
        // The stream notices a lost connection too, and everything is fetched when it is back.
      }
    }, FETCH_SOON);
  }
}

function measuredKey(trialId: string, at: Pick<EvaluationPoint, "split" | "dataset" | "step">): string {
  return `${trialId}/${at.split}/${at.dataset}/${at.step}`;
}
