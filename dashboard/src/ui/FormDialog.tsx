/** A few fields in a dialog. What the server finds wrong is said at the field it is about. */

import { useEffect, useRef, useState, type FormEvent } from "react";
import { ApiError } from "../api/client";
import type { FieldError } from "../api/types";
import { sentence } from "../format";

export interface Field {
  name: string;
  label: string;
  value: string;
  /** Where the API's errors about this field point. */
  pointer: string;
  hint?: string;
  placeholder?: string;
}

export interface Form {
  title: string;
  text?: string;
  action: string;
  fields: readonly Field[];
  /** Throws ApiError if the server refuses. */
  submit(values: Record<string, string>): Promise<void>;
}

export function FormDialog({ form, onDone }: { form: Form; onDone(): void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [values, setValues] = useState(() => Object.fromEntries(form.fields.map((f) => [f.name, f.value])));
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<ApiError | null>(null);

  useEffect(() => {
    dialog.current?.showModal();
    dialog.current?.querySelector<HTMLInputElement>("input")?.select();
  }, []);
  useEffect(() => {
    if (error) dialog.current?.querySelector<HTMLInputElement>("[aria-invalid=true]")?.focus();
  }, [error]);

  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    try {
      await form.submit(values);
      onDone();
    } catch (failure) {
      setError(failure instanceof ApiError ? failure : new ApiError(0, String(failure)));
      setBusy(false);
    }
  };

  const faults = error?.fields ?? [];
  const elsewhere = faults.filter((fault) => !form.fields.some((field) => isAbout(fault, field)));
  return (
    <dialog ref={dialog} className="confirm form-dialog" onClose={onDone} aria-labelledby="form-title">
      <form onSubmit={submit} noValidate>
        <h2 id="form-title">{form.title}</h2>
        {form.text ? <p>{form.text}</p> : null}
        <div className="form-fields">
          {form.fields.map((field) => (
            <Row
              key={field.name}
              field={field}
              value={values[field.name] ?? ""}
              faults={faults.filter((fault) => isAbout(fault, field))}
              onChange={(text) => setValues({ ...values, [field.name]: text })}
            />
          ))}
        </div>
        {error && (faults.length === 0 || elsewhere.length) ? (
          <p className="form-error" role="alert">
            {elsewhere.length ? elsewhere.map((e) => sentence(e.message)).join(" ") : sentence(error.message)}
          </p>
        ) : null}
        <div className="confirm-actions">
          <button type="button" className="button" onClick={onDone} disabled={busy}>
            Close
          </button>
          <button type="submit" className="button primary" disabled={busy}>
            {busy ? "Asking…" : form.action}
          </button>
        </div>
      </form>
    </dialog>
  );
}

function Row(props: { field: Field; value: string; faults: readonly FieldError[]; onChange(text: string): void }) {
  const { field, faults } = props;
  const id = `field-${field.name}`;
  const changed = props.value !== field.value;
  return (
    <div className={`form-row ${changed ? "changed" : ""}`}>
      <label htmlFor={id}>{field.label}</label>
      <input
        id={id}
        value={props.value}
        placeholder={field.placeholder}
        autoComplete="off"
        spellCheck={false}
        aria-invalid={faults.length > 0}
        aria-describedby={faults.length || field.hint ? `${id}-said` : undefined}
        onChange={(event) => props.onChange(event.target.value)}
      />
      {faults.length || field.hint ? (
        <span id={`${id}-said`} className={faults.length ? "field-fault" : "field-hint"}>
          {faults.length ? faults.map((f) => sentence(f.message)).join(" ") : field.hint}
        </span>
      ) : null}
    </div>
  );
}

function isAbout(fault: FieldError, field: Field): boolean {
  return fault.pointer === field.pointer || fault.pointer.startsWith(`${field.pointer}/`);
}
