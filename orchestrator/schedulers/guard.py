"""When early evidence doesn't predict in this sweep, or stops turn out false: stop killing.

The guard has three ways to fire, each on its own evidence:

- the forecast, which has weighed every correlation between rungs against earlier sweeps, believes
  that a trial's first place hardly tells its last one;
- a permutation test over the trials that ran to their end finds no association between first place
  and outcome, though there are enough of them that the forecast's own belief would have shown;
- the audit: more of the audited stops were false than the risk allows, with a probability of 90 %.

It is computed afresh from the records each time, so evidence that comes later can reopen it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.schedulers.forecast import Array

LEAST_PERSISTENCE = 0.2
"""Correlation of first and last places below which early evidence is taken not to predict."""
CERTAINTY = 0.9
LEAST_PAIRS = 8
PERMUTATIONS = 499
NO_ASSOCIATION = 0.5
"""A p above this: the trials that ended are ordered no better than by chance."""


@dataclass(frozen=True, slots=True)
class Guard:
    """`fired`: no model ends a trial any more. `p`: of the permutation test, None without enough
    trials. `hopeless`: the probability that the persistence is below `LEAST_PERSISTENCE`."""

    fired: bool
    text: str
    p: float | None
    pairs: int
    hopeless: float

    def as_json(self) -> dict[str, Any]:
        return {
            "state": "fired" if self.fired else "open",
            "text": self.text,
            "p": self.p,
            "pairs": self.pairs,
            "hopeless": round(self.hopeless, 4),
        }


def watch(
    first: Array,
    last: Array,
    worlds: Array,
    persistence: Array,
    false_stops: tuple[int, int],
    risk: float,
) -> Guard:
    """Judge the evidence of one sweep.

    Args:
        first, last: (n,) score at the first rung and outcome of each trial that ran to its end.
        worlds: (m,) posterior weights of the worlds, `persistence` (m,) the correlation of first
            and last places in each.
        false_stops: how many of the audited stops were false, and how many there are.
        risk: the one that is announced.
    """
    hopeless = float(worlds[persistence < LEAST_PERSISTENCE].sum())
    p = permutation_p(first, last) if len(first) >= LEAST_PAIRS else None
    excess = _excess(*false_stops, risk)
    text = ""
    if hopeless > CERTAINTY:
        text = (
            f"a trial's place at the first rung hardly tells its last one "
            f"(probability {hopeless:.0%})"
        )
    elif p is not None and p > NO_ASSOCIATION:
        text = (
            f"the {len(first)} trials that ended are ordered no better by their first held-out "
            f"loss than by chance (p = {p:.2f})"
        )
    elif excess > CERTAINTY:
        text = (
            f"{false_stops[0]} of {false_stops[1]} audited stops were false, more than the risk "
            f"of {risk:.0%} allows (probability {excess:.0%})"
        )
    return Guard(bool(text), text, p, len(first), hopeless)


def permutation_p(first: Array, last: Array) -> float:
    """One-sided p of the rank correlation of two (n,) arrays, over `PERMUTATIONS` shuffles."""
    x, y = _ranks(first), _ranks(last)
    # The seed is fixed so that equal records give equal decisions.
    rng = np.random.default_rng(len(x))
    shuffled = rng.permuted(np.tile(y, (PERMUTATIONS, 1)), axis=1)
    beaten = int((shuffled @ x >= float(x @ y) - 1e-12).sum())
    return (1 + beaten) / (1 + PERMUTATIONS)


def _ranks(values: Array) -> Array:
    from scipy.stats import rankdata

    ranks = rankdata(values)
    return ranks - ranks.mean()


def _excess(false: int, audited: int, risk: float) -> float:
    """P(rate of false stops > risk) after a Beta prior with mean `risk`, worth two audits."""
    if not audited:
        return 0.0
    from scipy.stats import beta

    return float(beta.sf(risk, 2 * risk + false, 2 * (1 - risk) + audited - false))
