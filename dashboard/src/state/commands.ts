/** What people ask of a sweep and its trials: in words, and what can be asked of which. Pure. */

import type { TrialAction } from "../api/client";
import type { Command, CommandKind, Event, Sweep, Trial } from "../api/types";
import * as format from "../format";
import { ended, sweepEnded } from "./derive";

/** Newest first, each once; a result that is known isn't forgotten again. */
export function withCommands(before: readonly Command[], added: readonly Command[]): readonly Command[] {
  if (added.length === 0) return before;
  const known = new Map(before.map((c) => [c.id, c]));
  for (const command of added) {
    if (command.result !== null || known.get(command.id)?.result == null) known.set(command.id, command);
  }
  return [...known.values()].sort((a, b) => b.id - a.id);
}

/** The command that an event tells of; null for other events. */
export function commandOf(event: Event, known: readonly Command[]): Command | null {
  if (event.type !== "command") return null;
  const { id, kind, by, payload, result } = event.data;
  if (typeof id !== "number") return null;
  const before = known.find((c) => c.id === id);
  const done = typeof result === "string" ? result : null;
  return {
    id,
    sweep_id: event.sweep_id,
    trial_id: event.trial_id,
    kind: kind as CommandKind,
    payload: (payload as Record<string, unknown> | undefined) ?? null,
    issued_by: String(by ?? ""),
    result: done,
    created_at: before?.created_at ?? event.created_at,
    finished_at: done === null ? null : event.created_at,
  };
}

/** Commands that wait, by what they are about: a trial's id, or the sweep's. The latest of each. */
export function waiting(commands: readonly Command[]): ReadonlyMap<string, Command> {
  const found = new Map<string, Command>();
  for (const command of commands) {
    const subject = command.trial_id ?? command.sweep_id;
    if (command.result === null && !found.has(subject)) found.set(subject, command);
  }
  return found;
}

/** What can be asked of a trial in its state, the usual first. */
export function trialActions(trial: Trial, sweep: Sweep): TrialAction[] {
  if (trial.kind !== "search") return ended(trial) ? [] : ["stop"];
  const pin: TrialAction = trial.pinned ? "unpin" : "pin";
  if (trial.state === "COMPLETED") return trial.pinned ? ["unpin"] : [];
  if (ended(trial)) return trial.pinned ? ["revive", "unpin"] : ["revive"];
  if (sweepEnded(sweep)) return [];
  return [trial.state === "PAUSED" ? "resume" : "pause", "stop", pin];
}

/** Whether the sampler can propose more: a grid has all its configurations planned. */
export function canExtend(sweep: Sweep): boolean {
  return (sweep.spec.search as { sampler?: string } | undefined)?.sampler !== "grid";
}

const NAMES: Record<string, string> = { max_concurrent: "trials at once" };
const SWEEP_VERBS: Partial<Record<CommandKind, string>> = {
  cancel: "cancel the sweep",
  pause: "pause the sweep",
  resume: "resume the sweep",
};

/** A command in words, without its subject's sweep: stop trial 7; 8 trials more; priority 5. */
export function told(command: Command): string {
  const payload = command.payload ?? {};
  if (command.trial_id !== null) {
    const line = `${command.kind} trial ${trialNumber(command.trial_id)}`;
    const params = values(payload.params);
    return command.kind === "clone" && params ? `${line} with ${params}` : line;
  }
  switch (command.kind) {
    case "extend":
      return `${format.value(payload.trials)} ${payload.trials === 1 ? "trial" : "trials"} more`;
    case "add":
      return `add a trial: ${values(payload.params)}`;
    case "narrow":
      return `narrow the space: ${values(narrowedOf(payload))}`;
    case "set": {
      const { budget, limits: named, ...rest } = payload;
      const limits = Object.entries((budget ?? {}) as Record<string, unknown>)
        .filter(([name, limit]) => (Array.isArray(named) ? named.includes(name) : limit !== null))
        .map(([name, limit]) => `budget ${name.replaceAll("_", " ")} ${one(name, limit)}`);
      return `set ${[values(rest), ...limits].filter(Boolean).join(", ") || "no budget"}`;
    }
    default:
      return SWEEP_VERBS[command.kind] ?? command.kind;
  }
}

/** The parameters that a command narrows; the space that is left is told whole. */
function narrowedOf({ space, narrowed }: Record<string, unknown>): unknown {
  if (!Array.isArray(narrowed)) return space;
  return Object.fromEntries(narrowed.map((name: string) => [name, (space as Record<string, unknown>)[name]]));
}

export function trialNumber(trialId: string): string {
  return trialId.slice(trialId.lastIndexOf("-") + 1);
}

/** learning rate 2e-5, warmup steps 25 */
function values(found: unknown): string {
  return Object.entries((found ?? {}) as Record<string, unknown>)
    .map(([name, value]) => `${NAMES[name] ?? name.replaceAll("_", " ")} ${one(name, value)}`)
    .join(", ");
}

function one(name: string, value: unknown): string {
  if (value === null) return "without limit";
  if (name === "learning_rate" && typeof value === "number") return format.rate(value);
  if (typeof value !== "object") return format.value(value);
  const [kind, inner] = Object.entries(value as Record<string, unknown>)[0] ?? ["", null];
  if (!Array.isArray(inner)) return format.value(inner);
  return inner.map((v) => one(name, v)).join(kind === "choice" ? ", " : " to ");
}

/** What a person typed into a field, as the API takes it: a number, true, false, null, or text. */
export function typed(text: string): unknown {
  const trimmed = text.trim();
  try {
    const parsed: unknown = JSON.parse(trimmed);
    return typeof parsed === "object" && parsed !== null ? trimmed : parsed;
  } catch {
    const number = Number(trimmed);
    return trimmed !== "" && Number.isFinite(number) ? number : trimmed;
  }
}
