/** Asks for a token when this browser isn't signed in, or came with a token that was refused. */

import { useEffect, useState, type FormEvent } from "react";
import type { ApiError } from "../api/problem";

interface TokenPageProps {
  refused: ApiError | null;
  onToken(token: string): Promise<void>;
}

export function TokenPage({ refused, onToken }: TokenPageProps) {
  const [token, setToken] = useState("");
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    document.title = "winnow";
  }, []);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (!token.trim() || busy) return;
    setBusy(true);
    void onToken(token).finally(() => setBusy(false));
  };
  return (
    <section className="token-page">
      <h1>{heading(refused)}</h1>
      <p>
        {refused ? `${sentence(refused.message)} ` : "It keeps others on this machine or network out of your sweeps. "}
        The terminal that runs <code>winnow up</code> shows an address with the token in it: open that,
        or paste a token here. This browser then stays signed in, without keeping the token.
      </p>
      <form onSubmit={submit}>
        <label htmlFor="token">Token</label>
        <div className="token-row">
          <input
            id="token"
            type="password"
            autoComplete="off"
            spellCheck={false}
            autoFocus
            value={token}
            onChange={(event) => setToken(event.target.value)}
          />
          <button type="submit" className="button primary" disabled={!token.trim() || busy}>
            Continue
          </button>
        </div>
      </form>
    </section>
  );
}

function heading(refused: ApiError | null): string {
  if (!refused) return "This server asks for a token";
  return refused.unauthorized ? "That token was refused" : "Signing in did not work";
}

function sentence(text: string): string {
  const start = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(start) ? start : `${start}.`;
}
