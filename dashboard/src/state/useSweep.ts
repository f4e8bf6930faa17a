/** One sweep, loaded and kept current. */

import { useCallback, useEffect, useReducer, useRef } from "react";
import { ApiError, api } from "../api/client";
import { followSweep, type StreamMessage } from "../api/stream";
import type { Command, EvaluationPoint, Event } from "../api/types";
import { sweepEnded } from "./derive";
import { emptyView, reduce, type SweepAction, type SweepView } from "./sweep";

/** Messages are gathered for this long, so that a busy sweep renders a few times a second. */
const GATHER = 150;
/** Rows that events told of are fetched after this long, many at once. */
const FETCH_SOON = 300;
/** An ended sweep is looked at this often: somebody may have revived or extended it. */
const LOOK_AGAIN = 10_000;

/** The sweep, and a function that takes note of what was just asked for. */
export function useSweep(id: string): [SweepView, (asked: Command[]) => void] {
  const [view, dispatch] = useReducer(reduce, emptyView);
  const link = useRef<SweepLink>(null);
  useEffect(() => {
    const made = new SweepLink(id, dispatch);
    link.current = made;
    return () => made.close();
  }, [id]);
  const note = useCallback((asked: Command[]) => link.current?.note(asked), []);
  return [view, note];
}

/**
 * Opens the stream first, then fetches, then applies what streamed meanwhile: nothing falls in
 * between. After a lost connection, and at the sweep's end, all is fetched anew. An ended sweep that
 * goes on is followed again.
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
  private lookTimer: ReturnType<typeof setTimeout> | undefined;
  private ended = false;
  private stop: () => void;

  constructor(
    private readonly id: string,
    private readonly dispatch: (action: SweepAction) => void,
  ) {
    this.stop = this.follow();
  }

  private follow(): () => void {
    const { dispatch } = this;
    return followSweep(this.id, {
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

  /** Shows what was just asked for. The stream of an ended sweep has ended too: it begins again. */
  note(commands: Command[]): void {
    this.dispatch({ type: "commands", commands });
    if (this.ended) this.again();
  }

  private again(): void {
    this.stop();
    clearTimeout(this.lookTimer);
    this.ended = false;
    this.stop = this.follow();
  }

  private lookLater(): void {
    clearTimeout(this.lookTimer);
    this.lookTimer = setTimeout(async () => {
      if (this.closed || !this.ended) return;
      const sweep = document.hidden ? null : await api.sweep(this.id).catch(() => null);
      if (this.closed || !this.ended) return;
      if (sweep && !sweepEnded(sweep)) this.again();
      else this.lookLater();
    }, LOOK_AGAIN);
  }

  close(): void {
    this.closed = true;
    this.stop();
    clearTimeout(this.flushTimer);
    clearTimeout(this.fetchTimer);
    clearTimeout(this.lookTimer);
  }

  private take(message: StreamMessage): void {
    this.pending.push(message);
    if (message.type === "end") {
      // The last word comes from the database, not from what happened to be streamed.
      void this.loadAll();
      this.ended = true;
      this.lookLater();
    } else if (message.type === "reset") {
      // Messages were left out: this tab was too slow, or away for too long.
      void this.loadAll();
    } else {
      this.flushTimer ??= setTimeout(() => this.flush(), GATHER);
    }
  }

  private async loadAll(): Promise<void> {
    const mine = ++this.load;
    this.loading = true;
    try {
      const [sweep, trials, decisions, commands, metrics] = await Promise.all([
        api.sweep(this.id),
        api.trials(this.id),
        api.decisions(this.id),
        api.commands(this.id),
        api.metrics(this.id),
      ]);
      if (this.closed || mine !== this.load) return;
      this.lastDecision = decisions.at(-1)?.id ?? 0;
      this.measured = new Set(metrics.evaluations.map((e) => measuredKey(e.trial_id, e)));
      this.dispatch({ type: "loaded", sweep, trials, decisions, commands, metrics });
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
