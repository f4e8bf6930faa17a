"""What a sweep has spent, what it will have spent at its end, and when it must stop. Pure.

Hours count from the moment the sweep was first driven, waiting and pauses included. GPU-hours are
GPUs times the hours that its trials held them; money is GPU-hours times a rate.
"""

from __future__ import annotations

from dataclasses import dataclass

from winnow.spec import Budget
from winnow.types import Spending

PROJECTED_FROM = 0.02
"""Share of the work that must be done before its pace says anything about the end."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a sweep has used so far: search trials started, hours, GPU-hours."""

    trials: int
    hours: float
    gpu_hours: float


def account(
    budget: Budget, used: Used, *, done: float, planned: int | None = None
) -> list[Spending]:
    """A sweep's spending, for its readers.

    Args:
        done: share of the sweep's expected work that is done, from 0 to 1.
        planned: search trials that it is to have; the projection of `trials`.

    A projection is what the sweep would use if nothing stopped it, so one above its limit says that
    the budget will end the sweep. It takes the pace so far to last: used / done.
    """
    spending = [
        Spending(what="trials", used=used.trials, limit=budget.trials, projected=planned),
        Spending(
            what="hours",
            used=used.hours,
            limit=budget.hours,
            projected=_at_the_end(used.hours, done),
        ),
    ]
    gpu_hours = _at_the_end(used.gpu_hours, done)
    if used.gpu_hours > 0 or budget.gpu_hours is not None or budget.cost_per_gpu_hour is not None:
        spending.append(
            Spending(
                what="gpu_hours",
                used=used.gpu_hours,
                limit=budget.gpu_hours,
                projected=gpu_hours,
            )
        )
    if (rate := budget.cost_per_gpu_hour) is not None:
        spending.append(
            Spending(
                what="cost",
                used=used.gpu_hours * rate,
                limit=budget.cost,
                projected=None if gpu_hours is None else gpu_hours * rate,
            )
        )
    return spending


def exhausted(budget: Budget, used: Used) -> str | None:
    """Which limit ends the sweep now, as a sentence; None if none does.

    The limit on trials ends nothing that runs: see `no_more_trials`.
    """
    rate = budget.cost_per_gpu_hour or 0.0
    limits = (
        ("{used:.4g} of {limit:.4g} hours", budget.hours, used.hours),
        ("{used:.4g} of {limit:.4g} GPU-hours", budget.gpu_hours, used.gpu_hours),
        ("{used:.4g} of {limit:.4g} in cost", budget.cost, used.gpu_hours * rate),
    )
    for text, limit, spent in limits:
        if limit is not None and spent >= limit:
            return f"the budget is used up: {text.format(used=spent, limit=limit)}"
    return None


def no_more_trials(budget: Budget, used: Used) -> str | None:
    """Why no further search trial may be started, as a sentence; None if one may. Those that have
    begun run on."""
    if budget.trials is not None and used.trials >= budget.trials:
        return f"the budget is used up: {used.trials} of {budget.trials} trials"
    return None


def _at_the_end(used: float, done: float) -> float | None:
    """What will have been used when all work is done, at the pace so far."""
    return used / min(done, 1.0) if done >= PROJECTED_FROM else None
