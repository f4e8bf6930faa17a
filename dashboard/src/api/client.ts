/** Calls to the API. The browser adds the session's cookie; changes carry its CSRF token as well. */

import { ApiError, asError } from "./problem";
import { csrf } from "./session";
import type { Command, Decision, Health, Metrics, Page, Sweep, Trial } from "./types";

export { ApiError } from "./problem";

export const api = {
  health: () => get<Health>("/v1/health"),
  sweeps: () => all<Sweep>("/v1/sweeps"),
  sweep: (id: string) => get<Sweep>(`/v1/sweeps/${seg(id)}`),
  trials: (id: string) => all<Trial>(`/v1/sweeps/${seg(id)}/trials`),
  /** Decisions with an id above `after`, in their order. */
  decisions: (id: string, after = 0) => all<Decision>(`/v1/sweeps/${seg(id)}/decisions`, { after }),
  metrics: (id: string, maxPoints = 400) =>
    get<Metrics>(`/v1/sweeps/${seg(id)}/metrics?max_points=${maxPoints}`),
  /** Evaluations of some trials, with next to nothing of their curves. */
  evaluations: async (id: string, trialIds: readonly string[]) => {
    const trials = encodeURIComponent(trialIds.join(","));
    return (await get<Metrics>(`/v1/sweeps/${seg(id)}/metrics?max_points=2&trials=${trials}`)).evaluations;
  },
  /** What was asked of a sweep and its trials, in order. */
  commands: (id: string) => all<Command>(`/v1/sweeps/${seg(id)}/commands`),
  askTrial: (id: string, action: TrialAction) => ask(`/v1/trials/${seg(id)}:${action}`),
  clone: (id: string, params: Record<string, unknown>) => ask(`/v1/trials/${seg(id)}:clone`, { params }),
  askSweep: (id: string, action: "cancel" | "pause" | "resume") => ask(`/v1/sweeps/${seg(id)}:${action}`),
  extend: (id: string, trials: unknown) => ask(`/v1/sweeps/${seg(id)}:extend`, { trials }),
  set: (id: string, changes: Record<string, unknown>) => ask(`/v1/sweeps/${seg(id)}:set`, changes),
  add: async (id: string, params: Record<string, unknown>) => {
    const page = await post<Page<Command>>(`/v1/sweeps/${seg(id)}:add`, { params });
    return page.items;
  },
};

export type TrialAction = "stop" | "pause" | "resume" | "revive" | "pin" | "unpin";

/** The response of a request, once its status is known to be good. */
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  if (!init.method || init.method === "GET") return send(path, init);
  const signed = (token: string) => {
    const headers = new Headers(init.headers);
    headers.set("X-CSRF-Token", token);
    return send(path, { ...init, headers });
  };
  try {
    return await signed(await csrf());
  } catch (error) {
    // Another tab has signed in anew: nothing was done, and its session is this tab's too.
    if (error instanceof ApiError && error.staleSession) return signed(await csrf(true));
    throw error;
  }
}

async function send(path: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError(0, "The server does not answer.");
  }
  if (!response.ok) throw await asError(response);
  return response;
}

async function get<T>(path: string): Promise<T> {
  return (await request(path)).json() as Promise<T>;
}

/** The command that a request became; its result comes later. */
async function ask(path: string, body?: Record<string, unknown>): Promise<Command[]> {
  return [await post<Command>(path, body)];
}

async function post<T>(path: string, body?: Record<string, unknown>): Promise<T> {
  const init: RequestInit = { method: "POST" };
  if (body) {
    init.headers = { "Content-Type": "application/json" };
    init.body = JSON.stringify(body);
  }
  return (await request(path, init)).json() as Promise<T>;
}

/** Every page of a list, in order. */
async function all<T>(path: string, filters: Record<string, number> = {}): Promise<T[]> {
  const items: T[] = [];
  let cursor: string | null = null;
  do {
    const query = new URLSearchParams({ limit: "500" });
    for (const [name, value] of Object.entries(filters)) query.set(name, String(value));
    if (cursor !== null) query.set("cursor", cursor);
    const page: Page<T> = await get<Page<T>>(`${path}?${query}`);
    items.push(...page.items);
    cursor = page.next;
  } while (cursor !== null);
  return items;
}

function seg(id: string): string {
  return encodeURIComponent(id);
}
