"""Planning a whole epoch at once, compiled, gives the plans that steps get one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.packing import plan_step, plan_steps


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=120),
    batch_size=st.integers(1, 60),
    ranks=st.integers(1, 9),
    cap=st.integers(100, 900),
    padded=st.booleans(),
    equal_counts=st.booleans(),
)
def test_steps_are_planned_alike_one_by_one_and_together(
    sizes: list[int], batch_size: int, ranks: int, cap: int, padded: bool, equal_counts: bool
) -> None:
    plans = plan_steps(
        sizes,
        batch_size=batch_size,
        ranks=ranks,
        cap=cap,
        padded=padded,
        equal_counts=equal_counts,
    )
    alone = [
        plan_step(
            sizes[i : i + batch_size],
            ranks=ranks,
            cap=cap,
            padded=padded,
            equal_counts=equal_counts,
        )
        for i in range(0, len(sizes), batch_size)
    ]
    assert list(plans) == alone
    assert len(plans) == len(alone)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("equal_counts", [False, True])
def test_so_are_steps_of_real_length(padded: bool, equal_counts: bool) -> None:
    generator = np.random.Generator(np.random.PCG64(3))
    sizes = np.clip(generator.lognormal(6.5, 1.3, 600), 16, 32_768).astype(np.int64)
    plans = plan_steps(
        sizes, batch_size=500, ranks=8, cap=32_768, padded=padded, equal_counts=equal_counts
    )
    assert plans[0] == plan_step(
        sizes[:500].tolist(), ranks=8, cap=32_768, padded=padded, equal_counts=equal_counts
    )
    with pytest.raises(IndexError):
        plans[2]
