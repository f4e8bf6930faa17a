/** A link within the dashboard: no page load, and still a link for new tabs and copying. */

import type { MouseEvent, ReactNode } from "react";
import { navigate } from "../state/url";

export function Link(props: { to: string; className?: string; children: ReactNode }) {
  const onClick = (event: MouseEvent) => {
    if (event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    navigate(props.to);
  };
  return (
    <a href={props.to} className={props.className} onClick={onClick}>
      {props.children}
    </a>
  );
}
