/**
 * A stand-in for the API while working on the dashboard: `npm run dev:fake`, any token.
 *
 * It plays synthetic sweeps against the clock: `/sweeps/demo` runs live and starts over, `/sweeps/done`
 * has ended. `FAKE_SPEED` scales time, `FAKE_AT` (0 to 1) says how far the live one starts.
 */

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Connect, Plugin } from "vite";
import type { Command, CommandKind, Decision, EvaluationPoint, Sweep, Trial } from "../src/api/types.ts";
import { makeStudy, snapshot, type Study } from "./study.ts";

const SPEED = Number(process.env.FAKE_SPEED ?? 1);
const START = Number(process.env.FAKE_AT ?? 0.35);
const TICK = 700;
const SIGNED_IN = "winnow_fake=yes";

export function fakeApi(): Plugin {
  const studies = new Map<string, Study>([
    ["demo", makeStudy("demo", "instructions-demo", 16, START, SPEED)],
    ["done", makeStudy("done", "granite-math", 24, 1, SPEED)],
  ]);
  const handle: Connect.NextHandleFunction = (req, res, next) => {
    const url = new URL(req.url ?? "/", "http://fake");
    if (!url.pathname.startsWith("/v1/")) return next();
    if (url.pathname === "/v1/session") return session(req, res);
    if (!req.headers.cookie?.includes(SIGNED_IN)) return send(res, 401, problem(401, "Sign in with any token."));
    route(url, req, res, studies);
  };
  return {
    name: "fake-api",
    configureServer: (server) => void server.middlewares.use(handle),
    configurePreviewServer: (server) => void server.middlewares.use(handle),
  };
}

/** Signs in with any token, and out again. */
function session(req: IncomingMessage, res: ServerResponse): void {
  const signingIn = req.method === "POST" && Boolean(req.headers.authorization);
  const signedIn = signingIn || Boolean(req.headers.cookie?.includes(SIGNED_IN));
  if (!signedIn) return send(res, 401, problem(401, "Sign in with any token."));
  const gone = req.method === "DELETE";
  res.setHeader("Set-Cookie", `${SIGNED_IN}; Path=/; HttpOnly; SameSite=Strict; Max-Age=${gone ? 0 : 86_400}`);
  send(res, signingIn ? 201 : 200, {
    name: "owner",
    token_id: 1,
    scopes: ["read", "submit", "control", "admin"],
    project: null,
    expires_at: new Date(Date.now() + 86_400_000).toISOString(),
    csrf: "fake",
  });
}

function route(url: URL, req: IncomingMessage, res: ServerResponse, studies: Map<string, Study>): void {
  if (url.pathname === "/v1/health") {
    return send(res, 200, { status: "ok", version: "0.1.0", database: "ok", orchestrator: "ok", cluster: { CPU: 2 } });
  }
  if (url.pathname === "/v1/sweeps") {
    return send(res, 200, page([...studies.values()].map((s) => snapshot(s, Date.now()).sweep)));
  }
  const [, asked, kind] = /^\/v1\/trials\/([^/:]+):(\w+)$/.exec(url.pathname) ?? [];
  if (asked && kind) {
    const study = [...studies.values()].find((s) => asked.startsWith(`${s.id}-`))!;
    return send(res, 202, ask(study, kind as CommandKind, asked));
  }
  const [, id, part] = /^\/v1\/sweeps\/([^/:]+)(?:[/:](\w+))?$/.exec(url.pathname) ?? [];
  const study = id ? studies.get(id) : undefined;
  if (!study) return send(res, 404, problem(404, `There is no sweep ${id ?? ""}.`));
  const now = snapshot(study, Date.now());
  switch (part) {
    case undefined:
      return send(res, 200, now.sweep);
    case "trials":
      return send(res, 200, page(now.trials));
    case "decisions":
      return send(res, 200, page(now.decisions));
    case "metrics":
      return send(res, 200, { curves: now.curves, evaluations: now.evaluations });
    case "commands":
      return send(res, 200, page(study.commands));
    case "cancel":
    case "pause":
    case "resume":
    case "extend":
    case "set":
      return send(res, 202, ask(study, part, null));
    case "stream":
      return stream(study, req, res);
    default:
      return send(res, 404, problem(404, "No such route."));
  }
}

/** Carried out a second later, as far as a synthetic sweep can. */
function ask(study: Study, kind: CommandKind, trialId: string | null): Command {
  const command: Command = {
    id: study.commands.length + 1,
    sweep_id: study.id,
    trial_id: trialId,
    kind,
    payload: null,
    issued_by: "owner",
    result: null,
    created_at: new Date().toISOString(),
    finished_at: null,
  };
  study.commands.push(command);
  setTimeout(() => {
    const now = Date.now();
    if (kind === "cancel") study.canceledAt = now;
    if (trialId && (kind === "stop" || kind === "pause")) study.stopped.set(trialId, now);
    if (trialId && kind === "pause") study.paused.add(trialId);
    if (trialId && kind === "resume") {
      study.paused.delete(trialId);
      study.stopped.delete(trialId);
    }
    if (trialId && kind === "pin") study.pinned.add(trialId);
    if (trialId && kind === "unpin") study.pinned.delete(trialId);
    command.result = "done";
    command.finished_at = new Date(now).toISOString();
  }, 1200);
  return { ...command };
}

/** Server-sent events: what changed since the last tick. */
function stream(study: Study, req: IncomingMessage, res: ServerResponse): void {
  res.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
  let before = snapshot(study, Date.now());
  const told = new Set(study.commands.map((c) => `${c.id}${c.result ?? ""}`));
  let id = Number(req.headers["last-event-id"] ?? 0);
  const emit = (event: string, data: unknown, withId = false) =>
    res.write(`${withId ? `id: ${++id}\n` : ""}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  const stored = (type: string, item: Decision | EvaluationPoint) =>
    emit("event", { id: id + 1, sweep_id: study.id, trial_id: item.trial_id, type, data: item, created_at: new Date().toISOString() }, true);
  const timer = setInterval(() => {
    const now = snapshot(study, Date.now());
    const changed = now.trials.filter((t) => !same(t, before.trials.find((b) => b.id === t.id)));
    if (changed.length) emit("progress", { trials: changed });
    const curves = now.curves.flatMap((curve) => {
      const seen = before.curves.find((c) => c.trial_id === curve.trial_id)?.step.length ?? 0;
      if (seen >= curve.step.length) return [];
      return [{
        ...curve,
        step: curve.step.slice(seen),
        samples: curve.samples.slice(seen),
        loss: curve.loss.slice(seen),
        grad_norm: curve.grad_norm.slice(seen),
        learning_rate: curve.learning_rate.slice(seen),
      }];
    });
    if (curves.length) emit("points", { curves });
    for (const d of now.decisions) if (!before.decisions.some((b) => b.id === d.id)) stored("decision", d);
    for (const e of now.evaluations.slice(before.evaluations.length)) stored("evaluation", e);
    for (const c of study.commands) {
      const state = `${c.id}${c.result ?? ""}`;
      if (told.has(state)) continue;
      told.add(state);
      const data = { id: c.id, kind: c.kind, by: c.issued_by, ...(c.result ? { result: c.result } : {}) };
      emit("event", { id: id + 1, sweep_id: study.id, trial_id: c.trial_id, type: "command", data, created_at: new Date().toISOString() }, true);
    }
    emit("sweep", now.sweep satisfies Sweep);
    if (now.sweep.state !== "RUNNING") {
      emit("end", {});
      clearInterval(timer);
      res.end();
    }
    before = now;
  }, TICK);
  res.on("close", () => clearInterval(timer));
}

function same(a: Trial, b: Trial | undefined): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

function page<T>(items: T[]) {
  return { items, next: null };
}

function problem(status: number, detail: string) {
  return { type: "about:blank", title: "Refused", status, detail, errors: [], request_id: null };
}

function send(res: ServerResponse, status: number, body: unknown): void {
  res.writeHead(status, { "content-type": "application/json" });
  res.end(JSON.stringify(body));
}
