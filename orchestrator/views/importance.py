"""Which parameters matter in a stored sweep, at its end or at an early count of samples."""

from __future__ import annotations

from orchestrator.analysis.importance import (
    LEAST_TRIALS,
    Importances,
    Judged,
    parameter_importances,
)
from orchestrator.store import Results, Store
from winnow.types import Importance, ParameterImportance


def importance_of(store: Store, sweep_id: str, samples: int | None = None) -> Importance:
    """Importances for the objective of the completed trials; or, with `samples`, for the held-out
    figure at the last point up to there that trials were measured at: so trials count that were
    stopped later. Trials that diverged count as the worst.

    With too few trials there are no parameters in the answer, and `why` says so. Raises NotFound.
    """
    results = store.results.of(sweep_id, samples)
    known = store.results.remembered(results)
    if known is not None:
        return known
    found = _answer(sweep_id, results)
    store.results.remember(results, found)
    return found


def _answer(sweep_id: str, results: Results) -> Importance:
    sign = -1.0 if results.mode == "max" else 1.0
    judged = [
        Judged(params, None if value is None else sign * value) for params, value in results.trials
    ]
    found = parameter_importances(judged, results.logarithmic)
    return Importance(
        sweep_id=sweep_id,
        metric=results.metric,
        mode="max" if results.mode == "max" else "min",
        samples=results.samples,
        trials=len(judged),
        best=0 if found is None else found.best,
        parameters=[] if found is None else _listed(found),
        why=None if found is not None else _why(results),
    )


def _listed(found: Importances) -> list[ParameterImportance]:
    return [ParameterImportance(name=n, importance=share) for n, share in found.shares.items()]


def _why(results: Results) -> str:
    count = len(results.trials)
    if count >= LEAST_TRIALS:
        return f"all {count} trials have the same result"
    where = "have ended with a result" if results.samples is None else "were measured there"
    return f"it takes {LEAST_TRIALS} trials to tell, and {count or 'none'} {where}"
