"""What is true about a sweep that was run whole, and the draws that are replayed."""

from __future__ import annotations

import math

import pytest

from benchmarks.early.sweeps import REGRET_CAP, exchange_early, held_out_from_training

VALUES = {
    "a": (1.0, 1.2),
    "b": (1.3, 1.5),
    "c": (2.0, 6.0),
    "d": (None, 3.0),
}


def test_truth_is_the_mean_over_seeds_and_half_failed_is_failed(sweep) -> None:
    assert sweep(VALUES).truth == {"a": 1.1, "b": 1.4, "c": 4.0, "d": None}


def test_seed_deviation_is_pooled_over_the_better_half(sweep) -> None:
    """a and b scatter by 0.1 about their means, the poor c by 2: it doesn't count."""
    assert sweep(VALUES).deviation == pytest.approx(math.sqrt(2 * 2 * 0.01 / 2))


def test_regret_is_in_units_of_best_to_median(sweep) -> None:
    found = sweep(VALUES)
    assert found.scale == pytest.approx(1.4 - 1.1)
    assert found.regret("a") == 0
    assert found.regret("b") == pytest.approx(1.0)
    assert found.regret("c") == REGRET_CAP
    assert found.regret(None) == REGRET_CAP
    assert found.regret("d") == REGRET_CAP


def test_kept_within_so_many_seed_deviations(sweep) -> None:
    found = sweep({"a": (1.0, 1.2), "b": (1.1, 1.3), "c": (2.0, 2.0), "d": (3.0, 3.0)})
    deviation = math.sqrt(2 * 2 * 0.01 / 2)
    assert 0 < 0.1 < deviation
    assert found.within("a", 0)
    assert not found.within("b", 0)
    assert found.within("b", 1)
    assert not found.within("c", 2)
    assert not found.within(None, 2)


def test_a_draw_has_one_run_of_every_configuration_and_depends_on_its_seed_alone(sweep) -> None:
    found = sweep(VALUES)
    one, again = found.draw(3), found.draw(3)
    assert one == again
    assert sorted(r.info.id for r in one) == ["a", "b", "c", "d"]
    assert [r.info.number for r in one] == [0, 1, 2, 3]
    assert all(r.value in VALUES[r.info.id] for r in one)
    assert len({tuple(r.info.id for r in found.draw(s)) for s in range(9)}) > 1
    assert {r.value for s in range(20) for r in found.draw(s) if r.info.id == "a"} == {1.0, 1.2}


def test_test_values_are_those_of_the_runs_that_were_drawn(sweep) -> None:
    found = sweep({"a": (1.0,), "b": (2.0,)}, test={"a": 1.5, "b": 1.4})
    assert found.test_values(0) == {"a": 1.5, "b": 1.4}


def test_exchange_gives_everyone_anothers_early_norm_and_nothing_else(sweep) -> None:
    values = {name: (float(k + 1),) for k, name in enumerate("abcdef")}
    norms = {name: float(k + 1) for k, name in enumerate("abcdef")}
    drawn = sweep(values, norm=norms).draw(0)
    shown = exchange_early(drawn, 0.35, seed=1)
    for before, after in zip(drawn, shown, strict=True):
        assert after.evaluations == before.evaluations
        assert after.value == before.value
        assert [s.samples for s in after.steps] == [s.samples for s in before.steps]
        assert all(s.grad_norm != before.steps[0].grad_norm for s in after.steps[:3])
        assert after.steps[3:] == before.steps[3:]
    assert {r.steps[0].grad_norm for r in shown} == set(norms.values())


def test_exchange_leaves_trials_that_failed_alone(sweep) -> None:
    drawn = sweep({"a": (1.0,), "b": (2.0,), "c": (None,)}, norm={"c": 50.0}).draw(0)
    shown = {r.info.id: r for r in exchange_early(drawn, 0.5, seed=0)}
    assert shown["c"].steps[0].grad_norm == 50.0
    assert shown["a"].steps[0].grad_norm == 1.0


def test_training_loss_takes_the_held_outs_place_for_free(sweep) -> None:
    (drawn,) = sweep({"a": (1.0,)}, early={"a": 3.0}).draw(0)
    shown = held_out_from_training(drawn)
    assert {e.loss for e in shown.evaluations} == {3.0}
    assert shown.value == 1.0
