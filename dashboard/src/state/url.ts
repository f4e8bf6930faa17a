/** The address bar as state: path for the page, query for all that is selected on it. */

import { useSyncExternalStore } from "react";

const changed = new Set<() => void>();

addEventListener("popstate", () => notify());

/** The current address; re-renders when it changes. */
export function useAddress(): { path: string; query: URLSearchParams } {
  const address = useSyncExternalStore(subscribe, () => location.pathname + location.search);
  const [path, query] = address.split("?") as [string, string | undefined];
  return { path, query: new URLSearchParams(query) };
}

export function navigate(path: string): void {
  history.pushState(null, "", path);
  scrollTo(0, 0);
  notify();
}

/** Sets (or, with null, removes) values of the query without adding to the history. */
export function setQuery(values: Record<string, string | null>): void {
  const query = new URLSearchParams(location.search);
  for (const [key, value] of Object.entries(values)) {
    if (value === null) query.delete(key);
    else query.set(key, value);
  }
  const text = query.toString();
  const next = location.pathname + (text ? `?${text}` : "");
  if (next === location.pathname + location.search) return;
  history.replaceState(history.state, "", next);
  notify();
}

function subscribe(listener: () => void): () => void {
  changed.add(listener);
  return () => changed.delete(listener);
}

function notify(): void {
  for (const listener of changed) listener();
}
