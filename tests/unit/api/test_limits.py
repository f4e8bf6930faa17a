"""Token buckets, and what counts as heavy."""

from __future__ import annotations

import pytest

from api.errors import ProblemError
from api.limits import Buckets, Limits, kind_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_worth_may_be_asked_for_at_once_and_then_evenly() -> None:
    clock = Clock()
    bucket = Buckets(60, clock)
    assert [bucket.take("a").allowed for _ in range(60)] == [True] * 60  # type: ignore[union-attr]
    refused = bucket.take("a")
    assert refused is not None
    assert (refused.allowed, refused.left, refused.wait, refused.full_in) == (False, 0, 1, 60)
    clock.now += 1.0
    assert [bucket.take("a").allowed for _ in range(2)] == [True, False]  # type: ignore[union-attr]
    clock.now += 3600.0
    full = bucket.take("a")
    assert full is not None
    assert (full.left, full.full_in) == (59, 1)


def test_callers_do_not_share_a_bucket() -> None:
    bucket = Buckets(1, Clock())
    assert [bucket.take(who).allowed for who in ("a", "b", "a")] == [True, True, False]  # type: ignore[union-attr]


def test_a_flood_of_callers_takes_no_more_memory_than_it_may() -> None:
    bucket = Buckets(1, Clock(), callers=100)
    for number in range(1000):
        bucket.take(str(number))
    assert len(bucket._filled) == 100


def test_nought_is_no_limit() -> None:
    assert Buckets(0).take("a") is None
    assert Limits(0, 0, 0).count("a", "GET", "/v1/sweeps") == {}


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", "/v1/sweeps", "reads"),
        ("GET", "/v1/sweeps/x/stream", "reads"),
        ("POST", "/v1/sweeps", "heavy"),
        ("POST", "/v1/sweeps:validate", "heavy"),
        ("POST", "/v1/sweeps/x:replay", "heavy"),
        ("GET", "/v1/trials/x:export", "heavy"),
        ("GET", "/v1/sweeps/x/importance", "heavy"),
        ("GET", "/v1/sweeps/x/export", "heavy"),
        ("GET", "/v1/trials/x/checkpoints/3/archive", "heavy"),
        ("POST", "/v1/sweeps/x:pause", "writes"),
        ("DELETE", "/v1/tokens/3", "writes"),
    ],
)
def test_what_costs_much_is_counted_apart(method: str, path: str, kind: str) -> None:
    assert kind_of(method, path) == kind


def test_who_asks_too_often_is_told_when_to_come_back() -> None:
    limits = Limits(2, 1, 1)
    told = limits.count("a", "GET", "/v1/sweeps")
    assert told == {"RateLimit-Policy": '"reads";q=2;w=60', "RateLimit": '"reads";r=1;t=30'}
    limits.count("a", "GET", "/v1/sweeps")
    with pytest.raises(ProblemError) as refused:
        limits.count("a", "GET", "/v1/sweeps")
    assert refused.value.status == 429
    assert refused.value.headers["Retry-After"] == "30"
    assert refused.value.headers["RateLimit"].startswith('"reads";r=0;')
    limits.count("a", "POST", "/v1/trials/x:stop")  # has a bucket of its own


def test_whose_bucket_was_not_used_for_longest_is_forgotten_first() -> None:
    bucket = Buckets(1, Clock(), callers=2)

    def allowed(caller: str) -> bool:
        standing = bucket.take(caller)
        assert standing is not None
        return standing.allowed

    assert [allowed(caller) for caller in "aabbcc"] == [True, False] * 3
    assert not allowed("b")
    assert allowed("a")
