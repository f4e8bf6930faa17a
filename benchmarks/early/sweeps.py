"""A sweep that was run whole, several seeds a configuration, and what is true about it."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean, median

from orchestrator.schedulers import TrialInfo
from orchestrator.schedulers.simulate import Recorded
from trainer.metrics import Evaluation

REGRET_CAP = 2.0
"""A choice twice as far from the best as the median configuration is counts as this bad, and so
does no choice at all: one diverged run is not to outweigh a hundred sweeps."""


@dataclass(frozen=True)
class Run:
    """One run of a configuration. `test`: its objective on the test set, if there is one."""

    id: str
    study: str
    recorded: Recorded
    test: float | None = None


@dataclass(frozen=True)
class Sweep:
    """All runs of one workload, by configuration.

    `deviation` is the standard deviation of the objective over seeds, `known` the configurations'
    true objectives where they are known; else a configuration's truth is the mean over its runs.
    """

    name: str
    family: str
    configs: Mapping[str, Sequence[Run]]
    budget: int
    """Samples of a full run."""
    notes: Mapping[str, int | float | str] = field(default_factory=dict)
    known: Mapping[str, float | None] | None = None
    known_deviation: float | None = None

    @cached_property
    def truth(self) -> dict[str, float | None]:
        """True objective by configuration, lower is better; None if at least half of its runs
        failed."""
        if self.known is not None:
            return dict(self.known)
        found: dict[str, float | None] = {}
        for config, runs in self.configs.items():
            values = [r.recorded.value for r in runs if r.recorded.value is not None]
            found[config] = fmean(values) if 2 * len(values) > len(runs) else None
        return found

    @cached_property
    def deviation(self) -> float:
        """Pooled over the better half of the configurations: near the best is where it decides, and
        bad configurations scatter far more. 0 if no configuration has two runs."""
        if self.known_deviation is not None:
            return self.known_deviation
        ranked = sorted(v for v in self.truth.values() if v is not None)
        if not ranked:
            return 0.0
        squares, freedom = 0.0, 0
        for config, runs in self.configs.items():
            truth = self.truth[config]
            if truth is None or truth > ranked[(len(ranked) - 1) // 2]:
                continue
            values = [r.recorded.value for r in runs if r.recorded.value is not None]
            centre = fmean(values)
            squares += sum((v - centre) ** 2 for v in values)
            freedom += len(values) - 1
        return math.sqrt(squares / freedom) if freedom else 0.0

    @cached_property
    def best(self) -> float:
        """The best configuration's true objective."""
        return min(v for v in self.truth.values() if v is not None)

    @cached_property
    def scale(self) -> float:
        """What regret is measured in: the median configuration's distance from the best one, at
        least a seed deviation."""
        middle = median(v for v in self.truth.values() if v is not None)
        return max(middle - self.best, self.deviation, 1e-12)

    @cached_property
    def run_seconds(self) -> float:
        """Median length of a run."""
        return median(
            sum(s.seconds for s in r.recorded.steps) for runs in self.configs.values() for r in runs
        )

    def regret(self, config: str | None) -> float:
        """How far the true objective is from the best one, in units of `scale`, at most the cap."""
        value = None if config is None else self.truth[config]
        if value is None:
            return REGRET_CAP
        return min(REGRET_CAP, (value - self.best) / self.scale)

    def within(self, config: str | None, deviations: float) -> bool:
        """Whether the configuration is as good as the best one, up to so many seed deviations."""
        value = None if config is None else self.truth[config]
        return value is not None and value <= self.best + deviations * self.deviation + 1e-12

    def draw(self, seed: int) -> list[Recorded]:
        """One run of every configuration, started in random order. A trial's id is its
        configuration. The same seed gives the same draw."""
        rng = random.Random(f"{self.name}/{seed}")
        chosen = [(c, rng.choice(list(runs))) for c, runs in sorted(self.configs.items())]
        rng.shuffle(chosen)
        return [
            replace(run.recorded, info=replace(run.recorded.info, id=config, number=number))
            for number, (config, run) in enumerate(chosen)
        ]

    def test_values(self, seed: int) -> dict[str, float | None]:
        """The test objective of each run of that draw, by configuration."""
        rng = random.Random(f"{self.name}/{seed}")
        return {c: rng.choice(list(runs)).test for c, runs in sorted(self.configs.items())}


def exchange_early(drawn: Sequence[Recorded], fraction: float, seed: int) -> list[Recorded]:
    """The control: each trial's norm and loss up to `fraction` of its budget are another trial's.

    The other trial's record at the same number of samples is taken, so that only what norm and loss
    say about *this* trial is lost. Held-out evaluations, times and everything later stay. Trials
    that failed keep their own records and give none away: whether a run broke is no early signal.
    """
    rng = random.Random(f"exchange/{seed}")
    healthy = [i for i, r in enumerate(drawn) if r.value is not None and r.steps]
    order = healthy[:]
    rng.shuffle(order)
    donors = dict(
        zip(order, order[1:] + order[:1], strict=True)
    )  # One cycle: nobody keeps its own.
    found = list(drawn)
    for i, donor in donors.items():
        found[i] = _with_steps_of(drawn[i], drawn[donor], fraction)
    return found


def _with_steps_of(trial: Recorded, donor: Recorded, fraction: float) -> Recorded:
    upto = fraction * trial.info.total_samples
    samples = [s.samples for s in donor.steps]
    steps = list(trial.steps)
    for i, step in enumerate(steps):
        if step.samples > upto:
            break
        other = donor.steps[max(0, bisect_right(samples, step.samples) - 1)]
        steps[i] = replace(
            step,
            loss=other.loss,
            grad_norm=other.grad_norm,
            grad_sq=other.grad_sq,
            noise=other.noise,
        )
    return replace(trial, steps=tuple(steps))


TRAINING_WINDOW = 8
"""Steps that a training loss is the mean of."""


def held_out_from_training(trial: Recorded) -> Recorded:
    """The trial with its mean training loss just before each evaluation in the held-out one's
    place, for free. The objective stays what it is."""
    samples = [s.samples for s in trial.steps]
    evaluations: list[Evaluation] = []
    for e in trial.evaluations:
        upto = bisect_right(samples, e.samples)
        recent = [s.loss for s in trial.steps[max(0, upto - TRAINING_WINDOW) : upto]]
        finite = [v for v in recent if v is not None]
        loss = fmean(finite) if finite and len(finite) == len(recent) else None
        if e.split == "eval":
            evaluations.append(replace(e, dataset="training", loss=loss, tokens=1, seconds=0.0))
        else:
            evaluations.append(e)
    return replace(trial, evaluations=tuple(evaluations))


def trial_info(params: Mapping[str, object], budget: int) -> TrialInfo:
    """What a scheduler is told of a run; its id and number come with the draw."""
    return TrialInfo("", 0, dict(params), budget)
