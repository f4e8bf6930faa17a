/** The frame: top bar, the page that the address names, and the token gate in front of it. */

import { useCallback, useState, type ReactNode } from "react";
import { loadToken, saveToken } from "./api/token";
import { SweepListPage } from "./pages/SweepListPage";
import { SweepPage } from "./pages/SweepPage";
import { TokenPage } from "./pages/TokenPage";
import { useAddress } from "./state/url";
import { Link } from "./ui/Link";
import { ThemeToggle } from "./ui/theme";

export function App() {
  const { path } = useAddress();
  const [gate, setGate] = useState<"open" | "missing" | "refused">(loadToken() ? "open" : "missing");
  const onUnauthorized = useCallback(() => setGate(loadToken() ? "refused" : "missing"), []);

  if (gate !== "open") {
    const enter = (token: string) => {
      saveToken(token);
      setGate("open");
    };
    return (
      <Frame>
        <TokenPage refused={gate === "refused"} onToken={enter} />
      </Frame>
    );
  }

  const sweepId = /^\/sweeps\/([^/]+)\/?$/.exec(path)?.[1];
  if (sweepId) {
    const id = decodeURIComponent(sweepId);
    return <SweepPage key={id} id={id} frame={Frame} onUnauthorized={onUnauthorized} />;
  }
  return (
    <Frame>
      <SweepListPage onUnauthorized={onUnauthorized} />
    </Frame>
  );
}

export function Frame({ crumb, status, children }: { crumb?: string; status?: ReactNode; children: ReactNode }) {
  return (
    <>
      <header className="topbar">
        <Link to="/" className="brand">
          <img src="/favicon.svg" alt="" width="20" height="20" />
          winnow
        </Link>
        {crumb ? (
          <nav className="crumbs" aria-label="Breadcrumb">
            <Link to="/">Sweeps</Link>
            <span aria-hidden="true">/</span>
            <span className="crumb-here" aria-current="page">{crumb}</span>
          </nav>
        ) : null}
        <div className="topbar-end">
          {status}
          <ThemeToggle />
        </div>
      </header>
      <main>{children}</main>
    </>
  );
}
