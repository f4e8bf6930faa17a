/** What people asked for, newest first: who, when, and what became of it. */

import { memo, useState } from "react";
import type { Command } from "../api/types";
import * as format from "../format";
import { told } from "../state/commands";
import { useNow } from "../ui/useNow";

const FIRST_SHOWN = 8;

export const Changes = memo(function Changes({ commands }: { commands: readonly Command[] }) {
  const [all, setAll] = useState(false);
  const now = useNow(10_000);
  if (commands.length === 0) return null;
  const shown = all ? commands : commands.slice(0, FIRST_SHOWN);
  return (
    <section className="panel changes" aria-label="Changes">
      <div className="panel-head">
        <h2>Changes</h2>
        <span className="faint">{commands.length} asked for</span>
      </div>
      <ChangeList commands={shown} now={now} />
      {commands.length > shown.length ? (
        <button type="button" className="button small more" onClick={() => setAll(true)}>
          Show all {commands.length}
        </button>
      ) : null}
    </section>
  );
});

export function ChangeList({ commands, now }: { commands: readonly Command[]; now: number }) {
  return (
    <ol className="change-list">
      {commands.map((command) => (
        <li key={command.id} className={command.result === null ? "change-entry open" : "change-entry"}>
          <div className="decision-head">
            <span>{format.sentence(told(command)).replace(/\.$/, "")}</span>
            <span className="decision-when" title={command.created_at}>
              {format.ago(command.created_at, now)}
            </span>
          </div>
          <p className="change-result">
            <span className="tag">{command.issued_by}</span>{" "}
            {command.result === null ? (
              <span className="waits asked">Asked, waiting</span>
            ) : (
              format.sentence(command.result)
            )}
          </p>
        </li>
      ))}
    </ol>
  );
}
