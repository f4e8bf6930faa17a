/** Where the bearer token comes from: `#token=…` in the address once, then this browser's storage. */

const KEY = "winnow.token";

/** Takes a token out of the address bar, so that it is neither bookmarked nor shared. */
export function adoptTokenFromAddress(): void {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  saveToken(token);
  history.replaceState(history.state, "", location.pathname + location.search);
}

export function loadToken(): string | null {
  try {
    return localStorage.getItem(KEY) ?? memory;
  } catch {
    return memory;
  }
}

export function saveToken(token: string): void {
  memory = token.trim();
  try {
    localStorage.setItem(KEY, memory);
  } catch {
    // Storage is blocked: the token lives as long as this tab.
  }
}

let memory: string | null = null;
