/** A question before something that can't be undone. Native dialog: focus and Escape come with it. */

import { useEffect, useRef, useState } from "react";
import { ApiError } from "../api/client";

export interface Question {
  title: string;
  text: string;
  action: string;
  run(): Promise<void>;
}

export function Confirm({ question, onDone }: { question: Question; onDone(): void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string | null>(null);

  useEffect(() => dialog.current?.showModal(), []);

  const run = async () => {
    setBusy(true);
    setError(null);
    try {
      await question.run();
      onDone();
    } catch (failure) {
      setError(failure instanceof ApiError ? failure.message : String(failure));
      setBusy(false);
    }
  };

  return (
    <dialog ref={dialog} className="confirm" onClose={onDone} aria-labelledby="confirm-title">
      <h2 id="confirm-title">{question.title}</h2>
      <p>{question.text}</p>
      {error ? <p className="form-error" role="alert">{error}</p> : null}
      <div className="confirm-actions">
        <button type="button" className="button" onClick={onDone} disabled={busy}>
          Keep running
        </button>
        <button type="button" className="button danger" onClick={run} disabled={busy}>
          {busy ? "Asking…" : question.action}
        </button>
      </div>
    </dialog>
  );
}
