"""Statistics of the findings page: correlations within sweeps, paired equivalence, corrections.

A `Block` is one sweep's configurations. Statistics are computed within a block and averaged over
blocks with equal weight, so that a sweep with more configurations does not speak louder.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

PERMUTATIONS = 10_000
BOOTSTRAPS = 2_000
SEED = 20_241_233
"""Of every random draw on the page: the same curves give the same numbers."""


@dataclass(frozen=True)
class Block:
    """One sweep's configurations: predictor `x` and outcome `y`, shape (n,); covariates `z` of
    shape (n, k) to be partialled out, k may be 0. -inf is the worst value there is."""

    name: str
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Estimate:
    """A mean over blocks. `interval` speaks of these blocks, `across` of blocks like these (None
    with fewer than 2)."""

    value: float
    interval: tuple[float, float]
    across: tuple[float, float] | None
    p: float
    parts: dict[str, float]
    sizes: dict[str, int]


def correlate(blocks: Sequence[Block], *, permute: bool = True) -> Estimate | None:
    """Mean (partial) Spearman correlation, or None if no block has one.

    Bootstrap interval (percentile, configurations drawn within blocks) and two-sided permutation
    p, NaN without `permute`. With covariates the ranks of both sides are freed of them, and the
    permutation exchanges the residuals of one side, freed again (Freedman and Lane, 1983).
    """
    used, parts = _defined(blocks)
    if not used:
        return None
    value = float(np.mean(list(parts.values())))
    draw = np.random.default_rng(SEED)
    p = math.nan
    if permute:
        p = p_of(np.mean([_permuted(b, draw) for b in used], axis=0), value)
    return Estimate(
        value,
        _percentiles(_bootstrapped(used)),
        t_interval(list(parts.values())),
        p,
        parts,
        {b.name: len(b) for b in used},
    )


def contrast(first: Sequence[Block], second: Sequence[Block]) -> Estimate | None:
    """Mean correlation of `first` minus that of `second`, which have the same configurations and
    outcomes; bootstrap interval from the same draws, no p."""
    pairs = [
        (a, b)
        for a, b in zip(first, second, strict=True)
        if not math.isnan(correlation(a)) and not math.isnan(correlation(b))
    ]
    if not pairs:
        return None
    parts = {a.name: correlation(a) - correlation(b) for a, b in pairs}
    drawn = _bootstrapped([a for a, _ in pairs]) - _bootstrapped([b for _, b in pairs])
    return Estimate(
        float(np.mean(list(parts.values()))),
        _percentiles(drawn),
        t_interval(list(parts.values())),
        math.nan,
        parts,
        {a.name: len(a) for a, _ in pairs},
    )


def correlation(block: Block) -> float:
    """Spearman correlation of `x` and `y`, partial if there are covariates; NaN if undefined."""
    n, k = block.z.shape
    if n - k < 4:
        return math.nan
    x, y = _freed(_ranks(block.x), block.z), _freed(_ranks(block.y), block.z)
    return float(_pearson(x[None], y[None])[0])


def compare_groups(
    blocks: Sequence[tuple[str, np.ndarray, np.ndarray]],
) -> Estimate | None:
    """Mean percentile of a group's outcomes minus that of the others, averaged over blocks.

    Each block is (name, outcomes, membership), shapes (n,). Percentiles are 0 for the worst and 1
    for the best of the block.
    """
    used = [(n, percentile(y), m) for n, y, m in blocks if m.any() and not m.all()]
    if not used:
        return None
    parts = {n: float(y[m].mean() - y[~m].mean()) for n, y, m in used}
    value = float(np.mean(list(parts.values())))
    draw = np.random.default_rng(SEED)
    shuffled: list[np.ndarray] = []
    drawn: list[np.ndarray] = []
    for _, y, m in used:
        mixed = draw.permuted(np.tile(y, (PERMUTATIONS, 1)), axis=1)
        shuffled.append(mixed[:, m].mean(axis=1) - mixed[:, ~m].mean(axis=1))
        inside = draw.choice(y[m], (BOOTSTRAPS, int(m.sum())))
        outside = draw.choice(y[~m], (BOOTSTRAPS, int((~m).sum())))
        drawn.append(inside.mean(axis=1) - outside.mean(axis=1))
    return Estimate(
        value,
        _percentiles(np.mean(drawn, axis=0)),
        t_interval(list(parts.values())),
        p_of(np.mean(shuffled, axis=0), value),
        parts,
        {n: len(y) for n, y, _ in used},
    )


def compare_orders(
    blocks: Sequence[tuple[str, Sequence[float], Sequence[float]]],
) -> tuple[float, float, dict[str, float]]:
    """Mean least-squares slope of y on x over blocks, its exact two-sided permutation p, and the
    slopes.

    A block is (name, x, y) with one number a group; under the null every order of the ys is as
    likely. Up to two million joint orders are all counted, beyond that drawn.
    """
    parts = {name: _slopes(x, [y])[0] for name, x, y in blocks}
    value = float(np.mean(list(parts.values())))
    each = [_slopes(x, list(itertools.permutations(y))) for _, x, y in blocks]
    if math.prod(len(e) for e in each) <= 2_000_000:
        sums = np.zeros(1)
        for e in each:
            sums = (sums[:, None] + e[None]).ravel()
        p = float(np.mean(np.abs(sums / len(each)) >= abs(value) - 1e-12))
    else:
        draw = np.random.default_rng(SEED)
        sums = np.sum([draw.choice(e, 100_000) for e in each], axis=0)
        p = p_of(sums / len(each), value)
    return value, p, {name: float(slope) for name, slope in parts.items()}


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided paired t-tests (Schuirmann, 1987). `p` is the larger of the two."""

    difference: float
    interval: tuple[float, float]
    """95 %."""
    deviation: float
    pairs: int
    margin: float
    p: float


def equivalence(differences: Sequence[float] | np.ndarray, margin: float) -> Equivalence | None:
    """Whether the mean of paired differences lies within ±margin; None for fewer than 2 pairs."""
    d = np.asarray(differences, dtype=float)
    n = len(d)
    if n < 2:
        return None
    mean, deviation = float(d.mean()), float(d.std(ddof=1))
    error = max(deviation, 1e-12) / math.sqrt(n)
    p = max(
        float(stats.t.sf((mean + margin) / error, n - 1)),
        float(stats.t.sf((margin - mean) / error, n - 1)),
    )
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return Equivalence(mean, (mean - half, mean + half), deviation, n, margin, p)


@dataclass(frozen=True)
class Shift:
    """Hodges-Lehmann estimate of paired differences, its 95 % interval, and the two-sided p of the
    Wilcoxon signed-rank test; interval and p are exact without ties."""

    value: float
    interval: tuple[float, float]
    pairs: int
    p: float


def shift(differences: Sequence[float] | np.ndarray) -> Shift | None:
    """None for fewer than 6 pairs, with which nothing can be significant at 0.05."""
    d = np.asarray(differences, dtype=float)
    n = len(d)
    if n < 6:
        return None
    ranks = stats.rankdata(np.abs(d)) * (d != 0)
    draw = np.random.default_rng(SEED)
    signs = (
        np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
        if n <= 13
        else draw.choice((-1.0, 1.0), (100_000, n))
    )
    null = signs @ ranks
    p = float(np.mean(np.abs(null) >= abs(float((ranks * np.sign(d)).sum())) - 1e-9))
    walsh = np.sort([(a + b) / 2 for i, a in enumerate(d) for b in d[i:]])
    # The largest c with P(W⁺ ≤ c) ≤ 0.025: c averages lie outside on each side.
    positive = np.sort((signs > 0) @ np.arange(1.0, n + 1))
    c = int(positive[math.floor(0.025 * len(positive))]) - 1
    return Shift(float(np.median(walsh)), (float(walsh[c]), float(walsh[len(walsh) - 1 - c])), n, p)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the given order."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted = [1.0] * len(values)
    least = 0.0
    for place, i in enumerate(order):
        least = max(least, min(1.0, (len(values) - place) * values[i]))
        adjusted[i] = least
    return adjusted


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % t-interval of the mean; None for fewer than 2 values."""
    n = len(values)
    if n < 2:
        return None
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def percentile(values: np.ndarray) -> np.ndarray:
    """Rank as 0 (lowest) to 1 (highest), ties sharing their mean."""
    return (stats.rankdata(values) - 1) / max(1, len(values) - 1)


def p_of(null: np.ndarray, value: float) -> float:
    """Two-sided p of a statistic among draws of its null; never 0 (Phipson and Smyth, 2010)."""
    return float((1 + np.sum(np.abs(null) >= abs(value) - 1e-12)) / (1 + len(null)))


def _slopes(x: Sequence[float], rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Least-squares slope of each row on `x`."""
    centred = np.asarray(x, dtype=float) - np.mean(x)
    return np.asarray(rows, dtype=float) @ centred / (centred**2).sum()


def _percentiles(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _ranks(values: np.ndarray) -> np.ndarray:
    return stats.rankdata(values, axis=-1)


def _freed(values: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Residuals of `values` (…, n) after a least-squares fit of an intercept and `z` (…, n, k)."""
    design = np.concatenate([np.ones((*z.shape[:-1], 1)), z], axis=-1)
    scale = np.sqrt((design**2).sum(axis=-2, keepdims=True))
    design = design / np.where(scale > 0, scale, 1.0)
    turned = np.swapaxes(design, -1, -2)
    # A bootstrap may draw too few different configurations: the tiny ridge keeps it solvable.
    gram = turned @ design + 1e-10 * np.eye(design.shape[-1])
    fitted = design @ np.linalg.solve(gram, turned @ values[..., None])
    return values - fitted[..., 0]


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Row by row; NaN where a side is constant."""
    x = x - x.mean(axis=-1, keepdims=True)
    y = y - y.mean(axis=-1, keepdims=True)
    scale = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    enough = scale > 1e-9 * x.shape[-1] ** 3
    return np.where(enough, (x * y).sum(axis=-1) / np.where(enough, scale, 1.0), np.nan)


def _defined(blocks: Sequence[Block]) -> tuple[list[Block], dict[str, float]]:
    """The blocks that have a correlation, and these by name."""
    found = [(b, correlation(b)) for b in blocks]
    used = [(b, r) for b, r in found if not math.isnan(r)]
    return [b for b, _ in used], {b.name: r for b, r in used}


def _permuted(block: Block, draw: np.random.Generator) -> np.ndarray:
    x, y = _freed(_ranks(block.x), block.z), _freed(_ranks(block.y), block.z)
    mixed = draw.permuted(np.tile(x, (PERMUTATIONS, 1)), axis=1)
    if block.z.shape[1]:
        mixed = _freed(mixed, np.broadcast_to(block.z, (PERMUTATIONS, *block.z.shape)))
    return np.nan_to_num(_pearson(mixed, np.broadcast_to(y, mixed.shape)))


def _bootstrapped(blocks: Sequence[Block]) -> np.ndarray:
    """Means over blocks, shape (BOOTSTRAPS,). Blocks of equal sizes get the same draws."""
    draw = np.random.default_rng(SEED)
    drawn: list[np.ndarray] = []
    for block in blocks:
        at = draw.integers(0, len(block), (BOOTSTRAPS, len(block)))
        z = block.z[at]
        drawn.append(_pearson(_freed(_ranks(block.x[at]), z), _freed(_ranks(block.y[at]), z)))
    values = np.array(drawn)
    there = ~np.isnan(values)
    count = there.sum(axis=0)
    # A draw that no block has a correlation in says nothing.
    return np.where(
        count > 0, np.where(there, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan
    )
