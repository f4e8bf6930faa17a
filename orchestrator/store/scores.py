"""One number from several data sets: each counts by what was measured on it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from winnow.types import Scores


class Measured(Protocol):
    """An evaluation, or a row that looks like one."""

    @property
    def dataset(self) -> str: ...
    @property
    def loss(self) -> float | None: ...
    @property
    def tokens(self) -> int: ...
    @property
    def exact_match(self) -> float | None: ...
    @property
    def generated(self) -> int: ...
    @property
    def scores(self) -> dict[str, float]: ...


def combine(measured: Iterable[Measured]) -> Scores:
    """Loss weighted by target tokens, exact match by generated samples.

    The loss is None if one set's was not finite: the mean isn't either. Sets without generation
    are left out of exact match. Benchmarks' figures are never mixed: each keeps its name.
    """
    loss_sum, tokens, finite = 0.0, 0, True
    right, generated = 0.0, 0
    figures: dict[str, float] = {}
    for one in measured:
        figures |= {f"{one.dataset}/{name}": value for name, value in one.scores.items()}
        if one.loss is None:
            finite = False
        else:
            loss_sum += one.loss * one.tokens
            tokens += one.tokens
        if one.exact_match is not None and one.generated > 0:
            right += one.exact_match * one.generated
            generated += one.generated
    return Scores(
        loss=loss_sum / tokens if finite and tokens else None,
        exact_match=right / generated if generated else None,
        scores=figures,
    )
