"""The sixteen primary tests and their verdicts, exactly as `declaration.md` sets them out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from benchmarks.findings.features import PRIMARY, base_losses, covariates, diverged, signals
from benchmarks.findings.loading import Configuration, Sweep, Trial, seed_deviation
from benchmarks.findings.statistics import (
    Block,
    Estimate,
    Shift,
    compare_groups,
    compare_orders,
    correlate,
    equivalence,
    holm,
    shift,
    t_interval,
)

CORRELATION_MATTERS = 0.3
PERCENTILE_MATTERS = 0.15
SLOPE_MATTERS = 0.25
RATIO_MATTERS = math.log(1.1)
LEAST_MARGIN, LARGEST_MARGIN = 0.05, 0.10
NAMES = {"loss": "eval loss", "exact_match": "exact match", "retention": "retention"}

Verdict = Literal["supported", "not supported", "contradicted", "undecided"]
Interval = tuple[float, float]
Keep = Callable[[Sweep, Configuration], bool]


@dataclass(frozen=True)
class Claim:
    """One primary test. `value` is None if there are no data for it; `note` says why, or what
    limits the verdict. `kind` says what `value` is."""

    id: str
    text: str
    kind: Literal["correlation", "percentile", "slope", "nats", "ratio"]
    value: float | None
    interval: Interval | None
    p: float
    matters: float
    size: str
    holm: float = 1.0
    verdict: Verdict = "undecided"
    parts: dict[str, float] | None = None
    across: Interval | None = None
    left_out: tuple[str, ...] = ()
    note: str = ""

    @property
    def equivalence(self) -> bool:
        return self.kind == "nats"


def claims(sweeps: Sequence[Sweep], without: Sequence[str] = ()) -> list[Claim]:
    """All sixteen with Holm's correction and verdicts, in the declaration's order.

    The sweeps named in `without` stay out of all but the comparison of phased and stacked.
    """
    every, sweeps = sweeps, [s for s in sweeps if s.name not in without]
    found = [
        *(_dynamics(f"H1{c}", sweeps, o, False) for c, o in zip("abc", NAMES, strict=True)),
        *(_dynamics(f"H2{c}", sweeps, o, True) for c, o in zip("abc", NAMES, strict=True)),
        *(_large_and_low(f"H3{c}", sweeps, o) for c, o in zip("abc", NAMES, strict=True)),
        _best_rate(sweeps),
        *(_same_end(id_, text, sweeps, pick) for id_, text, pick in TWINS),
        _same_end("H6a", "phased ends as stacked", _with_phased(every), phased_and_stacked),
        _samples_needed(_with_phased(every)),
    ]
    adjusted = holm([c.p for c in found])
    return [_judged(replace(c, holm=p)) for c, p in zip(found, adjusted, strict=True)]


def repeats(sweeps: Sequence[Sweep]) -> list[str]:
    """Sweeps of which most stacked configurations are an earlier sweep's over again: the same
    settings, data and seeds, so the same numbers."""
    seen: set[tuple[str, str, tuple[float, ...]]] = set()
    found: list[str] = []
    for sweep in sweeps:
        keys = {
            (sweep.family, c.name, tuple(t.outcomes["loss", "eval"] for t in c.trials))
            for c in sweep.stacked
        }
        if len(keys & seen) > len(keys) / 2:
            found.append(sweep.name)
        seen |= keys
    return found


def blocks(
    sweeps: Sequence[Sweep],
    outcome: str,
    *,
    split: str = "eval",
    signal: str = "sign",
    fraction: float = PRIMARY,
    every: bool = False,
    partial: bool = False,
    keep: Keep | None = None,
) -> tuple[list[Block], list[str]]:
    """An early signal against an outcome, a block a sweep; and the sweeps that are left out
    because the outcome hardly differs in them. Stacked configurations only."""
    made: list[Block] = []
    left_out: list[str] = []
    for sweep in sweeps:
        kept = [c for c in sweep.stacked if keep is None or keep(sweep, c)]
        used, found = signals(kept, sweep.budget, fraction, every=every)
        if len(used) < 4:
            continue
        y = np.array([c.outcome(outcome, split) for c in used])
        if not informative(y):
            left_out.append(sweep.name)
            continue
        z = covariates(used) if partial else np.empty((len(used), 0))
        made.append(Block(sweep.name, found[signal], y, z))
    return made, left_out


def informative(values: np.ndarray) -> bool:
    """Whether at least a quarter of the values differ from the most frequent one."""
    _, counts = np.unique(values, return_counts=True)
    return bool(len(values) - counts.max() >= len(values) / 4)


# --- H1, H2 -----------------------------------------------------------------------------------


def _dynamics(id_: str, sweeps: Sequence[Sweep], outcome: str, partial: bool) -> Claim:
    beyond = " beyond rate and batch" if partial else ""
    text = f"low norm with high loss goes with good {NAMES[outcome]}{beyond}"
    made, left_out = blocks(sweeps, outcome, partial=partial)
    found = correlate(made)
    return _of_estimate(id_, text, "correlation", CORRELATION_MATTERS, found, left_out)


# --- H3, H4 -----------------------------------------------------------------------------------


def large_and_low(
    sweeps: Sequence[Sweep], outcome: str, split: str = "eval"
) -> tuple[Estimate | None, list[str]]:
    """Largest batch with the lower half of the rates against the rest of the crossing."""
    made: list[tuple[str, np.ndarray, np.ndarray]] = []
    left_out: list[str] = []
    for sweep in sweeps:
        cells = [c for c in sweep.stacked if c.crossed]
        low = set(sweep.rates[: len(sweep.rates) // 2])
        y = np.array([c.outcome(outcome, split) for c in cells])
        if not informative(y):
            left_out.append(sweep.name)
            continue
        inside = np.array([c.batch == sweep.batches[-1] and c.rate in low for c in cells])
        made.append((sweep.name, y, inside))
    return compare_groups(made), left_out


def _large_and_low(id_: str, sweeps: Sequence[Sweep], outcome: str) -> Claim:
    text = f"the largest batch with a low rate does better on {NAMES[outcome]}"
    found, left_out = large_and_low(sweeps, outcome)
    return _of_estimate(id_, text, "percentile", PERCENTILE_MATTERS, found, left_out)


def best_rates(sweep: Sweep) -> list[float]:
    """Best log₁₀ rate for final eval loss at each batch, from the crossing."""
    return [
        _vertex(
            [math.log10(c.rate) for c in row],
            [-c.outcome("loss") for c in row],
        )
        for batch in sweep.batches
        for row in [
            sorted(
                (c for c in sweep.stacked if c.crossed and c.batch == batch), key=lambda c: c.rate
            )
        ]
    ]


def _best_rate(sweeps: Sequence[Sweep]) -> Claim:
    text = "the best rate rises with the batch"
    if not sweeps:
        return Claim("H4", text, "slope", None, None, 1.0, SLOPE_MATTERS, "", note="no sweep yet")
    value, p, parts = compare_orders(
        [(s.name, [math.log10(b) for b in s.batches], best_rates(s)) for s in sweeps]
    )
    interval = t_interval(list(parts.values()))
    size = _sweeps(len(sweeps))
    return Claim(
        "H4", text, "slope", value, interval, p, SLOPE_MATTERS, size, parts=parts, across=interval
    )


def _vertex(x: Sequence[float], y: Sequence[float]) -> float:
    """Where the parabola through the lowest y and its two neighbours is lowest; the lowest point
    itself at an end, or beside a value that is not finite."""
    i = min(range(len(y)), key=lambda k: y[k])
    if i in (0, len(y) - 1) or not all(math.isfinite(v) for v in y[i - 1 : i + 2]):
        return x[i]
    a, b, _ = np.polyfit(x[i - 1 : i + 2], y[i - 1 : i + 2], 2)
    return float(np.clip(-b / (2 * a), x[i - 1], x[i + 1])) if a > 0 else x[i]


# --- H5, H6 -----------------------------------------------------------------------------------

Pair = tuple[Configuration, Configuration]
Pick = Callable[[Sweep], list[Pair]]


def twins(left: tuple[str, float], right: tuple[str, float]) -> Pick:
    """Pairs of stacked configurations that differ in (schedule, warmup) only, at the batches and
    the rate at which these are varied."""

    def pick(sweep: Sweep) -> list[Pair]:
        by_setting = {(c.rate, c.batch, c.schedule, c.warmup): c for c in sweep.stacked}
        varied = {(c.rate, c.batch) for c in sweep.stacked if not c.crossed}
        found = [(by_setting.get((*at, *left)), by_setting.get((*at, *right))) for at in varied]
        pairs = [(a, b) for a, b in found if a is not None and b is not None]
        return sorted(pairs, key=lambda p: (p[0].batch, p[0].rate))

    return pick


TWINS: tuple[tuple[str, str, Pick], ...] = (
    ("H5a", "no warmup ends as 3 % warmup", twins(("linear", 0.0), ("linear", 0.03))),
    ("H5b", "12 % warmup ends as 3 %", twins(("linear", 0.12), ("linear", 0.03))),
    ("H5c", "constant ends as cosine", twins(("constant", 0.03), ("cosine", 0.03))),
    ("H5d", "constant ends as linear", twins(("constant", 0.03), ("linear", 0.03))),
)


def phased_and_stacked(sweep: Sweep) -> list[Pair]:
    """Crossed configurations of both strategies at the same rate and batch."""
    stacked = {(c.rate, c.batch): c for c in sweep.stacked if c.crossed}
    phased = [c for c in sweep.configurations if c.strategy == "phased" and c.crossed]
    return [(c, stacked[c.rate, c.batch]) for c in phased if (c.rate, c.batch) in stacked]


@dataclass(frozen=True)
class Paired:
    """Differences left - right of an outcome in its own units (nats: higher is worse; exact
    match: higher is better), of the pairs of which neither side diverged."""

    differences: list[float]
    labels: list[str]
    used: list[Pair]
    pairs: int


def paired(
    sweeps: Sequence[Sweep], pick: Pick, outcome: str = "loss", split: str = "eval"
) -> Paired:
    bases = base_losses(sweeps)
    sign = 1.0 if outcome == "exact_match" else -1.0
    total = 0
    differences: list[float] = []
    labels: list[str] = []
    used: list[Pair] = []
    for sweep in sweeps:
        for a, b in pick(sweep):
            total += 1
            if diverged(a, bases[sweep.name]) or diverged(b, bases[sweep.name]):
                continue
            differences.append(sign * (a.outcome(outcome, split) - b.outcome(outcome, split)))
            labels.append(f"{sweep.name} {a.batch}")
            used.append((a, b))
    return Paired(differences, labels, used, total)


def margin_of(pairs: Iterable[Pair]) -> float:
    """The declared margin in nats for these pairs' final eval loss."""
    deviation = seed_deviation(list({id(c): c for pair in pairs for c in pair}.values()))
    return min(max(LEAST_MARGIN, 0.0 if math.isnan(deviation) else deviation), LARGEST_MARGIN)


def _same_end(id_: str, text: str, sweeps: Sequence[Sweep], pick: Pick) -> Claim:
    found = paired(sweeps, pick)
    margin = margin_of(found.used)
    tested = equivalence(found.differences, margin)
    claim = Claim(id_, text, "nats", None, None, 1.0, margin, _pairs(found))
    if tested is None:
        return replace(claim, note=_too_few(found.pairs))
    note = ""
    if len(found.used) < 0.75 * found.pairs:
        note = f"{found.pairs - len(found.used)} of {found.pairs} pairs have a diverged run"
    return replace(
        claim,
        value=tested.difference,
        interval=tested.interval,
        p=1.0 if note else tested.p,
        parts=dict(zip(found.labels, found.differences, strict=True))
        if len(set(found.labels)) == len(found.labels)
        else None,
        note=note,
    )


def _pairs(found: Paired) -> str:
    used = len(found.used)
    return f"{used} pairs" if used == found.pairs else f"{used} of {found.pairs} pairs"


def _with_phased(sweeps: Sequence[Sweep]) -> list[Sweep]:
    return [s for s in sweeps if any(c.strategy == "phased" for c in s.configurations)]


def log_ratios(sweeps: Sequence[Sweep]) -> list[float]:
    """Log of samples that phased needs over those that stacked needs to get to the worse of the
    two final eval losses, mean over seeds, of each pair in which nothing diverged."""
    return [
        float(np.mean([_log_ratio(t, u) for t, u in zip(a.trials, b.trials, strict=True)]))
        for a, b in paired(sweeps, phased_and_stacked).used
    ]


def _samples_needed(sweeps: Sequence[Sweep]) -> Claim:
    text = "phased needs more samples than stacked to get to the same eval loss"
    ratios = log_ratios(sweeps)
    found: Shift | None = shift(ratios)
    claim = Claim("H6b", text, "ratio", None, None, 1.0, RATIO_MATTERS, f"{len(ratios)} pairs")
    if found is None:
        return replace(claim, note=_too_few(len(ratios)))
    return replace(claim, value=found.value, interval=found.interval, p=found.p)


def _too_few(pairs: int) -> str:
    return f"too few of {pairs} pairs are sound" if pairs else "not recorded yet"


def _log_ratio(phased: Trial, stacked: Trial) -> float:
    goal = max(c.held_out[max(c.held_out)] for c in (phased, stacked))
    return math.log(_first_at(phased.held_out, goal) / _first_at(stacked.held_out, goal))


def _first_at(held_out: dict[int, float], goal: float) -> float:
    """Samples at which eval loss first is at or below `goal`, linear between evaluations."""
    before: tuple[int, float] | None = None
    for samples in sorted(held_out):
        loss = held_out[samples]
        if loss <= goal:
            if before is None:
                return float(samples)
            share = (before[1] - goal) / (before[1] - loss)
            return before[0] + share * (samples - before[0])
        before = (samples, loss) if math.isfinite(loss) else None
    return float(max(held_out))


# --- Verdicts ---------------------------------------------------------------------------------


def _of_estimate(
    id_: str,
    text: str,
    kind: Literal["correlation", "percentile"],
    matters: float,
    found: Estimate | None,
    left_out: list[str],
) -> Claim:
    claim = Claim(id_, text, kind, None, None, 1.0, matters, "0 sweeps", left_out=tuple(left_out))
    if found is None:
        why = "the outcome hardly differs in any sweep" if left_out else "no sweep yet"
        return replace(claim, note=why)
    return replace(
        claim,
        value=found.value,
        interval=found.interval,
        p=found.p,
        size=f"{_sweeps(len(found.parts))}, {sum(found.sizes.values())} configurations",
        parts=found.parts,
        across=found.across,
    )


def _sweeps(n: int) -> str:
    return "1 sweep" if n == 1 else f"{n} sweeps"


def _judged(claim: Claim) -> Claim:
    return replace(claim, verdict=verdict(claim))


def verdict(claim: Claim) -> Verdict:
    """The declared rule. `holm` must be set."""
    if claim.value is None or claim.interval is None or (claim.equivalence and claim.note):
        return "undecided"
    low, high = claim.interval
    if claim.equivalence:
        if claim.holm < 0.05:
            return "supported"
        if low > claim.matters or high < -claim.matters:
            return "contradicted"
        if (low > 0 or high < 0) and (high > claim.matters or low < -claim.matters):
            return "not supported"
        return "undecided"
    if claim.holm < 0.05:
        return "supported" if claim.value > 0 else "contradicted"
    return "not supported" if high < claim.matters else "undecided"
