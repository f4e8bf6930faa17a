"""Thinned curves: few points, and none of the striking ones lost."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.store.thinning import thin


@dataclass(frozen=True)
class Point:
    step: int
    loss: float | None
    grad_norm: float | None


numbers = st.none() | st.floats(-1e6, 1e6)
curves = st.lists(st.tuples(numbers, numbers), max_size=400).map(
    lambda values: [Point(i, loss, norm) for i, (loss, norm) in enumerate(values)]
)


@given(curves, st.integers(6, 100))
def test_a_thinned_curve_keeps_its_order_its_ends_and_its_extremes(points, max_points):
    kept = thin(points, max_points)
    assert len(kept) <= max_points
    assert [p.step for p in kept] == sorted({p.step for p in kept})
    if not points:
        return
    assert kept[0] is points[0]
    assert kept[-1] is points[-1]
    for name in ("loss", "grad_norm"):
        values = [getattr(p, name) for p in points]
        shown = [getattr(p, name) for p in kept]
        if None in values:
            assert None in shown, "a step that was not finite has vanished"
        else:
            assert max(shown) == max(values)
        finite = [v for v in values if v is not None]
        if finite:
            assert min(v for v in shown if v is not None) == min(finite)


def test_a_short_curve_is_left_as_it_is():
    points = [Point(i, float(i), 1.0) for i in range(50)]
    assert thin(points, 50) == points
