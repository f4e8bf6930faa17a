/** The frame: top bar, the page that the address names, and the sign-in in front of it. */

import { useEffect, type ReactNode } from "react";
import { signIn, signedOut, start } from "./api/session";
import { SweepListPage } from "./pages/SweepListPage";
import { SweepPage } from "./pages/SweepPage";
import { TokenPage } from "./pages/TokenPage";
import { useAddress } from "./state/url";
import { useSignIn } from "./state/useSignIn";
import { Link } from "./ui/Link";
import { SignOut } from "./ui/SignOut";
import { ThemeToggle } from "./ui/theme";

export function App() {
  const { path } = useAddress();
  const gate = useSignIn();
  useEffect(() => void start(), []);

  if (gate.state === "checking") return <Frame>{null}</Frame>;
  if (gate.state === "out") {
    return (
      <Frame>
        <TokenPage refused={gate.refused} onToken={signIn} />
      </Frame>
    );
  }

  const sweepId = /^\/sweeps\/([^/]+)\/?$/.exec(path)?.[1];
  if (sweepId) {
    const id = decodeURIComponent(sweepId);
    return <SweepPage key={id} id={id} frame={Frame} onUnauthorized={signedOut} />;
  }
  return (
    <Frame>
      <SweepListPage onUnauthorized={signedOut} />
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
          <SignOut />
          <ThemeToggle />
        </div>
      </header>
      <main>{children}</main>
    </>
  );
}
