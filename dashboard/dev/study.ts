/** A synthetic sweep: what its page would be told at any moment. Deterministic for a seed. */

import type {
  Command,
  Curve,
  Decision,
  EvaluationPoint,
  Sweep,
  Trial,
  TrialState,
} from "../src/api/types.ts";

const TOTAL = 4096;
const RUNGS = [512, 1024, 2048];
/** Samples a second and trial, at speed 1. */
const PACE = 120;
const WORKERS = 3;

interface Plan {
  number: number;
  rate: number;
  batch: number;
  schedule: string;
  /** Seconds after the sweep's start, and samples at which it ends. */
  from: number;
  until: number;
  end: TrialState;
  reason: string | null;
  curve: Curve;
  heldOut: { samples: number; loss: number | null }[];
  match: number;
}

export interface Study {
  id: string;
  name: string;
  startedAt: number;
  speed: number;
  length: number;
  planned: number;
  plans: Plan[];
  stopped: Map<string, number>;
  paused: Set<string>;
  pinned: Set<string>;
  commands: Command[];
  canceledAt: number | null;
  /** Whether it has a second objective. */
  several: boolean;
}

export function makeStudy(id: string, name: string, planned: number, at: number, speed: number): Study {
  const random = generator(id.length * 7919 + planned);
  const plans: Plan[] = [];
  const free = Array.from({ length: WORKERS }, (_, i) => i * 0.8);
  for (let number = 1; number <= planned; number++) {
    const worker = free.indexOf(Math.min(...free));
    const plan = makePlan(number, free[worker]!, random);
    judge(plan, plans);
    plans.push(plan);
    free[worker] = plan.from + plan.until / PACE + 0.8;
  }
  const length = Math.max(...plans.map((p) => p.from + p.until / PACE)) + 1;
  const startedAt = Date.now() - ((at >= 1 ? length * 1.2 : at * length) / speed) * 1000;
  return { id, name, startedAt, speed, length, planned, plans, stopped: new Map(), paused: new Set(), pinned: new Set(), commands: [], canceledAt: null, several: at >= 1 };
}

export function snapshot(study: Study, now: number) {
  const clock = ((study.canceledAt ?? now) - study.startedAt) / 1000 * study.speed;
  const over = study.canceledAt !== null || clock >= study.length;
  const trials: Trial[] = [];
  const curves: Curve[] = [];
  const evaluations: EvaluationPoint[] = [];
  const decisions: Decision[] = [];
  for (const plan of study.plans) {
    if (plan.from > clock) break;
    const trialId = `${study.id}-t${plan.number}`;
    const stoppedAt = study.stopped.get(trialId);
    const paused = study.paused.has(trialId);
    const byUser = stoppedAt !== undefined && !paused;
    const own = stoppedAt !== undefined ? Math.min(clock, ((stoppedAt - study.startedAt) / 1000) * study.speed) : clock;
    const samples = Math.min((own - plan.from) * PACE, plan.until);
    const count = plan.curve.samples.filter((s) => s <= samples).length;
    const cut = <T>(column: T[]) => column.slice(0, count);
    const curve: Curve = {
      trial_id: trialId,
      step: cut(plan.curve.step),
      samples: cut(plan.curve.samples),
      loss: cut(plan.curve.loss),
      grad_norm: cut(plan.curve.grad_norm),
      learning_rate: cut(plan.curve.learning_rate),
      total_points: count,
    };
    curves.push(curve);
    const done = samples >= plan.until;
    const measured = plan.heldOut.filter((h) => h.samples <= samples && h.loss !== null);
    for (const point of measured) {
      evaluations.push({
        trial_id: trialId,
        step: Math.round(point.samples / plan.batch),
        samples: point.samples,
        split: "eval",
        dataset: "skills",
        loss: point.loss,
        exact_match: done && plan.end === "COMPLETED" && point.samples >= TOTAL ? plan.match : null,
        tokens: 4000,
        generated: done && plan.end === "COMPLETED" && point.samples >= TOTAL ? 128 : 0,
      });
      if (point.samples < plan.until && point.samples < TOTAL) {
        decisions.push(decide(plan, trialId, point.samples, "continue", decisions.length, study));
      }
    }
    if (done && plan.reason) {
      decisions.push(decide(plan, trialId, plan.until, "stop", decisions.length, study));
    }
    const state: TrialState = done ? plan.end : paused ? "PAUSED" : byUser || (over && study.canceledAt) ? "CANCELED" : "RUNNING";
    const lastHeldOut = measured[measured.length - 1]?.loss ?? null;
    const exact = done && plan.end === "COMPLETED" ? plan.match : null;
    trials.push({
      id: trialId,
      sweep_id: study.id,
      number: plan.number,
      kind: "search",
      state,
      reason: done ? plan.reason : state === "CANCELED" || paused ? "user" : null,
      message: done && plan.reason ? sentence(plan, plan.until) : null,
      params: { learning_rate: plan.rate, effective_batch_size: plan.batch, schedule: plan.schedule, warmup_ratio: 0.05 },
      attempt: 1,
      step: curve.step[count - 1] ?? 0,
      total_steps: Math.ceil(TOTAL / plan.batch),
      samples: curve.samples[count - 1] ?? 0,
      total_samples: TOTAL,
      loss: curve.loss[count - 1] ?? null,
      grad_norm: curve.grad_norm[count - 1] ?? null,
      eval_loss: lastHeldOut,
      exact_match: exact,
      value: exact === null ? null : lastHeldOut,
      also: exact === null || !study.several ? {} : { "general/loss": 2.1 + 0.2 * Math.log10(plan.rate / 1e-5) },
      seconds: samples / PACE,
      checkpoint: exact === null ? null : `.winnow/sweeps/${study.id}/trials/${plan.number}/model`,
      pinned: study.pinned.has(trialId),
      parent: plan.number % 9 === 4 ? `${study.id}-t${plan.number - 1}` : null,
      why_pending: paused ? "a user has paused it" : null,
      created_at: time(study, plan.from),
      started_at: time(study, plan.from),
      ended_at: state === "RUNNING" ? null : time(study, plan.from + samples / PACE),
    });
  }
  decisions.forEach((d, i) => (d.id = i + 1));
  return { sweep: summarise(study, trials, clock, over), trials, curves, evaluations, decisions: decisions.reverse() };
}

function summarise(study: Study, trials: Trial[], clock: number, over: boolean): Sweep {
  const byState: Partial<Record<TrialState, number>> = {};
  for (const t of trials) byState[t.state] = (byState[t.state] ?? 0) + 1;
  const best = trials.filter((t) => t.value !== null).sort((a, b) => a.value! - b.value!)[0];
  return {
    id: study.id,
    name: study.name,
    state: study.canceledAt ? "CANCELED" : over ? "COMPLETED" : "RUNNING",
    message: null,
    spec: {
      name: study.name,
      model: "examples/model",
      recipe: "lab",
      scheduler: { name: "dynamics", mode: "act" },
      search: { sampler: "tpe", trials: study.planned },
      objective: {
        metric: "eval/loss",
        mode: "min",
        also: study.several ? [{ metric: "general/loss", mode: "min" }] : [],
      },
    },
    summary: {
      trials: trials.length,
      planned: study.planned,
      by_state: byState,
      samples_trained: trials.reduce((s, t) => s + t.samples, 0),
      samples_full: trials.length * TOTAL,
      seconds: Math.min(clock, study.length),
      best_trial: best?.id ?? null,
      best_value: best?.value ?? null,
      front: study.several ? front(trials) : [],
      baseline: { eval: { loss: 3.412, exact_match: 0.031 } },
      winner: best
        ? {
            eval: { loss: best.eval_loss, exact_match: best.exact_match },
            ...(over ? { test: { loss: best.eval_loss! + 0.011, exact_match: best.exact_match! - 0.008 } } : {}),
          }
        : {},
    },
    scheduler_summary: account(trials, over),
    project: "research",
    priority: 5,
    max_concurrent: 4,
    slots: over ? null : WORKERS,
    why_pending: over ? null : "the cluster has room for 3 trials at once; another sweep of equal priority has the rest",
    budget: [
      { what: "trials", used: trials.length, limit: 24, projected: study.planned },
      { what: "hours", used: clock / 60, limit: 2, projected: over ? null : study.length / 45 },
    ],
    created_at: time(study, -3),
    started_at: time(study, 0),
    ended_at: over ? time(study, Math.min(clock, study.length)) : null,
  };
}

function front(trials: readonly Trial[]): string[] {
  const done = trials.filter((t) => t.value !== null);
  const beats = (a: Trial, b: Trial) => a.value! < b.value! && a.also!["general/loss"]! < b.also!["general/loss"]!;
  return done.filter((t) => !done.some((other) => beats(other, t))).map((t) => t.id);
}

/** What the scheduler would say of its evidence; nothing before the first trials have ended. */
function account(trials: readonly Trial[], over: boolean): Record<string, unknown> | null {
  const ended = trials.filter((t) => t.ended_at !== null).length;
  if (ended < 2) return null;
  return {
    scheduler: "dynamics",
    audit: over
      ? { audited_stops: 9, needed: 8, false_stops: 1, rate: 0.111, interval: [0.04, 0.34] }
      : { audited_stops: Math.min(3, ended - 2), needed: 8, note: "not enough audits" },
    weights: { held_out: 1, norm_and_loss: 0.23, interval: [0.08, 0.41], first_rung_quality: 0.2 },
    announced_risk: 0.05,
    risk_taken: Math.min(0.038, 0.004 * ended),
    persistence: { mean: 0.81, interval: [0.56, 0.95] },
    guard: { state: "open", text: "", p: null, pairs: ended, hopeless: 0.001 },
    paper_sign: over
      ? {
          agrees: null,
          partial: 0.14,
          interval: [-0.22, 0.46],
          trials: ended,
          text: "beyond rate and batch size, low norm and high loss say nothing certain here",
        }
      : { agrees: null, trials: ended, text: `not enough trials yet (${ended})` },
    transfer: over ? { sweeps: 3, weight: 0.42 } : { sweeps: 0, weight: 0 },
    saved: { samples: 20_000, share: 0.4, seconds: 160 },
  };
}

function makePlan(number: number, from: number, random: () => number): Plan {
  const rate = 10 ** (-5 + 3.2 * random());
  const batch = [8, 16, 32, 64, 128][Math.floor(random() * 5)]!;
  const schedule = ["constant", "linear", "cosine"][Math.floor(random() * 3)]!;
  const quality = Math.log10(rate / 1.5e-3) / 1.1 - Math.log10(batch / 32) * 0.2;
  const floor = 1.05 + 0.55 * quality * quality + 0.05 * random();
  const speed = Math.min(rate / 1e-3, 1.4) * (32 / batch) ** 0.45;
  const diverges = rate > 9e-3 && batch < 100;
  const curve: Curve = {
    trial_id: "", step: [], samples: [], loss: [], grad_norm: [], learning_rate: [], total_points: 0,
  };
  const noise = 0.16 * (16 / batch) ** 0.5;
  const breakdown = 120 + 200 * random();
  const level = (samples: number) => floor + (3.45 - floor) * Math.exp(-(samples / 620) * (0.25 + speed));
  for (let step = 1; step * batch <= TOTAL; step++) {
    const samples = step * batch;
    let loss: number | null = level(samples) + noise * (random() - 0.5);
    let norm: number | null = (0.45 + 2.4 * Math.exp(-samples / 500)) * (1 + 0.35 * (random() - 0.5)) * (rate / 1e-3) ** 0.12 * (32 / batch) ** 0.25;
    if (diverges && samples > breakdown) {
      const grown = Math.exp((samples - breakdown) / 70);
      loss = samples > breakdown + 260 ? null : loss + 0.2 * grown;
      norm = loss === null ? null : norm * grown;
    }
    const progress = samples / TOTAL;
    const decay = schedule === "constant" ? 1 : schedule === "linear" ? 1 - progress : (1 + Math.cos(Math.PI * progress)) / 2;
    curve.step.push(step);
    curve.samples.push(samples);
    curve.loss.push(loss);
    curve.grad_norm.push(norm);
    curve.learning_rate.push(rate * decay);
  }
  const heldOut = [...RUNGS, TOTAL].map((samples) => ({ samples, loss: diverges ? null : level(samples) + 0.06 }));
  return {
    number, rate, batch, schedule, from, curve, heldOut,
    until: diverges ? Math.ceil((breakdown + 270) / batch) * batch : TOTAL,
    end: diverges ? "PRUNED" : "COMPLETED",
    reason: diverges ? "diverged" : null,
    match: Math.max(0, Math.min(0.97, 1.42 - floor * 0.55)),
  };
}

/** Successive halving against the trials before it, so that the picture is a plausible one. */
function judge(plan: Plan, peers: readonly Plan[]): void {
  if (plan.reason) return;
  for (const [i, rung] of RUNGS.entries()) {
    const values = peers
      .filter((p) => p.until >= rung && p.heldOut[i]!.loss !== null)
      .map((p) => p.heldOut[i]!.loss!)
      .sort((a, b) => a - b);
    if (values.length < 3) continue;
    const median = values[Math.floor(values.length / 2)]!;
    if (plan.heldOut[i]!.loss! > median) {
      plan.until = rung;
      plan.end = "PRUNED";
      plan.reason = "dynamics";
      return;
    }
  }
}

function decide(plan: Plan, trialId: string, samples: number, action: "stop" | "continue", id: number, study: Study): Decision {
  const diverged = plan.reason === "diverged" && action === "stop";
  const loss = plan.heldOut.find((h) => h.samples === samples)?.loss ?? null;
  return {
    id,
    trial_id: trialId,
    trial_number: plan.number,
    action,
    rule: diverged ? "loss-blowup" : "rung",
    reason: action === "stop"
      ? sentence(plan, samples)
      : `Held-out loss ${loss?.toFixed(3)} after ${samples} samples is in the better half of its peers.`,
    code: action === "stop" ? (plan.reason ?? "") : "",
    samples,
    evidence: diverged
      ? { window: 8, loss: 14.21, start_loss: 3.44, robust_deviations: 11.3, grad_norm: 182.4 }
      : {
          held_out_loss: loss,
          threshold: loss === null ? null : loss * 0.93,
          peers: 7,
          rank: action === "stop" ? 6 : 2,
          features: {
            log_norm_mean: { value: -0.214, percentile: 31, weight: -0.18 },
            log_norm_slope: { value: -0.0021, percentile: 62, weight: 0.04 },
            loss_level: { value: 2.106, percentile: 78, weight: 0.41 },
            loss_slope: { value: -0.0008, percentile: 55, weight: 0.12 },
          },
        },
    acted: true,
    created_at: time(study, plan.from + samples / PACE),
  };
}

function sentence(plan: Plan, samples: number): string {
  if (plan.reason === "diverged") {
    return `Training loss rose to 4.1 times its start within ${samples} samples: it has diverged.`;
  }
  return `Held-out loss after ${samples} samples is in the worse half of the trials that reached this rung.`;
}

function time(study: Study, seconds: number): string {
  return new Date(study.startedAt + (seconds / study.speed) * 1000).toISOString();
}

/** A small seeded generator (mulberry32): the same study each time. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
