"""Importance: what decides a sweep comes first, and little is said of few trials."""

from __future__ import annotations

import math
import random

import pytest

from orchestrator.analysis.importance import LEAST_TRIALS, Judged, parameter_importances


def sweep(trials: int, seed: int = 0, diverged: float = 2.0) -> list[Judged]:
    """The rate decides, the batch matters a little, the schedule and a seed not at all; a rate
    above `diverged` diverges."""
    draw = random.Random(seed)
    found: list[Judged] = []
    for _ in range(trials):
        rate = 10 ** draw.uniform(-6, -3)
        batch = draw.choice([16, 32, 64])
        params = {
            "rate": rate,
            "batch": batch,
            "schedule": draw.choice(["linear", "cosine", None]),
            "seed": draw.randint(0, 10_000),
            "model": "always the same",
        }
        value = math.log10(rate / 3e-5) ** 2 + 0.1 * math.log2(batch / 16)
        found.append(Judged(params, None if rate > diverged else value))
    return found


@pytest.mark.parametrize("trials", [40, 400])
def test_what_decides_comes_first_and_shares_add_up(trials: int):
    found = parameter_importances(sweep(trials), {"rate"})
    assert found is not None
    assert next(iter(found.shares)) == "rate"
    assert set(found.shares) == {"rate", "batch", "schedule", "seed"}, "what varies is judged"
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.trials == trials
    assert found.best == max(5, trials // 10)


def test_trials_that_diverged_are_the_worst_and_count():
    judged = sweep(200, diverged=1e-4)
    found = parameter_importances(judged, {"rate"})
    assert found is not None
    assert found.trials == 200
    assert next(iter(found.shares)) == "rate"


def test_a_parameter_that_only_some_trials_have_is_judged_too():
    judged = [
        Judged(
            {"kind": "lora", "rank": 4 + i} if i % 2 else {"kind": "full"}, float(i % 2) + i / 99
        )
        for i in range(60)
    ]
    found = parameter_importances(judged)
    assert found is not None
    assert set(found.shares) == {"kind", "rank"}
    assert next(iter(found.shares)) == "kind"


def test_of_few_trials_or_of_equal_ones_nothing_is_said():
    assert parameter_importances(sweep(LEAST_TRIALS - 1)) is None
    assert parameter_importances([Judged({"a": i}, 1.0) for i in range(50)]) is None
    assert parameter_importances([Judged({"a": i}, None) for i in range(50)]) is None


def test_where_nothing_varies_there_is_nothing_to_rank():
    found = parameter_importances([Judged({"a": 1}, float(i)) for i in range(20)])
    assert found is not None
    assert found.shares == {}


def test_the_order_of_the_trials_does_not_matter():
    judged = sweep(100)
    one, other = parameter_importances(judged), parameter_importances(judged[::-1])
    assert one is not None
    assert other is not None
    assert one.shares == pytest.approx(other.shares)
