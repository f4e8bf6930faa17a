"""Learning curves as the dashboard asks for them: filtered, then thinned out."""

from __future__ import annotations

from tests.integration.store.reports import Running, step, steps
from trainer.metrics import Batch


def test_a_long_curve_is_thinned_but_keeps_its_extremes(running: Running):
    trial_id, attempt = running.started(0)
    losses = dict.fromkeys(range(1, 2001), 1.0) | {777: 50.0, 1234: 0.01}
    norms = dict.fromkeys(range(1, 2001), 2.0) | {42: 900.0, 1999: 0.5}
    points = tuple(step(n, loss=losses[n], grad_norm=norms[n]) for n in losses)
    running.store.record(running.lease, trial_id, attempt, Batch("running", steps=points))
    (curve,) = running.store.curves(running.sweep_id, max_points=60)
    assert len(curve.step) <= 60
    assert curve.total_points == 2000
    assert {1, 42, 777, 1234, 1999, 2000} <= set(curve.step)
    assert (max(curve.loss), min(curve.loss)) == (50.0, 0.01)  # type: ignore[type-var]
    assert curve.step == sorted(curve.step)
    assert curve.samples == [10 * n for n in curve.step]


def test_a_filter_comes_before_thinning(running: Running):
    trial_id, attempt = running.started(0)
    running.store.record(running.lease, trial_id, attempt, steps(1, 1000))
    (curve,) = running.store.curves(running.sweep_id, after_step=980, max_points=50)
    assert curve.step == list(range(981, 1001)), "few are left: all of them are shown"
    assert curve.total_points == 20


def test_a_reader_asks_each_trial_for_what_it_has_not_seen(running: Running):
    for number in (10, 2):
        trial_id, attempt = running.started(number)
        running.store.record(running.lease, trial_id, attempt, steps(1, 5))
    two, ten = f"{running.sweep_id}-2", f"{running.sweep_id}-10"
    curves = running.store.curves(running.sweep_id, after_step={two: 3})
    assert [(c.trial_id, c.step) for c in curves] == [(two, [4, 5]), (ten, [1, 2, 3, 4, 5])]
    assert running.store.curves(running.sweep_id, after_step={two: 5, ten: 5}) == []
    assert [c.trial_id for c in running.store.curves(running.sweep_id, [ten])] == [ten]
    assert len(running.store.curves(running.sweep_id, after_step={})) == 2
