"""Sweeps whose truth is known, because they are made up.

Every configuration has a true final loss, every run of it that plus seed noise of known size. What
the early part of a run says about its end is set by dials:

- `persistence`: correlation of early with final ranks, from 1 (early ranks are final) through 0 to
  below 0 (slow starters win: what looks bad early ends best). It rises to 1 towards the end, as
  sharply as `turn` says; `turn` of 40 keeps it until the last percent.
- `structure`: the true loss is a bowl in log rate, whose floor shifts with log batch; else rate and
  batch say nothing.
- `dynamics`: how much the gradient norm says beyond the held-out loss, positive if a low norm is a
  good sign (the paper's), negative if a bad one, 0 if it says nothing. It always falls with batch
  size, as ‖g‖² ≈ ‖G‖² + tr Σ / B does.
- `diverging`: share of the trials, those of the highest rates first, that blow up; half of them
  break, half go on at a high loss.
- `shuffled`: the final losses are dealt out anew against all early evidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import fmean, pstdev

import numpy as np

from benchmarks.early.sweeps import Run, Sweep, trial_info
from orchestrator.schedulers.simulate import Recorded
from trainer.metrics import Evaluation, StepRecord

BUDGET = 1920
BATCHES = (4, 16, 48)
EVALUATED = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)
START = 4.0
"""Loss of the model before training."""
FLOOR = 1.2
"""True loss of a perfect configuration."""


@dataclass(frozen=True)
class World:
    """A kind of sweep, by its dials. See the module's docstring."""

    name: str
    persistence: float
    turn: float = 1.0
    structure: bool = True
    dynamics: float = 0.0
    diverging: float = 0.1
    shuffled: bool = False
    seed_noise: float = 0.08
    """Standard deviation over seeds, in standard deviations between configurations."""


PERSISTENCE = (
    World("perfect", 0.98),
    World("strong", 0.85),
    World("moderate", 0.6),
    World("weak", 0.3),
    World("noise", 0.0, turn=40.0),
    World("slow-starters", -0.6, turn=3.0),
)


def worlds() -> list[World]:
    """Every kind of persistence with and without structure in rate and batch, and with the norm
    saying nothing, the paper's sign and the opposite; and shuffled labels."""
    crossed = [
        replace(
            world,
            name=f"{world.name}{'' if structure else '-flat'}{suffix}",
            structure=structure,
            dynamics=dynamics,
        )
        for world in PERSISTENCE
        for structure in (True, False)
        for dynamics, suffix in ((0.0, ""), (0.7, "-paper"), (-0.7, "-opposite"))
    ]
    shuffled = [
        World(f"shuffled-{i}", p, structure=False, shuffled=True, diverging=0.0)
        for i, p in enumerate((0.98, 0.6))
    ]
    return crossed + shuffled


def kind_of(world: World) -> str:
    """The kind of persistence, which is the family of its sweeps."""
    if world.shuffled:
        return "shuffled"
    return next(w.name for w in PERSISTENCE if world.name.startswith(w.name))


def synthetic_sweeps(count: int, trials: int = 26) -> Iterator[Sweep]:
    """`count` sweeps, going round the kinds of `worlds`, each made when it is asked for."""
    kinds = worlds()
    for seed in range(count):
        yield synthetic_sweep(kinds[seed % len(kinds)], seed, trials)


def synthetic_sweep(world: World, seed: int, trials: int = 26) -> Sweep:
    """One sweep of one run a configuration, its truth and its seed deviation known."""
    rng = np.random.default_rng([seed, 7])
    rates = 10 ** rng.uniform(-5.0, -2.5, trials)
    batches = rng.choice(BATCHES, trials)
    truth = _true_losses(world, np.log10(rates), np.log2(batches / 16), rng)
    spread = float(truth.std())
    noise = world.seed_noise * spread
    ends = truth + rng.normal(0, noise, trials)
    shown = rng.permutation(ends) if world.shuffled else ends
    hidden = rng.permutation(trials) if world.shuffled else np.arange(trials)
    scores = (shown - shown.mean()) / max(float(shown.std()), 1e-12)
    others = rng.normal(0, 1, trials)
    broken = _diverging(world, rates, truth, rng)
    configs: dict[str, list[Run]] = {}
    known: dict[str, float | None] = {}
    for i in range(trials):
        name = f"c{i:02d}"
        signal = world.dynamics * float(scores[hidden[i]]) + 0.3 * rng.normal()
        curve = _Shape(world, float(scores[i]), float(others[i]), float(shown.mean()), spread)
        recorded = _record(
            curve, float(rates[i]), int(batches[i]), float(ends[i]), signal, broken.get(i), rng
        )
        configs[name] = [Run(f"{world.name}/{seed}/{name}", "0", recorded)]
        known[name] = None if recorded.value is None else float(truth[i])
        if broken.get(i) is not None and recorded.value is not None:
            known[name] = recorded.value
    return Sweep(
        f"{world.name}/{seed}",
        kind_of(world),
        configs,
        BUDGET,
        {"persistence": world.persistence, "dynamics": world.dynamics},
        known,
        noise,
    )


@dataclass(frozen=True)
class _Break:
    """A divergence: after which fraction, and whether the run breaks or goes on."""

    after: float
    ends: bool


@dataclass(frozen=True)
class _Shape:
    """A trial's expected held-out loss over its run."""

    world: World
    final_score: float
    other: float
    centre: float
    spread: float

    def level(self, fraction: float) -> float:
        """What all trials share is a power law; where this one stands among them moves from its
        early score to its final one."""
        power, end = (1 + 20 * fraction) ** -0.7, 21**-0.7
        common = self.centre + (START - self.centre) * (power - end) / (1 - end)
        tie = self.world.persistence
        if not self.world.shuffled:
            tie += (1 - tie) * fraction**self.world.turn
        score = tie * self.final_score + math.sqrt(max(0.0, 1 - tie * tie)) * self.other
        apart = min(1.0, fraction / 0.04)  # All start from the same model.
        return common + apart * self.spread * score


def _true_losses(
    world: World, log_rate: np.ndarray, log_batch: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    n = len(log_rate)
    if not world.structure:
        return FLOOR + 0.25 * np.abs(rng.normal(0, 1, n)) + 0.02 * rng.random(n)
    off = log_rate - (-3.7 + 0.2 * log_batch)
    bowl = np.where(off > 0, 0.35, 0.2) * off**2
    return FLOOR + bowl + 0.02 * np.abs(log_batch) + 0.03 * rng.normal(0, 1, n)


def _diverging(
    world: World, rates: np.ndarray, truth: np.ndarray, rng: np.random.Generator
) -> dict[int, _Break]:
    count = round(world.diverging * len(rates))
    best = int(np.argmin(truth))
    highest = [int(i) for i in np.argsort(-rates) if i != best][:count]
    return {i: _Break(float(rng.uniform(0.02, 0.5)), k % 2 == 0) for k, i in enumerate(highest)}


def _record(
    curve: _Shape,
    rate: float,
    batch: int,
    end: float,
    signal: float,
    broken: _Break | None,
    rng: np.random.Generator,
) -> Recorded:
    total = -(-BUDGET // batch)
    wobble = rng.normal(0, 1, (2, total)).tolist()
    steps: list[StepRecord] = []
    samples = 0
    for step in range(1, total + 1):
        size = min(batch, BUDGET - samples)
        fraction = samples / BUDGET
        samples += size
        level = curve.level(fraction) - 0.05 * fraction
        norm = 0.6 * signal + 0.25 * wobble[0][step - 1] + 0.5 * math.log(0.3 + 3 / size)
        loss: float | None = level * math.exp(0.25 * wobble[1][step - 1] / math.sqrt(size))
        grad_norm: float | None = math.exp(norm - 0.5 * fraction)
        if broken is not None and fraction > broken.after:
            if broken.ends and fraction > broken.after + 0.05:
                loss = grad_norm = None
            else:
                loss = START + 6 * min(1.0, (fraction - broken.after) / 0.03)
                grad_norm = 30 * math.exp(norm)
        warm = min(1.0, fraction / 0.03 + 1e-3)
        steps.append(
            StepRecord(
                step=step,
                samples=samples,
                tokens=40 * samples,
                loss=loss,
                grad_norm=grad_norm,
                learning_rate=rate * warm,
                seconds=0.02 + 0.001 * size,
                memory=1,
                batch_samples=size,
            )
        )
        if loss is None:
            break
    failed = steps[-1].loss is None
    diverged = broken is not None and steps[-1].samples > broken.after * BUDGET
    value = None if failed else START + 6.0 if diverged else end
    evaluations = []
    for f in EVALUATED:
        done = next((s for s in steps if s.samples >= f * BUDGET), None)
        if done is None or done.loss is None:
            break
        loss = curve.level(min(1.0, done.samples / BUDGET))
        loss += 0.03 * curve.spread * float(rng.normal())
        if broken is not None and done.samples > broken.after * BUDGET:
            loss = done.loss
        if f == 1.0:
            loss = value
        evaluations.append(
            Evaluation(done.step, done.samples, "eval", "main", loss, 5000, seconds=0.05)
        )
    info = trial_info({"learning_rate": rate, "effective_batch_size": batch}, BUDGET)
    return Recorded(info, tuple(steps), tuple(evaluations), value)


def describe(sweep: Sweep) -> dict[str, float]:
    """Mean and spread of the true losses, and the share that fails: for a test or a log."""
    values = [v for v in sweep.truth.values() if v is not None]
    return {
        "mean": fmean(values),
        "spread": pstdev(values),
        "failed": 1 - len(values) / len(sweep.truth),
    }
