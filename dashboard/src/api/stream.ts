/**
 * A sweep's live stream. `EventSource` doesn't tell why a server refuses, nor notices one that has gone
 * silent, so this reads the same format from `fetch`, and does what `EventSource` would: reconnect
 * with backoff from the last event's id.
 */

import { EventSourceParserStream } from "eventsource-parser/stream";
import { ApiError, request } from "./client";
import type { Curve, Event, Sweep, Trial } from "./types";

export type StreamMessage =
  | { type: "event"; event: Event }
  | { type: "progress"; trials: Trial[] }
  | { type: "sweep"; sweep: Sweep }
  | { type: "points"; curves: Curve[] }
  | { type: "reset" }
  | { type: "end" };

export interface StreamHandlers {
  /** The connection stands: what the server says from now on will arrive. */
  onOpen(): void;
  onMessage(message: StreamMessage): void;
  /** The connection broke; the next attempt follows after `retryIn` ms. */
  onLost(retryIn: number): void;
  /** The server refused for good (unknown sweep, signed out). */
  onRefused(error: ApiError): void;
}

const FIRST_RETRY = 500;
const LAST_RETRY = 15_000;
/** The server sends a comment every ten seconds; a line silent for this long is dead. */
const SILENCE = 35_000;

/** Follows the stream until the sweep ends or the returned function is called. */
export function followSweep(sweepId: string, handlers: StreamHandlers): () => void {
  const control = new AbortController();
  void follow(sweepId, handlers, control.signal);
  return () => control.abort();
}

async function follow(sweepId: string, handlers: StreamHandlers, stop: AbortSignal): Promise<void> {
  let lastEventId: string | null = null;
  let retry = FIRST_RETRY;
  while (!stop.aborted) {
    const attempt = new AbortController();
    const signal = AbortSignal.any([stop, attempt.signal]);
    let watchdog = setTimeout(() => attempt.abort(), SILENCE);
    try {
      const headers: Record<string, string> = { Accept: "text/event-stream" };
      if (lastEventId !== null) headers["Last-Event-ID"] = lastEventId;
      const path = `/v1/sweeps/${encodeURIComponent(sweepId)}/stream`;
      const response = await request(path, { headers, signal, cache: "no-store" });
      if (!response.body) throw new ApiError(0, "The stream is empty.");
      handlers.onOpen();
      const alive = new TransformStream<string, string>({
        transform(chunk, controller) {
          clearTimeout(watchdog);
          watchdog = setTimeout(() => attempt.abort(), SILENCE);
          controller.enqueue(chunk);
        },
      });
      const reader = response.body
        .pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array<ArrayBuffer>>)
        .pipeThrough(alive)
        .pipeThrough(new EventSourceParserStream())
        .getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        retry = FIRST_RETRY;
        if (value.id !== undefined) lastEventId = value.id;
        const message = parseMessage(value.event, value.data);
        if (message === null) continue;
        handlers.onMessage(message);
        if (message.type === "end") return;
      }
    } catch (error) {
      if (stop.aborted) return;
      if (error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429) {
        handlers.onRefused(error);
        return;
      }
    } finally {
      clearTimeout(watchdog);
    }
    if (stop.aborted) return;
    handlers.onLost(retry);
    await sleep(retry, stop);
    retry = Math.min(retry * 2, LAST_RETRY);
  }
}

/** A message of a known kind; null for one this version doesn't know. */
export function parseMessage(kind: string | undefined, data: string): StreamMessage | null {
  let body: Record<string, unknown>;
  try {
    body = data ? (JSON.parse(data) as Record<string, unknown>) : {};
  } catch {
    return null;
  }
  switch (kind) {
    case "progress":
      return { type: "progress", trials: body.trials as Trial[] };
    case "sweep":
      return { type: "sweep", sweep: body as unknown as Sweep };
    case "points":
      return { type: "points", curves: body.curves as Curve[] };
    case "reset":
      return { type: "reset" };
    case "end":
      return { type: "end" };
    case "event":
      return { type: "event", event: body as unknown as Event };
    default:
      return null;
  }
}

function sleep(ms: number, stop: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    stop.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}
