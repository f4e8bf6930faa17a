/** The dialogs that change a sweep: their fields, and what they send. */

import { api } from "../api/client";
import type { Command, Spending, Sweep, Trial } from "../api/types";
import * as format from "../format";
import { typed } from "../state/commands";
import type { Field, Form } from "../ui/FormDialog";
import { amount } from "./Share";

type Note = (asked: Command[]) => void;

/** A new trial like `trial`; only what was changed is sent. */
export function cloneForm(trial: Trial, note: Note): Form {
  const fields = Object.entries(trial.params).map(([name, value]) => parameter(name, value));
  return {
    title: `Clone trial ${trial.number}`,
    text: "A new trial with these parameters. Values may lie outside the space that the sampler searches.",
    action: "Run clone",
    fields,
    submit: async (values) => {
      const changed = fields.filter((field) => values[field.name] !== field.value);
      note(await api.clone(trial.id, Object.fromEntries(changed.map((f) => [f.name, typed(values[f.name]!)]))));
    },
  };
}

/** A configuration of the user's own. It begins with the best trial's values. */
export function addForm(sweep: Sweep, best: Trial | undefined, note: Note): Form {
  const names = Object.entries((sweep.spec.space ?? {}) as Record<string, unknown>);
  const fields = names
    .filter(([, range]) => range !== null)
    .map(([name]) => parameter(name, best?.params[name]));
  return {
    title: "Add a trial",
    text: best
      ? `Runs beside the sampler’s own. The values are those of trial ${best.number}, the best so far.`
      : "Runs beside the sampler’s own.",
    action: "Add trial",
    fields,
    submit: async (values) => {
      const given = fields.filter((field) => values[field.name]!.trim() !== "");
      note(await api.add(sweep.id, Object.fromEntries(given.map((f) => [f.name, typed(values[f.name]!)]))));
    },
  };
}

export function extendForm(sweep: Sweep, note: Note): Form {
  const { planned } = sweep.summary;
  return {
    title: `Extend ${sweep.name}`,
    text: `${format.count(planned)} trials are planned. The sampler proposes more; a sweep that has ended goes on.`,
    action: "Extend",
    fields: [{ name: "trials", label: "Trials more", value: "8", pointer: "/trials" }],
    submit: async (values) => note(await api.extend(sweep.id, typed(values.trials!))),
  };
}

const LIMITS: Record<Spending["what"], string> = {
  trials: "Budget: trials",
  hours: "Budget: hours",
  gpu_hours: "Budget: GPU-hours",
  cost: "Budget: cost",
};

/** Concurrency, priority, weight and the limits of the budget; an emptied field lifts its limit. */
export function settingsForm(sweep: Sweep, note: Note): Form {
  const gpus = Number((sweep.spec.resources as { gpus_per_trial?: number } | undefined)?.gpus_per_trial ?? 0);
  const limits = (Object.keys(LIMITS) as Spending["what"][]).filter(
    (what) => gpus > 0 || what === "trials" || what === "hours",
  );
  const limit = (what: Spending["what"]) => sweep.budget?.find((b) => b.what === what);
  const fields: Field[] = [
    text("max_concurrent", "Trials at once", sweep.max_concurrent, "As many as it gets"),
    text("priority", "Priority", sweep.priority ?? 0, undefined, "From −100 to 100. All that a higher one can use comes first."),
    text("weight", "Weight", sweep.weight ?? 1, undefined, "Sweeps of equal priority share by weight."),
    ...limits.map((what) => {
      const used = limit(what)?.used;
      return {
        ...text(what, LIMITS[what], limit(what)?.limit, "No limit", used ? `${amount(what, used)} used so far` : undefined),
        pointer: `/budget/${what}`,
      };
    }),
  ];
  if (gpus > 0) {
    const before = (sweep.spec.budget as { cost_per_gpu_hour?: number } | undefined)?.cost_per_gpu_hour;
    fields.push({ ...text("cost_per_gpu_hour", "Cost of a GPU-hour", before, "Not known"), pointer: "/budget/cost_per_gpu_hour" });
  }
  return {
    title: "Share and budget",
    text: "Takes effect within seconds. When a limit is reached, the sweep ends and keeps its best.",
    action: "Save",
    fields,
    submit: async (values) => {
      const changes: Record<string, unknown> = {};
      const budget: Record<string, unknown> = {};
      for (const field of fields) {
        const now = values[field.name]!.trim();
        if (now === field.value) continue;
        const into = field.pointer.startsWith("/budget/") ? budget : changes;
        into[field.name] = now === "" ? null : typed(now);
      }
      if (Object.keys(budget).length) changes.budget = budget;
      if (Object.keys(changes).length) note(await api.set(sweep.id, changes));
    },
  };
}

function parameter(name: string, value: unknown): Field {
  return {
    name,
    label: format.title(name),
    value: value === null || value === undefined ? "" : String(value),
    pointer: `/params/${name}`,
  };
}

function text(name: string, label: string, value: unknown, placeholder?: string, hint?: string): Field {
  return {
    name,
    label,
    value: value === null || value === undefined ? "" : String(value),
    pointer: `/${name}`,
    ...(placeholder ? { placeholder } : {}),
    ...(hint ? { hint } : {}),
  };
}
