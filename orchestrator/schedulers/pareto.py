"""`pareto`: successive halving on several measures at once.

At a rung a trial is a point: its loss on each held-out set, or, where there is only one set, its
held-out loss and its mean log gradient norm so far; lower is better in each. Trials are ranked by
non-dominated sorting (Deb et al., NSGA-II, 2002), and within a front from its lowest held-out loss
on so that each next one is the furthest from those before it, as in multi-objective asynchronous
halving (Schmucker et al., arXiv 2106.12639). Distances are between ranks in each measure, so no
measure needs a scale. Rungs, quotas, pausing and calling back are those of `asha`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.schedulers.asha import ASHA, Standing
from orchestrator.schedulers.curves import HeldOut
from orchestrator.schedulers.tracking import Followed
from trainer.metrics import Evaluation, StepRecord
from winnow.spec import SchedulerSpec

NORM = "mean log gradient norm"

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Rung:
    """The order at a rung: points (trials, measures), front and place of each trial."""

    ids: list[str]
    points: Points
    front: dict[str, int]
    place: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Measured:
    """A trial at one evaluation: its loss on each set, by the sets' names, and its mean log
    gradient norm so far, infinite without a finite norm. `losses` is None unless all are finite."""

    sets: tuple[str, ...]
    losses: tuple[float, ...] | None
    log_norm: float


class Pareto(ASHA):
    """Asynchronous successive halving by fronts."""

    name = "pareto"
    code = "pareto"
    reads_steps = True

    def __init__(self, spec: SchedulerSpec, seed: int) -> None:
        super().__init__(spec, seed)
        self._log_norms: dict[str, list[tuple[float, int]]] = {}
        """Running sum of the log norms and how many they are, before each step and after all."""
        self._measured: dict[str, dict[int, _Measured]] = {}
        self._rungs: dict[int, _Rung] = {}

    def _take_in(
        self, trial: Followed, steps: Sequence[StepRecord], evaluations: Sequence[Evaluation]
    ) -> None:
        before = len(trial.curve.steps)
        kept = trial.curve.extend(steps, evaluations)
        if kept < before:
            self._forget()  # Steps done again after a crash: norms at a rung may differ.
        sums = self._log_norms.setdefault(trial.info.id, [(0.0, 0)])
        del sums[kept + 1 :]
        for record in trial.curve.steps[kept:]:
            total, count = sums[-1]
            if record.grad_norm is not None and math.isfinite(record.grad_norm):
                total, count = total + math.log(max(record.grad_norm, 1e-30)), count + 1
            sums.append((total, count))
        self._measured.pop(trial.info.id, None)

    # --- ranking ------------------------------------------------------------------------------

    def _scores(self, rung: int, reached: dict[str, HeldOut]) -> dict[str, float]:
        return self._order(rung, reached).place

    def _order(self, rung: int, reached: dict[str, HeldOut]) -> _Rung:
        ids = list(reached)
        points = _points([self._measure(self._trials[i], reached[i].samples) for i in ids])
        before = self._rungs.get(rung)
        if before is not None and before.ids == ids and np.array_equal(before.points, points):
            return before
        # Ranks instead of values: dominance stays what it is, and infinity is just the last rank.
        ranks = np.column_stack([_dense_ranks(column) for column in points.T])
        losses = np.array([reached[i].rank_key for i in ids])
        front = fronts(ranks)
        place = np.empty(len(ids))
        done = 0
        for number in range(1, int(front.max(initial=0)) + 1):
            (members,) = np.nonzero(front == number)
            order = members[spread_out(ranks[members], int(np.argmin(losses[members])))]
            place[order] = np.arange(done, done + len(order))
            done += len(order)
        self._rungs[rung] = _Rung(
            ids,
            points,
            dict(zip(ids, map(int, front), strict=True)),
            dict(zip(ids, map(float, place), strict=True)),
        )
        return self._rungs[rung]

    def _measure(self, trial: Followed, samples: int) -> _Measured:
        known = self._measured.setdefault(trial.info.id, {})
        if samples not in known:
            until = bisect_right(trial.curve.steps, samples, key=lambda r: r.samples)
            total, count = self._log_norms.get(trial.info.id, [(0.0, 0)])[until]
            log_norm = total / count if count else math.inf
            losses = dict(sorted(trial.curve.losses(samples).items()))
            finite = tuple(loss for loss in losses.values() if loss is not None)
            known[samples] = _Measured(
                tuple(losses), finite if len(finite) == len(losses) else None, log_norm
            )
        return known[samples]

    # --- reasons ------------------------------------------------------------------------------

    def _words(self, rung: int, standing: Standing) -> str:
        values = self._values(standing)
        figures = " and ".join(
            f"{name} {'not finite' if value is None else f'{value:.4g}'}"
            for name, value in values.items()
        )
        order = self._rungs.get(rung)
        front = order.front.get(standing.trial.info.id) if order else None
        on = "" if front is None else f" (front {front})"
        return f"{figures}{on} at {standing.held_out.samples:,} samples"

    def _evidence(self, rung: int, standing: Standing) -> dict[str, Any]:
        order = self._rungs.get(rung)
        return super()._evidence(rung, standing) | {
            "measures": self._values(standing),
            "front": order.front.get(standing.trial.info.id) if order else None,
            "fronts": max(order.front.values(), default=0) if order else 0,
        }

    def _values(self, standing: Standing) -> dict[str, float | None]:
        losses = standing.trial.curve.losses(standing.held_out.samples)
        if len(losses) > 1:
            return {f"loss on {name}": loss for name, loss in sorted(losses.items())}
        norm = self._measure(standing.trial, standing.held_out.samples).log_norm
        return {
            "held-out loss": standing.held_out.loss,
            NORM: norm if math.isfinite(norm) else None,
        }


def fronts(points: Points) -> npt.NDArray[np.int64]:
    """The front of each point (n, measures), from 1: front k is what no point outside the fronts
    before it dominates. One point dominates another if it is nowhere higher and somewhere lower."""
    not_higher = np.ones((len(points), len(points)), dtype=bool)
    for column in points.T:
        not_higher &= column[:, None] <= column[None, :]
    dominates = not_higher & ~not_higher.T
    left = dominates.sum(axis=0)  # Of the points that dominate each one: how many are left.
    front = np.zeros(len(points), dtype=np.int64)
    number = 0
    while (front == 0).any():
        number += 1
        (members,) = np.nonzero((front == 0) & (left == 0))
        front[members] = number
        left = left - dominates[members].sum(axis=0)
    return front


def spread_out(points: Points, first: int) -> npt.NDArray[np.int64]:
    """An order of the points (n, measures) that starts at `first` and always takes the one that is
    furthest from all taken before; of several the one that comes first."""
    order = np.empty(len(points), dtype=np.int64)
    distance = np.full(len(points), np.inf)
    at = first
    for position in range(len(points)):
        order[position] = at
        distance = np.minimum(distance, np.abs(points - points[at]).max(axis=1))
        distance[at] = -1.0
        at = int(np.argmax(distance))
    return order


def _points(measured: Sequence[_Measured]) -> Points:
    """A row a trial, a column a measure. A trial without a finite loss is last in all of them, one
    that lacks a set is last in that one."""
    sets = tuple(sorted({name for names in {m.sets for m in measured} for name in names}))
    width = max(2, len(sets))
    rows: list[Sequence[float]] = []
    for m in measured:
        if m.losses is None:
            rows.append([math.inf] * width)
            continue
        losses = m.losses
        if m.sets != sets:
            there = dict(zip(m.sets, losses, strict=True))
            losses = tuple(there.get(name, math.inf) for name in sets)
        rows.append(losses if len(sets) > 1 else (*losses, m.log_norm))
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


def _dense_ranks(column: Points) -> Points:
    return np.unique(column, return_inverse=True)[1].astype(np.float64)
