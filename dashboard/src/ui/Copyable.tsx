/** A command or path with a button that copies it. */

import { useState } from "react";
import { Icon } from "./Icon";

export function Copyable({ text }: { text: string }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return (
    <span className="copyable">
      <code>{text}</code>
      <button type="button" className="icon-button" aria-label={`Copy ${text}`} onClick={copy}>
        <Icon name={copied ? "check" : "copy"} size={14} />
      </button>
    </span>
  );
}
