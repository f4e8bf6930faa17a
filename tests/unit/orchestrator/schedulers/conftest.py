"""Synthetic sweeps: trials with power-law curves, noise as at small batches, known final losses."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import pytest

from orchestrator.schedulers import (
    Action,
    Decision,
    Outcome,
    Scheduler,
    TrialInfo,
    make_scheduler,
)
from orchestrator.schedulers.simulate import Recorded
from trainer.metrics import Evaluation, StepRecord
from winnow.spec import SchedulerSpec

RUNGS = (0.125, 0.25, 0.5)

MakeTrial = Callable[..., Recorded]
MakeSweep = Callable[..., list[Recorded]]


def make_trial(
    number: int,
    *,
    final: float = 2.0,
    start: float = 4.0,
    batch: int = 16,
    total: int = 1600,
    noise: float = 0.3,
    warmup: int = 0,
    norm: float = 1.0,
    seed: int = 0,
    crossing: float = 0.0,
    rate: float | None = None,
    rungs: Sequence[float] = RUNGS,
) -> Recorded:
    """A healthy trial. Its loss falls as a power law from `start` to `final` nats; a single
    sample's loss scatters by `noise` × level, heavy-tailed. `crossing` lifts the held-out loss
    early and lets it fall later, as slow starters do."""
    rng = random.Random(f"{seed}/{number}")
    steps: list[StepRecord] = []
    evaluations: list[Evaluation] = []
    points = [math.ceil(r * total) for r in rungs]
    samples = 0

    def level(seen: int) -> float:
        progress = (1 + 20 * seen / total) ** -0.7
        end = 21**-0.7
        return final + (start - final) * (progress - end) / (1 - end)

    while samples < total:
        step = len(steps) + 1
        size = min(batch, total - samples)
        spread = noise * math.exp(rng.gauss(0, 0.4)) / math.sqrt(size)
        loss = level(samples) * math.exp(rng.gauss(0, spread))
        lr = 1e-4 * min(1.0, step / warmup) if warmup else 1e-4
        before, samples = samples, samples + size
        steps.append(
            StepRecord(
                step=step,
                samples=samples,
                tokens=samples * 40,
                loss=loss,
                grad_norm=norm * math.exp(rng.gauss(0, 1.2 / math.sqrt(size) + 0.1)),
                learning_rate=lr,
                seconds=0.05 + 0.002 * size,
                memory=1,
                batch_samples=size,
            )
        )
        if any(before < p <= samples for p in points) or samples == total:
            early = crossing * (1 - samples / total)
            evaluations.append(
                Evaluation(step, samples, "eval", "main", level(samples) + early, 5000)
            )
    params: dict[str, Any] = {
        "learning_rate": rate if rate is not None else 1e-5 * 1.7**number,
        "effective_batch_size": batch,
    }
    info = TrialInfo(f"t{number}", number, params, total)
    return Recorded(info, tuple(steps), tuple(evaluations), final)


def make_sweep(
    trials: int,
    *,
    seed: int = 0,
    noise: float = 0.3,
    scatter: float = 0.0,
    batches: Sequence[int] = (16,),
    total: int = 1600,
) -> list[Recorded]:
    """Trials with distinct final losses, in random order. With `scatter` 0 the early held-out
    losses have the same order as the final ones."""
    rng = random.Random(f"sweep/{seed}")
    finals = [1.0 + 2.0 * i / trials for i in range(trials)]
    rng.shuffle(finals)
    return [
        make_trial(
            number,
            final=final,
            start=4.0,
            batch=rng.choice(list(batches)),
            total=total,
            noise=noise,
            seed=seed,
            crossing=rng.gauss(0, scatter),
            norm=math.exp(rng.gauss(0, 0.5)),
        )
        for number, final in enumerate(finals)
    ]


def make_telling_sweep(trials: int, seed: int) -> list[Recorded]:
    """The early norm gives each trial's end away; rate and batch say nothing."""
    rng = random.Random(seed)
    finals = [1.0 + 2.0 * i / trials for i in range(trials)]
    rng.shuffle(finals)
    return [
        make_trial(
            number,
            final=final,
            batch=8,
            norm=math.exp(2 * final),
            rate=math.exp(rng.gauss(-9, 1)),
            seed=seed,
        )
        for number, final in enumerate(finals)
    ]


@pytest.fixture
def trial() -> MakeTrial:
    return make_trial


@pytest.fixture
def sweep() -> MakeSweep:
    return make_sweep


@pytest.fixture
def telling_sweep() -> MakeSweep:
    return make_telling_sweep


class Restarted:
    """A scheduler whose driver dies now and then. All it has are the rows: trials, records,
    outcomes and decisions, these as JSON; every new life is rebuilt from them."""

    def __init__(self, spec: SchedulerSpec, deaths: random.Random, rate: float) -> None:
        self.name = spec.name
        self._spec, self._deaths, self._rate = spec, deaths, rate
        self._trials: list[TrialInfo] = []
        self._outcomes: list[tuple[str, Outcome]] = []
        self._decisions: list[str] = []
        self._records: list[tuple[str, Sequence[StepRecord], Sequence[Evaluation]]] = []
        self._living: Scheduler = make_scheduler(spec, 0)
        self.lives = 1

    def _rebuild(self) -> None:
        if self._deaths.random() >= self._rate:
            return
        self.lives += 1
        new = make_scheduler(self._spec, 0)
        for trial in self._trials:
            new.add(trial)
        for trial_id, outcome in self._outcomes:
            assert new.completed(trial_id, outcome) == []
        for row in self._decisions:
            values: dict[str, Any] = json.loads(row)
            action = Action(values.pop("action"))
            new.replay(Decision(action=action, **values))
        for trial in self._trials:
            mine = [r for r in self._records if r[0] == trial.id]
            steps = [s for _, many, _ in mine for s in many]
            evaluations = [e for _, _, many in mine for e in many]
            assert new.observe(trial.id, steps, evaluations) is None
        self._living = new

    def _stored(self, decision: Decision | None) -> Decision | None:
        if decision is not None:
            self._decisions.append(json.dumps(asdict(decision)))
        return decision

    def rungs(self, total_samples: int) -> tuple[int, ...]:
        return self._living.rungs(total_samples)

    def add(self, trial: TrialInfo) -> None:
        self._trials.append(trial)
        self._living.add(trial)

    def observe(self, trial_id, steps, evaluations) -> Decision | None:
        self._rebuild()
        self._records.append((trial_id, steps, evaluations))
        return self._stored(self._living.observe(trial_id, steps, evaluations))

    def completed(self, trial_id: str, outcome: Outcome) -> list[Decision]:
        self._outcomes.append((trial_id, outcome))
        return self._living.completed(trial_id, outcome)

    def next(self, waiting: int) -> Decision | None:
        self._rebuild()
        return self._stored(self._living.next(waiting))

    def finish(self) -> list[Decision]:
        self._rebuild()
        return self._living.finish()

    def replay(self, decision: Decision) -> None:
        self._living.replay(decision)


@pytest.fixture
def restarting() -> type[Restarted]:
    """A scheduler whose driver dies now and then: (spec, random deaths, rate)."""
    return Restarted
