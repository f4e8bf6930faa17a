/**
 * Signing in. A token is exchanged once for a session, which the browser keeps in a cookie that no
 * script can read; what changes something also carries the session's CSRF token. See api/session.py.
 */

import { ApiError, asError } from "./problem";
import type { Session } from "./types";

export type SignIn =
  | { state: "checking" }
  | { state: "in"; session: Session | null }
  /** `refused`: why the last token was, null if none was tried. */
  | { state: "out"; refused: ApiError | null };

/** Where earlier versions kept the token itself. */
const LEGACY_KEY = "winnow.token";

let now: SignIn = { state: "checking" };
let started: Promise<void> | null = null;
const listeners = new Set<() => void>();

export const current = () => now;

export function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Signs in with the token in the address (`#token=…`), or goes on with the session that there is. */
export function start(): Promise<void> {
  started ??= begin();
  return started;
}

export async function signIn(token: string): Promise<void> {
  try {
    const headers = { Authorization: `Bearer ${token.trim()}` };
    become({ state: "in", session: await call("POST", headers) });
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    become({ state: "out", refused: error });
  }
}

export async function signOut(): Promise<void> {
  try {
    await fetch("/v1/session", { method: "DELETE", headers: { "X-CSRF-Token": await csrf() } });
  } catch {
    // The server is away or the session is gone; this browser forgets it either way.
  }
  become({ state: "out", refused: null });
}

/** The server said that the session has ended. */
export function signedOut(): void {
  if (now.state !== "out") become({ state: "out", refused: null });
}

/** What changes have to carry; `anew` asks the server, as another tab may have signed in again. */
export async function csrf(anew = false): Promise<string> {
  if (!anew && now.state === "in" && now.session) return now.session.csrf;
  const session = await call("GET");
  become({ state: "in", session });
  return session.csrf;
}

async function begin(): Promise<void> {
  const token = takeToken();
  if (token) return signIn(token);
  try {
    become({ state: "in", session: await call("GET") });
  } catch (error) {
    // A server that is away is the pages' to report: who is signed in stays so.
    const out = error instanceof ApiError && error.status === 401;
    become(out ? { state: "out", refused: null } : { state: "in", session: null });
  }
}

/** The token in the address, taken out of it so that it is neither bookmarked nor shared. */
function takeToken(): string | null {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) history.replaceState(history.state, "", location.pathname + location.search);
  try {
    const kept = localStorage.getItem(LEGACY_KEY);
    localStorage.removeItem(LEGACY_KEY);
    return token ?? kept;
  } catch {
    return token;
  }
}

async function call(method: "GET" | "POST", headers: Record<string, string> = {}): Promise<Session> {
  let response: Response;
  try {
    response = await fetch("/v1/session", { method, headers, cache: "no-store" });
  } catch {
    throw new ApiError(0, "The server does not answer.");
  }
  if (!response.ok) throw await asError(response);
  return (await response.json()) as Session;
}

function become(next: SignIn): void {
  now = next;
  listeners.forEach((listener) => listener());
}
