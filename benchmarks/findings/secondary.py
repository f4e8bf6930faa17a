"""What the declaration lists as secondary: described with intervals, without correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.findings.claims import (
    NAMES,
    TWINS,
    Keep,
    blocks,
    informative,
    large_and_low,
    paired,
    phased_and_stacked,
)
from benchmarks.findings.features import (
    PRIMARY,
    SIGNALS,
    WINDOWS,
    base_losses,
    covariates,
    diverged,
    seed_signals,
    signals,
    underfit,
)
from benchmarks.findings.loading import Sweep, seed_deviation, seed_differences
from benchmarks.findings.statistics import (
    SEED,
    Block,
    Estimate,
    correlate,
    percentile,
    t_interval,
)

MEASURES = (
    ("loss", "eval"),
    ("loss", "test"),
    ("exact_match", "eval"),
    ("exact_match", "test"),
    ("retention", "eval"),
)
"""Outcome and split; retention has one split only."""


def measure_name(outcome: str, split: str) -> str:
    if outcome == "retention":
        return "retention"
    return {"loss": f"{split} loss", "exact_match": f"{split} exact match"}[outcome]


@dataclass(frozen=True)
class Association:
    """One cell of the table of correlations."""

    signal: str
    outcome: str
    split: str
    fraction: float
    every: bool
    partial: bool
    only: str
    """all, sound (nothing diverged), or sound and fit."""
    estimate: Estimate


def associations(sweeps: Sequence[Sweep]) -> list[Association]:
    """All signals, outcomes, windows and readings; and the primary ones without diverged and
    underfit trials. Those that are undefined are left out."""
    kept = selections(sweeps)
    found: list[Association] = []
    for outcome, split in MEASURES:
        for partial in (False, True):
            for signal in SIGNALS:
                for every in (False, True):
                    for fraction in WINDOWS:
                        only = kept if (fraction, every, signal) == (PRIMARY, False, "sign") else {}
                        for name, keep in {"all": None, **only}.items():
                            made, _ = blocks(
                                sweeps,
                                outcome,
                                split=split,
                                signal=signal,
                                fraction=fraction,
                                every=every,
                                partial=partial,
                                keep=keep,
                            )
                            estimate = correlate(made, permute=False)
                            if estimate is not None:
                                found.append(
                                    Association(
                                        signal,
                                        outcome,
                                        split,
                                        fraction,
                                        every,
                                        partial,
                                        name,
                                        estimate,
                                    )
                                )
    return found


def selections(sweeps: Sequence[Sweep]) -> dict[str, Keep]:
    """Which configurations stay when diverged, and underfit ones too, are left out."""
    bases = base_losses(sweeps)
    lazy = {s.name: underfit(s, bases) for s in sweeps}
    return {
        "sound": lambda s, c: not diverged(c, bases[s.name]),
        "sound and fit": lambda s, c: not diverged(c, bases[s.name]) and c.name not in lazy[s.name],
    }


def within_batches(sweeps: Sequence[Sweep], outcome: str, *, partial: bool) -> Estimate | None:
    """The sign score against an outcome within blocks of equal batch, percentiles taken within
    the block; with `partial` beyond log rate and its square."""
    made: list[Block] = []
    for sweep in sweeps:
        for batch in sweep.batches:
            used, found = signals(
                [c for c in sweep.stacked if c.batch == batch], sweep.budget, PRIMARY
            )
            y = np.array([c.outcome(outcome) for c in used])
            if len(used) < 5 or not informative(y):
                continue
            z = covariates(used, batch=False) if partial else np.empty((len(used), 0))
            made.append(Block(f"{sweep.name} {batch}", found["sign"], y, z))
    return correlate(made, permute=False)


@dataclass(frozen=True)
class Seeds:
    """Does the seed with the higher sign score end better? Everything that is set is equal."""

    configurations: int
    agree: float
    """Share, ties half."""
    interval: tuple[float, float]
    """Of the share, from a bootstrap over configurations."""
    better_by: float
    """Mean outcome of the seed with the higher score minus that of the other."""
    better_by_interval: tuple[float, float]


def within_configurations(sweeps: Sequence[Sweep], outcome: str) -> Seeds | None:
    key = (outcome, "general" if outcome == "retention" else "eval")
    agree: list[float] = []
    better: list[float] = []
    for sweep in sweeps:
        rows: list[tuple[int, float, float]] = []
        ends: list[list[float]] = []
        for configuration in sweep.stacked:
            found = seed_signals(configuration, sweep.budget, PRIMARY)
            if found is None or len(found) < 2 or configuration.failed:
                continue
            rows += [(len(ends), norm, loss) for norm, loss in found[:2]]
            ends.append([t.outcomes[key] for t in configuration.trials[:2]])
        if not rows:
            continue
        score = percentile(np.array([r[1] for r in rows])) + percentile(
            np.array([r[2] for r in rows])
        )
        for i, (first, second) in enumerate(ends):
            sign, gain = np.sign(score[2 * i] - score[2 * i + 1]), first - second
            agree.append(0.5 + 0.5 * float(sign * np.sign(gain)))
            better.append(float(sign) * gain)
    if len(agree) < 2:
        return None
    draw = np.random.default_rng(SEED)
    at = draw.integers(0, len(agree), (2000, len(agree)))

    def interval(values: list[float]) -> tuple[float, float]:
        low, high = np.percentile(np.array(values)[at].mean(axis=1), [2.5, 97.5])
        return float(low), float(high)

    return Seeds(
        len(agree),
        float(np.mean(agree)),
        interval(agree),
        float(np.mean(better)),
        interval(better),
    )


@dataclass(frozen=True)
class Twin:
    """Mean paired difference with its 95 % t-interval, in the outcome's units."""

    text: str
    outcome: str
    split: str
    where: str
    difference: float
    interval: tuple[float, float]
    pairs: int


def twins(sweeps: Sequence[Sweep]) -> list[Twin]:
    """Every pairing on every outcome, at all batches varied and at the largest alone."""
    found: list[Twin] = []
    for _, text, pick in (*TWINS, ("H6a", "phased ends as stacked", phased_and_stacked)):
        for outcome, split in MEASURES:
            every = paired(sweeps, pick, outcome, split)
            largest = [
                d
                for d, (a, _), s in zip(every.differences, every.used, every.labels, strict=True)
                if a.batch == _largest(sweeps, s)
            ]
            for where, values in (("all", every.differences), ("largest batch", largest)):
                interval = t_interval(values)
                if interval is not None:
                    mean = float(np.mean(values))
                    found.append(Twin(text, outcome, split, where, mean, interval, len(values)))
    return found


def _largest(sweeps: Sequence[Sweep], label: str) -> int:
    name = label.rpartition(" ")[0]
    return next(s.batches[-1] for s in sweeps if s.name == name)


@dataclass(frozen=True)
class SweepFacts:
    """One sweep in numbers. Losses in nats, exact match as a share."""

    name: str
    configurations: int
    diverged: int
    underfit: int
    base: float
    best: float
    best_configuration: str
    seed_deviation: float
    typical_seed_deviation: float
    exact_match_deviation: float
    best_exact_match: float
    best_match_configuration: str
    forgot_least: str


def facts(sweeps: Sequence[Sweep]) -> list[SweepFacts]:
    bases = base_losses(sweeps)
    made: list[SweepFacts] = []
    for sweep in sweeps:
        base = bases[sweep.name]
        sound = [c for c in sweep.configurations if not diverged(c, base)]
        best = max(sweep.configurations, key=lambda c: c.outcome("loss"))
        match = max(sweep.configurations, key=lambda c: c.outcome("exact_match"))
        kept = max(sweep.configurations, key=lambda c: c.outcome("retention"))
        differences = seed_differences(sound)
        made.append(
            SweepFacts(
                sweep.name,
                len(sweep.configurations),
                len(sweep.configurations) - len(sound),
                len(underfit(sweep, bases)),
                base,
                -best.outcome("loss"),
                best.name,
                seed_deviation(sound),
                median(abs(d) for d in differences) / 0.954 if differences else math.nan,
                seed_deviation(sound, "exact_match"),
                match.outcome("exact_match"),
                match.name,
                kept.name,
            )
        )
    return made


def corners_on_test(sweeps: Sequence[Sweep]) -> dict[str, Estimate]:
    """H3 on the test split."""
    found = {
        NAMES[o].replace("eval", "test"): large_and_low(sweeps, o, "test")[0]
        for o in ("loss", "exact_match")
    }
    return {name: e for name, e in found.items() if e is not None}
