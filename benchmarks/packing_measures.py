"""What `benchmarks/packing.py` measures of a plan, whoever made it. Pure: numpy.

A plan of several optimizer steps is three arrays with an entry a sample: its step, its rank, and
the number of its micro-batch on that rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Plans:
    """Plans of consecutive steps. `lengths` in tokens; all arrays have an entry a sample."""

    lengths: Integers
    step: Integers
    rank: Integers
    micro_batch: Integers


@dataclass(frozen=True)
class Quality:
    """How good plans are; 1 is best for the first three.

    efficiency: linear attention: real tokens over the tokens that the micro-batches could hold.
        Padded: real tokens over those of the rectangles.
    balance: mean cost over ranks, over the highest. Free: of a step's sums; lockstep: of each
        micro-step. Of all steps together, weighted by their time: the sum of means over that of
        maxima.
    utilisation: the same with the cost of the real tokens alone on top: what is left of the ranks'
        time after waiting and padding.
    micro_batches: a step, over all ranks. Lockstep counts the empty ones.
    """

    efficiency: float
    balance: float
    utilisation: float
    micro_batches: float

    def asdict(self) -> dict[str, float]:
        return {
            "efficiency": round(self.efficiency, 6),
            "balance": round(self.balance, 6),
            "utilisation": round(self.utilisation, 6),
            "micro_batches_per_step": round(self.micro_batches, 3),
        }


def quality(
    plans: Plans, *, ranks: int, cap: int, padded: bool, lockstep: bool, quadratic_tokens: float
) -> Quality:
    """Measure plans. A sample of n tokens costs n + n²/quadratic_tokens, a padded one as wide as
    its rectangle; an empty micro-batch costs nothing."""
    steps = int(plans.step.max()) + 1
    depth = int(plans.micro_batch.max()) + 1
    tokens = plans.lengths.astype(np.float64)
    costs = tokens + tokens * tokens / quadratic_tokens
    where = (plans.step * ranks + plans.rank) * depth + plans.micro_batch
    bins = steps * ranks * depth
    held = np.bincount(where, minlength=bins)
    if padded:
        width = np.zeros(bins)
        np.maximum.at(width, where, tokens)
        load = held * (width + width * width / quadratic_tokens)
        given = float((held * width).sum())
    else:
        load = np.bincount(where, costs, bins)
        given = 0.0
    load = load.reshape(steps, ranks, depth)
    if lockstep:
        slowest = float(load.max(axis=1).sum())
        rounds = np.zeros(steps, dtype=np.int64)
        np.maximum.at(rounds, plans.step, plans.micro_batch + 1)
        count = int(rounds.sum()) * ranks
    else:
        slowest = float(load.sum(axis=2).max(axis=1).sum())
        count = int((held > 0).sum())
    return Quality(
        efficiency=float(tokens.sum()) / (given if padded else count * cap),
        balance=float(load.sum()) / ranks / slowest,
        utilisation=float(costs.sum()) / ranks / slowest,
        micro_batches=count / steps,
    )


@dataclass(frozen=True)
class BatchSizes:
    """Samples of the full optimizer steps of an epoch: mean, sd, and the share that is exact."""

    mean: float
    sd: float
    exact: float

    def asdict(self) -> dict[str, float]:
        return {
            "mean": round(self.mean, 2),
            "sd": round(self.sd, 2),
            "share_exact": round(self.exact, 4),
        }


def batch_sizes(sizes: Integers, wanted: int) -> BatchSizes:
    """Compare the sizes of effective batches with the one wanted."""
    return BatchSizes(
        mean=float(np.mean(sizes)),
        sd=float(np.std(sizes)),
        exact=float(np.mean(np.asarray(sizes) == wanted)),
    )


def samples_of_row_steps(
    samples: Integers, wanted: int, ranks: int, seed: int
) -> tuple[Integers, int]:
    """Samples a step where a step is a number of packed rows, as in TRL, and how many rows.

    Rows are drawn shuffled; each rank takes equally many a step, at least one, as many as come
    nearest to `wanted` samples.
    """
    a_row = float(np.mean(samples))
    rows = max(1, round(wanted / a_row / ranks)) * ranks
    shuffled = np.random.Generator(np.random.PCG64(seed)).permutation(samples)
    full = len(shuffled) // rows
    return shuffled[: full * rows].reshape(full, rows).sum(axis=1), rows


def cut_by_wrapping(lengths: Integers, row: int) -> float:
    """Share of samples that are cut where rows of `row` tokens are filled one after the other."""
    ends = np.cumsum(lengths)
    starts = ends - lengths
    return float(np.mean(starts // row != (ends - 1) // row))
