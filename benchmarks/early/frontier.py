"""Regret at equal compute: each rule over all its settings, from cautious to aggressive.

A setting is a point (compute, regret), both means over families. A user who runs many sweeps may
use one setting in some and another in others, or no early stopping at all, so everything on the
lower convex hull of a rule's points and of running everything can be had. Any rule can also be
given fewer trials, which is what makes small budgets possible.

Sweeps of fewer than `LEAST_TRIALS` trials are left out here: a tenth of their compute isn't one
trial.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from benchmarks.early.evaluation import BUDGETS, Row
from benchmarks.early.statistics import over_families

RANDOM = "random at matched compute"
TOLERANCE = 1e-9
LEAST_TRIALS = 10


@dataclass(frozen=True)
class Setting:
    """One setting of a rule, its mean compute and regret, and how often it kept the best."""

    label: str
    compute: float
    regret: float
    kept: float
    kept_run: float


def settings_of(rows: Sequence[Row]) -> dict[str, list[Setting]]:
    """The points of each rule, by its name, cheapest first."""
    by_label: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_label[row.scheduler, row.contender].append(row)
    found: dict[str, list[Setting]] = defaultdict(list)
    for (name, label), mine in by_label.items():
        found[name].append(
            Setting(
                label,
                family_mean(mine, lambda r: r.compute),
                family_mean(mine, lambda r: r.regret),
                family_mean(mine, lambda r: float(r.kept[1])),
                family_mean(mine, lambda r: float(r.kept_run[1])),
            )
        )
    return {n: sorted(s, key=lambda p: (p.compute, p.regret)) for n, s in sorted(found.items())}


def family_mean(rows: Sequence[Row], value: Any) -> float:
    """Mean over draws, then sweeps, then families."""
    nested: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        nested[row.family][row.sweep].append(value(row))
    return fmean(fmean(fmean(v) for v in sweeps.values()) for sweeps in nested.values())


def hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lower convex hull from the cheapest point to the dearest, by rising compute."""
    found: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if found and point[0] == found[-1][0]:
            continue  # The lower of equally dear ones came first.
        while len(found) >= 2 and _above(found[-2], found[-1], point):
            found.pop()
        found.append(point)
    return found


def at_budget(points: Sequence[tuple[float, float]], budget: float) -> float | None:
    """Lowest regret on the hull at no more compute than `budget`; None if nothing is so cheap."""
    line = hull(points)
    if not line or budget < line[0][0] - TOLERANCE:
        return None
    lowest = line[0][1]
    for (x0, y0), (x1, y1) in pairwise(line):
        if budget >= x1:
            lowest = min(lowest, y1)
        elif budget > x0:
            lowest = min(lowest, y0 + (y1 - y0) * (budget - x0) / (x1 - x0))
    return lowest


def frontier(rows: Sequence[Row], everything: Sequence[Row], ours: str) -> dict[str, Any]:
    """The table of regret at each of `BUDGETS`, as JSON values.

    everything: the rows of `none`, for the regret at compute 1 and that of random trials at each
    budget. `…_at_or_below_all` says for each budget whether `ours` is at or below every other rule
    and random; None where `ours` can't be had so cheaply.
    """
    everything = [r for r in everything if r.trials >= LEAST_TRIALS]
    draws = {(r.sweep, r.draw) for r in everything}
    for label in {r.contender for r in rows}:  # All on the draws that all have.
        draws &= {(r.sweep, r.draw) for r in rows if r.contender == label}
    everything = [r for r in everything if (r.sweep, r.draw) in draws]
    rows = [r for r in rows if (r.sweep, r.draw) in draws]
    if not everything:
        return {}
    whole = family_mean(everything, lambda r: r.regret)
    table: dict[str, list[float | None]] = {
        RANDOM: [
            family_mean(everything, lambda r, k=k: r.random_at[k]) for k in range(len(BUDGETS))
        ]
    }
    points: dict[str, list[dict[str, Any]]] = {}
    for name, settings in settings_of(rows).items():
        if name == "none":
            continue
        line = [(s.compute, s.regret) for s in settings] + [(1.0, whole)]
        table[name] = [at_budget(line, b) for b in BUDGETS]
        points[name] = [
            {
                "setting": s.label,
                "compute": round(s.compute, 4),
                "regret": round(s.regret, 4),
                "kept": round(s.kept, 4),
                "kept_run": round(s.kept_run, 4),
            }
            for s in settings
        ]
    at_or_below: list[bool | None] = []
    for k in range(len(BUDGETS)):
        mine = table.get(ours, [None] * len(BUDGETS))[k]
        others = [v for n, t in table.items() if n != ours and (v := t[k]) is not None]
        at_or_below.append(None if mine is None else mine <= min(others, default=mine) + TOLERANCE)
    return {
        "budgets": list(BUDGETS),
        "regret": {n: [None if v is None else round(v, 4) for v in t] for n, t in table.items()},
        f"{ours}_at_or_below_all": at_or_below,
        "settings": points,
        "everything": round(whole, 4),
        "draws": len(draws),
        "sweeps": len({sweep for sweep, _ in draws}),
    }


def tuned_on_others(rows: Sequence[Row], kept: float = 0.95) -> dict[str, Any]:
    """Each rule with the setting that the other families recommend, on the family left out.

    The setting is the one that saves most of those that kept the best (by the draws' own values) at
    least so often on the other families; where none does, the one that kept it most often.
    """
    families = sorted({r.family for r in rows})
    least = min((r.draw for r in _last_draws(rows)), default=0)
    rows = [r for r in rows if r.draw <= least]
    by_name: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_name[row.scheduler][row.contender].append(row)
    found: dict[str, Any] = {}
    for name, labels in sorted(by_name.items()):
        if name == "none" or len(families) < 2:
            continue
        chosen: list[Row] = []
        picks: dict[str, str] = {}
        for family in families:
            seen = {
                label: [r for r in mine if r.family != family] for label, mine in labels.items()
            }
            keeping = {i: family_mean(m, lambda r: float(r.kept_run[1])) for i, m in seen.items()}
            spent = {i: family_mean(m, lambda r: r.compute) for i, m in seen.items()}
            able = [i for i in labels if keeping[i] >= kept]
            pick = (
                min(able, key=lambda i: spent[i]) if able else max(keeping, key=keeping.__getitem__)
            )
            picks[family] = pick
            chosen += [r for r in labels[pick] if r.family == family]
        measures = {
            "saved": (lambda r: 1 - r.compute, True),
            "kept_run": (lambda r: float(r.kept_run[1]), True),
            "kept_run_minus_random": (lambda r: r.kept_run[1] - r.random_kept_run[1], True),
            "regret_minus_random": (lambda r: r.regret - r.random_regret, False),
        }
        found[name] = {"settings": picks} | {
            key: over_families(
                [(r.family, r.sweep, value(r)) for r in chosen], higher_is_better=higher
            ).as_json()
            for key, (value, higher) in measures.items()
        }
    return found


def _last_draws(rows: Sequence[Row]) -> list[Row]:
    """Of each contender, a row of its last draw."""
    found: dict[str, Row] = {}
    for row in rows:
        if row.contender not in found or row.draw > found[row.contender].draw:
            found[row.contender] = row
    return list(found.values())


def _above(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b lies on or above the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])
