"""What a sweep would take: space, steps, memory, disk, and time from measured speed. Pure.

Nothing is made up: times, GPU-hours and cost come from earlier trials of a model of the same size
on the same kind of workers, as a range, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any

from orchestrator.plan import any_params, extremes, resolve, total_samples
from orchestrator.search.samplers import Told, make_proposer
from trainer import memory
from trainer.config import TrainConfig
from trainer.flops import shape_of
from winnow.conditions import rules
from winnow.spec import Fixed, SweepSpec, planned_trials
from winnow.types import TrialState
from winnow.validation import (
    DiskNeed,
    Estimate,
    MeasuredSweep,
    MemoryNeed,
    Range,
    SampledConfiguration,
    Throughput,
)

SHOWN = 5
"""Proposals of the sampler that are shown."""
AVERAGED = 48
"""Proposals that the expected number of samples is taken from."""
CORNERS = 64
"""Most combinations of extreme values that are looked at."""
_SIZING = (
    *("effective_batch_size", "epochs", "warmup_steps", "warmup_ratio"),
    *("optimizer", "lora_rank", "strategy", "replay"),
)
"""Parameters that decide how long a trial is, or what it needs."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One earlier trial: what it trained, and the worker time that took."""

    sweep_id: str
    sweep_name: str
    tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known beside the sweep. `at_once`: trials that the cluster can run at once; bytes of
    a GPU or the host, and free on disk; None where that isn't known."""

    at_once: int | None = None
    available: int | None = None
    disk_free: int | None = None


NOWHERE = Surroundings()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration that a trial may have, and how long it trains."""

    params: Mapping[str, Any]
    config: TrainConfig
    samples: int

    @property
    def steps(self) -> int:
        return math.ceil(self.samples / self.config.effective_batch_size)


def proposals(spec: SweepSpec, facts: Mapping[str, Any], count: int) -> list[Candidate]:
    """The first configurations that the sweep's sampler proposes, before anything is known."""
    proposer = make_proposer(spec.space, spec.search, spec.constraints, spec.in_force)
    found: list[Candidate] = []
    history: list[Told] = []
    for number in range(min(count, planned_trials(spec))):
        params = proposer.ask(number, history)
        if params is None:
            break
        history.append(Told(number, params, TrialState.RUNNING))
        found.append(_candidate(spec, params, facts))
    return found


def corners(spec: SweepSpec, facts: Mapping[str, Any]) -> list[Candidate]:
    """Configurations at the ends of what decides a trial's length and needs, as far as conditions
    and constraints allow them."""
    return [_candidate(spec, params, facts) for params in _corner_params(spec)]


def estimate(
    spec: SweepSpec,
    facts: Mapping[str, Any],
    proposed: Sequence[Candidate],
    possible: Sequence[Candidate],
    measured: Sequence[Measured] = (),
    around: Surroundings = NOWHERE,
) -> Estimate:
    """The estimate of a checked sweep.

    Args:
        spec: the sweep.
        facts: what the check of its data and model found.
        proposed: its sampler's first configurations, at least one.
        possible: `corners`.
        measured: earlier trials of a model of the same size on the same workers.
        around: the cluster and the machine.
    """
    everything = [*proposed, *possible]
    trials = planned_trials(spec)
    limit = spec.budget.trials
    trials = trials if limit is None else min(trials, limit)
    mean_samples = fmean(c.samples for c in proposed or possible)
    tokens_a_trial = mean_samples * float(facts.get("mean_length") or 0.0)
    at_once = None if around.at_once is None else max(1, min(around.at_once, trials))
    needs, disk = _needs(spec, facts, everything, around, trials, at_once)
    speed = _speed(spec, facts, measured)
    seconds = _divided(tokens_a_trial, speed.tokens_per_second) if speed else None
    gpus = spec.resources.gpus_per_trial
    hours = _times(seconds, trials * gpus / 3600) if seconds and gpus else None
    rate = spec.budget.cost_per_gpu_hour
    size = spec.rules.size
    return Estimate(
        space="continuous" if size is None else size,
        sampled=[
            SampledConfiguration(params=dict(c.params), steps=c.steps, samples=c.samples)
            for c in proposed[:SHOWN]
        ],
        trials=trials,
        at_once=at_once,
        steps=_range([c.steps for c in everything]),
        samples=_range([c.samples for c in everything]),
        tokens=round(tokens_a_trial * trials),
        parameters=int(facts.get("parameters") or 0),
        memory=needs,
        disk=disk,
        throughput=speed,
        trial_seconds=seconds,
        wall_seconds=_times(seconds, math.ceil(trials / at_once)) if seconds and at_once else None,
        gpu_hours=hours,
        cost=_times(hours, rate) if hours and rate else None,
        notes=list(_notes(spec, facts, speed, needs, at_once)),
    )


def _candidate(spec: SweepSpec, params: Mapping[str, Any], facts: Mapping[str, Any]) -> Candidate:
    config = resolve(spec, params, output_dir="-", cache_dir="-")
    return Candidate(params, config, total_samples(config, facts))


def _corner_params(spec: SweepSpec) -> Iterator[dict[str, Any]]:
    values = extremes(spec.space)
    ends: dict[str, list[Any]] = {}
    for name in _SIZING:
        if name in values:
            listed = [value for _, value in values[name]]
            numbers = [v for v in listed if isinstance(v, int | float)]
            whole = len(numbers) == len(listed) and len(numbers) > 2
            ends[name] = [min(numbers), max(numbers)] if whole else listed
    for number, combination in enumerate(product(*ends.values())):
        if number == CORNERS:
            return
        fixed = {
            name: Fixed(fixed=value, when=getattr(spec.space, name).when)
            for name, value in zip(ends, combination, strict=True)
        }
        found = rules(
            spec.space.model_copy(update=fixed), spec.constraints, spec.in_force
        ).witness()
        if found is not None:
            yield dict(found)
    if not ends:
        yield any_params(spec)


# --- memory and disk --------------------------------------------------------------------------


def _needs(
    spec: SweepSpec,
    facts: Mapping[str, Any],
    candidates: Sequence[Candidate],
    around: Surroundings,
    trials: int,
    at_once: int | None,
) -> tuple[MemoryNeed | None, DiskNeed | None]:
    parameters, sizes = facts.get("parameters"), facts.get("model_sizes")
    if not parameters or not isinstance(sizes, Mapping):
        return None, None
    device = "gpu" if spec.resources.gpus_per_trial else "cpu"
    found = [
        memory.estimate(c.config, sizes, int(parameters), ranks=spec.resources.ranks, device=device)
        for c in candidates
    ]
    largest = max(found, key=lambda one: one.total)
    checkpoint = max(one.checkpoint for one in found)
    export = max(one.export for one in found)
    # While a trial runs: its kept checkpoints and the one that is being written. Afterwards: the
    # best exports, and where stopped trials stay revivable, a checkpoint of each.
    kept = max(c.config.keep_checkpoints for c in candidates) + 1
    running = at_once or 1
    at_most = running * (kept * checkpoint + export)
    at_most += min(trials, spec.checkpoints.keep_best) * export
    at_most += (trials if spec.checkpoints.revivable else 0) * checkpoint
    need = None
    if shape_of(sizes) is not None:
        need = MemoryNeed(
            device=device,
            total=largest.total,
            weights=largest.weights,
            gradients=largest.gradients,
            optimizer=largest.optimizer,
            activations=largest.activations,
            buffers=largest.buffers,
            framework=largest.framework,
            host=largest.host,
            available=around.available,
        )
    disk = DiskNeed(
        checkpoint=checkpoint,
        export=export,
        at_most=at_most,
        free=around.disk_free if spec.checkpoints.store is None else None,
    )
    return need, disk


# --- time -------------------------------------------------------------------------------------


def _speed(
    spec: SweepSpec, facts: Mapping[str, Any], measured: Sequence[Measured]
) -> Throughput | None:
    speeds = sorted(m.tokens / m.seconds for m in measured if m.tokens > 0 and m.seconds > 0)
    if not speeds:
        return None
    cut = len(speeds) // 10
    names = {m.sweep_id: m.sweep_name for m in measured}
    return Throughput(
        tokens_per_second=_range(speeds[cut : len(speeds) - cut]),
        trials=len(speeds),
        sweeps=[MeasuredSweep(id=key, name=name) for key, name in names.items()],
        basis=f"trials of a model with {int(facts.get('parameters') or 0):,} weights, "
        f"{spec.training.method or 'full'} fine-tuning, {workers_of(spec)}",
    )


def workers_of(spec: SweepSpec) -> str:
    """What one trial gets, in words."""
    need = spec.resources
    if need.gpus_per_trial:
        return f"{need.gpus_per_trial} GPU{'s' if need.gpus_per_trial > 1 else ''} a trial"
    workers = f"{need.workers_per_trial} worker{'s' if need.workers_per_trial > 1 else ''}"
    return f"{workers} of {need.cpus_per_worker} CPU{'s' if need.cpus_per_worker > 1 else ''}"


def _notes(
    spec: SweepSpec,
    facts: Mapping[str, Any],
    speed: Throughput | None,
    needs: MemoryNeed | None,
    at_once: int | None,
) -> Iterator[str]:
    if spec.scheduler.name != "none" and spec.scheduler.mode == "act":
        yield "all trials are counted to their end; early stopping makes it less"
    if speed is None:
        yield (
            "no time, GPU-hours or cost: no trial of a model with "
            f"{int(facts.get('parameters') or 0):,} weights has been measured here with "
            f"{spec.training.method or 'full'} fine-tuning and {workers_of(spec)}; the first sweep "
            "measures it"
        )
    else:
        yield (
            f"speed was measured in {speed.trials} trial{'s' if speed.trials > 1 else ''} of "
            f"{', '.join(sweep.id for sweep in speed.sweeps)}; evaluations, starts and checkpoints "
            "are included, other attention or lengths of samples may differ"
        )
    if at_once is None:
        yield "how many trials run at once isn't known before the cluster has reported"
    if needs is None:
        yield "memory isn't estimated: the model's config.json doesn't give its sizes"
    elif spec.training.max_tokens_per_microbatch == "auto":
        yield "memory is for a micro-batch of max_length tokens; auto then takes what is left"
    if spec.data.strategy == "difficulty" or "difficulty" in spec.strategies:
        yield "with strategy: difficulty the number of samples is close, not exact"


def _range(values: Sequence[float]) -> Range:
    return Range(low=min(values), high=max(values))


def _divided(amount: float, by: Range) -> Range:
    return Range(low=amount / by.high, high=amount / by.low)


def _times(one: Range, factor: float) -> Range:
    return Range(low=one.low * factor, high=one.high * factor)
