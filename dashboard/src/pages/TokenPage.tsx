/** Asks for the token when this browser has none, or has one that the server refused. */

import { useEffect, useState, type FormEvent } from "react";

export function TokenPage({ refused, onToken }: { refused: boolean; onToken(token: string): void }) {
  const [token, setToken] = useState("");
  useEffect(() => {
    document.title = "winnow";
  }, []);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (token.trim()) onToken(token);
  };
  return (
    <section className="token-page">
      <h1>{refused ? "That token was refused" : "This server asks for a token"}</h1>
      <p>
        {refused
          ? "It may belong to another server, or have been replaced. "
          : "It keeps others on this machine or network out of your sweeps. "}
        The terminal that runs <code>winnow up</code> shows an address with the token in it: open that,
        or paste the token here. This browser remembers it.
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
          <button type="submit" className="button primary" disabled={!token.trim()}>
            Continue
          </button>
        </div>
      </form>
    </section>
  );
}
