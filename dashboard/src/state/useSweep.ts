/** One sweep, loaded and kept current. */

import { useEffect, useReducer } from "react";
import { ApiError, api } from "../api/client";
import { followSweep, type StreamMessage } from "../api/stream";
import { emptyView, reduce, type SweepView } from "./sweep";

/** Messages are gathered for this long, so that a busy sweep renders a few times a second. */
const GATHER = 150;

/**
 * Opens the stream first, then fetches, then applies what streamed meanwhile: nothing falls in
 * between. After a lost connection the same happens again.
 */
export function useSweep(id: string): SweepView {
  const [view, dispatch] = useReducer(reduce, emptyView);

  useEffect(() => {
    let gone = false;
    let loads = 0;
    let loading = true;
    let pending: StreamMessage[] = [];
    let flushTimer: ReturnType<typeof setTimeout> | undefined;
    let refreshTimer: ReturnType<typeof setTimeout> | undefined;

    const flush = () => {
      flushTimer = undefined;
      if (loading || gone || pending.length === 0) return;
      const messages = pending;
      pending = [];
      dispatch({ type: "messages", messages });
    };

    const load = async () => {
      const mine = ++loads;
      loading = true;
      try {
        const [sweep, trials, decisions, metrics] = await Promise.all([
          api.sweep(id),
          api.trials(id),
          api.decisions(id),
          api.metrics(id),
        ]);
        if (gone || mine !== loads) return;
        dispatch({ type: "loaded", sweep, trials, decisions, metrics });
      } catch (error) {
        if (!gone && mine === loads && error instanceof ApiError) dispatch({ type: "failed", error });
      }
      if (mine === loads) {
        loading = false;
        flush();
      }
    };

    /** Decisions and evaluations arrive as events; their full rows are fetched, soon and once. */
    const refresh = () => {
      refreshTimer ??= setTimeout(async () => {
        refreshTimer = undefined;
        const [decisions, metrics] = await Promise.allSettled([api.decisions(id), api.metrics(id)]);
        if (gone) return;
        if (decisions.status === "fulfilled") dispatch({ type: "decisions", decisions: decisions.value });
        if (metrics.status === "fulfilled") {
          dispatch({ type: "evaluations", evaluations: metrics.value.evaluations });
        }
      }, 400);
    };

    const stop = followSweep(id, {
      onOpen: () => {
        dispatch({ type: "connection", connection: { status: "live" } });
        void load();
      },
      onMessage: (message) => {
        if (message.type === "event") {
          if (message.event.type === "decision" || message.event.type === "evaluation") refresh();
          return;
        }
        pending.push(message);
        if (message.type === "end") {
          // The last word comes from the database, not from what happened to be streamed.
          void load();
        } else {
          flushTimer ??= setTimeout(flush, GATHER);
        }
      },
      onLost: (retryIn) =>
        dispatch({ type: "connection", connection: { status: "lost", retryAt: Date.now() + retryIn } }),
      onRefused: (error) => dispatch({ type: "failed", error }),
    });

    return () => {
      gone = true;
      stop();
      clearTimeout(flushTimer);
      clearTimeout(refreshTimer);
    };
  }, [id]);

  return view;
}
