"""The search for the largest micro-batch, on memories of known size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainer.fit import FULL, find_cap, halved


class Memory:
    """Holds `fixed` and `each` bytes a token, of `size`; can tell how full it was, or can't."""

    def __init__(self, size: float, each: float, fixed: float, *, tells: bool) -> None:
        self.size, self.each, self.fixed, self.tells = size, each, fixed, tells
        self.tried: list[int] = []
        self.overran = 0

    def attempt(self, tokens: int) -> float | None:
        self.tried.append(tokens)
        used = (self.fixed + self.each * tokens) / self.size
        if used > 1.0:
            self.overran += 1
            return None
        return used if self.tells else 0.0

    @property
    def holds(self) -> int:
        return int((self.size - self.fixed) / self.each)


@given(
    longest=st.integers(16, 4096),
    times=st.floats(1.05, 500.0),
    fixed=st.floats(0.0, 0.8),
    tells=st.booleans(),
)
def test_what_is_found_fits_and_wastes_less_than_a_third(
    longest: int, times: float, fixed: float, tells: bool
) -> None:
    each = (1.0 - fixed) / (longest * times)
    memory = Memory(1.0, each, fixed, tells=tells)
    cap = find_cap(memory.attempt, longest=longest, most=10**9)
    assert longest <= cap <= max(longest, memory.holds)
    usable = memory.holds if not tells else int((FULL - fixed) / each) if fixed < FULL else 0
    assert cap >= longest or usable < longest
    assert cap >= min(usable, memory.holds) * 0.66 - 1
    assert len(memory.tried) < 24


@given(longest=st.integers(16, 4096), times=st.floats(4.0, 500.0), fixed=st.floats(0.0, 0.4))
def test_a_memory_that_tells_is_never_overrun(longest: int, times: float, fixed: float) -> None:
    memory = Memory(1.0, (1.0 - fixed) / (longest * times), fixed, tells=True)
    find_cap(memory.attempt, longest=longest, most=10**9)
    assert memory.overran == 0


def test_no_more_is_tried_than_is_of_use() -> None:
    memory = Memory(10**9, 1.0, 0.0, tells=False)
    assert find_cap(memory.attempt, longest=100, most=1000) == 1000
    assert max(memory.tried) == 1000


def test_where_the_longest_sample_does_not_fit_it_is_still_the_cap() -> None:
    assert find_cap(lambda _: None, longest=100, most=1000) == 100


def test_a_set_of_short_samples_may_need_less_than_one_long_one() -> None:
    assert find_cap(lambda _: 0.1, longest=100, most=50) == 100


def test_a_cap_is_halved_down_to_the_longest_sample() -> None:
    assert halved(1000, 300) == 500
    assert halved(500, 300) == 300
    assert halved(300, 300) is None
