"""What all rows say together, as JSON values: rules, controls, calibration, risk, audit, guard."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.early.evaluation import DEVIATIONS, Contender, Row
from benchmarks.early.statistics import (
    Estimate,
    binomial_interval,
    brier,
    over_families,
    reliability,
)

Measure = Callable[[Row], float]

DEFINITIONS = {
    "saved": "1 − worker seconds spent / worker seconds of the sweep run to its end, net of rung "
    "evaluations, pauses, resumes and audited trials",
    "kept": "the trial selected by its own final value is, by the truth about its configuration, "
    "within so many seed deviations of the best configuration; truth is the mean over seeds, or "
    "known; running everything doesn't reach 1, because the luckiest seed may win",
    "kept_run": "the selected trial's own final value is within so many seed deviations of the "
    "draw's lowest; running everything is always 1",
    "regret": "(truth of the selected − best truth) / (median truth − best truth), at most 2",
    "minus_random": "the difference to the expected score of the best of K uniformly chosen trials "
    "run in full, K so that compute is equal, computed exactly for every draw",
    "lost": "every trial within a seed deviation of the best was ended early",
    "mean": "over draws of a sweep, then sweeps of a family, then families",
    "interval": "95 %, families drawn with replacement, then sweeps within",
    "seed deviation": "standard deviation over seeds, pooled over the better half of all "
    "configurations",
}


def estimate(rows: Sequence[Row], measure: Measure, *, higher_is_better: bool) -> Estimate:
    return over_families(
        [(r.family, r.sweep, measure(r)) for r in rows], higher_is_better=higher_is_better
    )


def by_contender(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each contender, in the order in which they first came."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: (r.sweep, r.draw)):
        found[row.contender].append(row)
    return dict(found)


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """All figures of one contender."""

    def up(measure: Measure) -> dict[str, Any]:
        return estimate(rows, measure, higher_is_better=True).as_json()

    def down(measure: Measure) -> dict[str, Any]:
        return estimate(rows, measure, higher_is_better=False).as_json()

    gone: Counter[str] = Counter()
    for row in rows:
        gone.update(row.gone)
    tests = [r for r in rows if r.test_regret is not None]
    found = {
        "saved": up(lambda r: 1 - r.compute),
        "kept": {str(d): up(lambda r, d=d: float(r.kept[d])) for d in DEVIATIONS},
        "kept_run": {str(d): up(lambda r, d=d: float(r.kept_run[d])) for d in DEVIATIONS},
        "regret": down(lambda r: r.regret),
        "minus_random": {
            "regret": down(lambda r: r.regret - r.random_regret),
            "kept": {str(d): up(lambda r, d=d: r.kept[d] - r.random_kept[d]) for d in DEVIATIONS},
            "kept_run": {
                str(d): up(lambda r, d=d: r.kept_run[d] - r.random_kept_run[d]) for d in DEVIATIONS
            },
        },
        "random_at_matched_compute": {
            "regret": down(lambda r: r.random_regret),
            "kept": up(lambda r: r.random_kept[1]),
            "kept_run": up(lambda r: r.random_kept_run[1]),
        },
        "lost": down(lambda r: float(r.lost)),
        "ended_by_reason_a_sweep": {k: round(n / len(rows), 3) for k, n in sorted(gone.items())},
        "scheduler_ms_a_sweep": round(1000 * fmean(r.scheduler_seconds for r in rows), 2),
        "draws": len(rows),
    }
    if tests:
        found["regret_on_test"] = estimate(
            tests, lambda r: r.test_regret or 0.0, higher_is_better=False
        ).as_json()
    return found


def control(rows: Sequence[Row], exchanged: Sequence[Row]) -> dict[str, Any]:
    """The rule minus itself with early norm and loss exchanged between trials, on equal draws.

    A rule that gains from them has a regret below 0 and a `kept` above.
    """
    others = {(r.sweep, r.draw): r for r in exchanged}
    pairs = [(r, others[r.sweep, r.draw]) for r in rows if (r.sweep, r.draw) in others]

    def difference(measure: Measure, higher: bool) -> dict[str, Any]:
        return over_families(
            [(a.family, a.sweep, measure(a) - measure(b)) for a, b in pairs],
            higher_is_better=higher,
        ).as_json()

    return {
        "regret": difference(lambda r: r.regret, False),
        "regret_minus_random": difference(lambda r: r.regret - r.random_regret, False),
        "kept": difference(lambda r: float(r.kept[1]), True),
        "saved": difference(lambda r: 1 - r.compute, True),
    }


def calibration(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Announced probabilities of ending within seed noise of the best, against what happened.

    `brier_of_base_rate` is what a forecaster gets who always says the overall frequency: a Brier
    score above it is worse than knowing nothing. None for a rule that announces none.
    """
    forecasts = [(p, true) for r in rows for _, p, true in r.forecasts]
    if not forecasts:
        return None
    base = fmean(float(t) for _, t in forecasts)
    thirds: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for row in rows:
        for fraction, p, true in row.forecasts:
            place = "to 1/8" if fraction <= 0.13 else "to 1/4" if fraction <= 0.26 else "later"
            thirds[place].append((p, true))
    return {
        "forecasts": len(forecasts),
        "brier": round(brier(forecasts), 4),
        "brier_of_base_rate": round(base * (1 - base), 4),
        "base_rate": round(base, 4),
        "by_fraction": {
            place: {
                "forecasts": len(found),
                "brier": round(brier(found), 4),
                "mean": round(fmean(p for p, _ in found), 4),
                "came_true": round(fmean(float(t) for _, t in found), 4),
            }
            for place, found in sorted(thirds.items())
        },
        "bins": [
            {
                "low": b.low,
                "high": b.high,
                "count": b.count,
                "forecast": round(b.forecast, 4),
                "came_true": round(b.came_true, 4),
            }
            for b in reliability(forecasts)
        ],
    }


def risk(contender: Contender, rows: Sequence[Row]) -> dict[str, Any]:
    """Announced risk against how often the sweep lost every trial within noise of its best.

    The interval takes draws as independent, which draws of one recorded sweep are not. `kept` says
    whether the announced risk lies in it or above: a rule may be more careful than it promises.
    """
    families: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        families[row.family].append(row)
    announced = contender.spec.risk
    left = [r.risk_left for r in rows if r.risk_left is not None]
    return {
        "announced": announced,
        **_rate(rows, announced),
        "risk_left_mean": round(fmean(left), 4) if left else None,
        "families": {f: _rate(mine, announced) for f, mine in sorted(families.items())},
    }


def audit_coverage(rows: Sequence[Row]) -> dict[str, Any]:
    """How often the audit's interval holds the true share of false stops of that sweep."""
    held = 0
    told = 0
    for row in rows:
        interval = row.audit.get("interval")
        if interval is None or row.false_stops is None:
            continue
        told += 1
        held += interval[0] - 1e-9 <= row.false_stops <= interval[1] + 1e-9
    found: dict[str, Any] = {"sweeps": len(rows), "with_an_interval": told, "covered": held}
    if told:
        found |= {"rate": round(held / told, 4), "interval": _pair(binomial_interval(held, told))}
    return found


def guard(rows: Sequence[Row]) -> dict[str, Any] | None:
    """In how many sweeps of each family the guard fired. None for a rule without one."""
    if all(r.guard is None for r in rows):
        return None
    families: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        families[row.family].append(row)
    return {f: round(fmean(r.guard == "fired" for r in m), 4) for f, m in sorted(families.items())}


def ended_by_model(rows: Sequence[Row]) -> Mapping[str, float]:
    """Trials ended as `dynamics` a sweep, by family: what the model, not the halving, ended."""
    families: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        families[row.family].append(row)
    return {
        f: round(fmean(r.gone.get("dynamics", 0) for r in mine), 4)
        for f, mine in sorted(families.items())
    }


def _rate(rows: Sequence[Row], announced: float) -> dict[str, Any]:
    lost = sum(r.lost for r in rows)
    low, high = binomial_interval(lost, len(rows))
    return {
        "lost": lost,
        "of": len(rows),
        "rate": round(lost / len(rows), 4),
        "interval": _pair((low, high)),
        "kept": low <= announced,
    }


def _pair(interval: tuple[float, float]) -> list[float]:
    return [round(v, 4) for v in interval]
