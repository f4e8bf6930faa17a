"""Everything the page says, computed once: the page, the plots and the JSON file all read it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.findings.claims import NAMES, Claim, claims, repeats
from benchmarks.findings.features import WINDOWS
from benchmarks.findings.loading import Loaded
from benchmarks.findings.rivals import Rivalry, rivalry
from benchmarks.findings.secondary import (
    Association,
    Seeds,
    SweepFacts,
    Twin,
    associations,
    corners_on_test,
    facts,
    twins,
    within_batches,
    within_configurations,
)
from benchmarks.findings.statistics import Estimate


@dataclass(frozen=True)
class Contest:
    """The rivals at one window, in one reading."""

    fraction: float
    every: bool
    result: Rivalry


@dataclass(frozen=True)
class Analysis:
    """All results, by the names the page uses."""

    sweeps: tuple[str, ...]
    incomplete: dict[str, str]
    runs: int
    claims: tuple[Claim, ...]
    repeats: tuple[str, ...]
    claims_without_repeats: tuple[Claim, ...]
    """Not declared: empty if no sweep repeats another's runs."""
    associations: tuple[Association, ...]
    within_batches: dict[str, dict[str, Estimate | None]]
    """By outcome: `raw`, and `partial` beyond log rate and its square."""
    seeds: dict[str, Seeds | None]
    contests: tuple[Contest, ...]
    corners_on_test: dict[str, Estimate]
    twins: tuple[Twin, ...]
    facts: tuple[SweepFacts, ...]

    def claim(self, id_: str) -> Claim:
        return next(c for c in self.claims if c.id == id_)

    def association(self, **wanted: Any) -> Estimate | None:
        """The one cell with these fields, None if it is undefined."""
        for cell in self.associations:
            if all(getattr(cell, k) == v for k, v in wanted.items()):
                return cell.estimate
        return None

    def as_json(self) -> dict[str, Any]:
        """JSON values only; numbers that are not finite are null, others have six digits."""
        return _plain(dataclasses.asdict(self))


def analyse(loaded: Loaded) -> Analysis:
    sweeps = loaded.sweeps
    again = repeats(sweeps)
    return Analysis(
        sweeps=tuple(s.name for s in sweeps),
        incomplete=loaded.incomplete,
        runs=sum(len(c.trials) for s in sweeps for c in s.configurations),
        claims=tuple(claims(sweeps)),
        repeats=tuple(again),
        claims_without_repeats=tuple(claims(sweeps, without=again)) if again else (),
        associations=tuple(associations(sweeps)),
        within_batches={
            o: {
                "raw": within_batches(sweeps, o, partial=False),
                "partial": within_batches(sweeps, o, partial=True),
            }
            for o in NAMES
        },
        seeds={o: within_configurations(sweeps, o) for o in NAMES},
        contests=tuple(
            Contest(f, every, rivalry(sweeps, f, every=every))
            for f in WINDOWS
            for every in (False, True)
        ),
        corners_on_test=corners_on_test(sweeps),
        twins=tuple(twins(sweeps)),
        facts=tuple(facts(sweeps)),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
