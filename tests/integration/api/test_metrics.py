"""Curves of many trials: filtered, then sampled, on the axis and with the columns asked for."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.integration.api.conftest import Api, good_sweep
from tests.integration.store.reports import Running, checkpoint, evaluation, step, steps
from trainer.metrics import Batch
from winnow.types import Metrics, TrialState


@pytest.fixture
def run(api_on_both: Api) -> Running:
    sweep_id = api_on_both.post(good_sweep()).json()["id"]
    lease = api_on_both.store.acquire_lease(sweep_id, "a driver", 600)
    assert lease is not None
    return Running(api_on_both.store, sweep_id, lease)


def asked(api: Api, run: Running, **query: Any) -> Metrics:
    low = {"from": query.pop("low")} if "low" in query else {}
    at = f"/v1/sweeps/{run.sweep_id}/metrics"
    answer = api.http.get(at, params={**query, **low})
    assert answer.status_code == 200, answer.text
    return Metrics.model_validate_json(answer.content)


def test_a_range_is_cut_out_before_points_are_left_out(api_on_both: Api, run: Running) -> None:
    trial, attempt = run.started()
    run.store.record(run.lease, trial, attempt, steps(1, 1000))

    (curve,) = asked(api_on_both, run, max_points=40, x="samples", low=5010, to=5300).curves
    assert curve.step == list(range(501, 531)), "30 points fit, though 1000 did not"
    assert curve.x == curve.samples
    assert curve.total_points == 30
    (curve,) = asked(api_on_both, run, x="tokens", low=99_000).curves
    assert (curve.step[0], curve.x) == (990, [100.0 * s for s in range(990, 1001)])
    (curve,) = asked(api_on_both, run, x="time", low=499.0).curves
    assert (curve.step[0], curve.x and curve.x[-1]) == (998, 500.0), "half a second a step"
    (curve,) = asked(api_on_both, run, low=7, to=9, after_step=7).curves
    assert (curve.step, curve.x) == ([8, 9], None)
    assert asked(api_on_both, run, low=2000).curves == []


def test_columns_and_digits_are_chosen(api_on_both: Api, run: Running) -> None:
    trial, attempt = run.started()
    points = (step(1, loss=1 / 3), step(2, loss=float("nan")), step(3, loss=123456.789, mfu=0.4))
    run.store.record(run.lease, trial, attempt, Batch("running", steps=points))

    (curve,) = asked(api_on_both, run, columns="loss,mfu", digits=4).curves
    assert curve.loss == [0.3333, None, 123500.0]
    assert (curve.grad_norm, curve.learning_rate) == ([], [])
    assert curve.details == {"mfu": [None, None, 0.4]}
    (curve,) = asked(api_on_both, run).curves
    assert curve.loss == [1 / 3, None, 123456.789], "exact unless asked otherwise"
    at = f"/v1/sweeps/{run.sweep_id}/metrics"
    refused = api_on_both.http.get(at, params={"columns": "loss,superseded"})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/columns"


def test_extremes_of_a_long_curve_are_shown(api_on_both: Api, run: Running) -> None:
    trial, attempt = run.started()
    losses = dict.fromkeys(range(1, 2001), 1.0) | {777: 50.0, 1234: 0.01}
    points = tuple(step(n, loss=losses[n]) for n in losses)
    run.store.record(run.lease, trial, attempt, Batch("running", steps=points))
    for query in ({}, {"columns": "loss"}, {"columns": "loss,grad_norm,mfu"}):
        (curve,) = asked(api_on_both, run, max_points=60, **query).curves
        assert len(curve.step) <= 60
        assert {1, 777, 1234, 2000} <= set(curve.step)


def test_trials_come_page_by_page_with_their_evaluations(api_on_both: Api, run: Running) -> None:
    for number in range(5):
        trial, attempt = run.started(number)
        batch = Batch("running", steps=(step(1),), evaluations=(evaluation(1, 0.5),))
        run.store.record(run.lease, trial, attempt, batch)
    seen, evaluated, cursor = [], [], {}
    while True:
        page = asked(api_on_both, run, limit=2, **cursor)
        seen += [curve.trial_id for curve in page.curves]
        evaluated += [point.trial_id for point in page.evaluations]
        if page.next is None:
            break
        cursor = {"cursor": page.next}
    assert seen == evaluated == [f"{run.sweep_id}-{n}" for n in range(5)]
    two = f"{run.sweep_id}-3,{run.sweep_id}-1"
    page = asked(api_on_both, run, trials=two, evaluations=False)
    assert [c.trial_id for c in page.curves] == [f"{run.sweep_id}-1", f"{run.sweep_id}-3"]
    assert page.evaluations == []
    other = api_on_both.http.get(f"/v1/sweeps/{run.sweep_id}/metrics?trials=another-1")
    assert other.status_code == 404


def test_what_is_kept_of_a_curve_is_never_stale(api_on_both: Api, run: Running) -> None:
    """Trials grow, fall back and are computed again, in any order; every answer is what is
    stored, as a reader finds it who has kept nothing."""
    from orchestrator.store import Store

    draw = random.Random(0)
    attempts: dict[str, int] = {}
    reached: dict[str, int] = {}
    for number in range(3):
        trial, attempts[trial] = run.started(number)
        reached[trial] = 0
    for turn in range(25):
        trial = draw.choice(list(reached))
        at, attempt = reached[trial], attempts[trial]
        if at and draw.random() < 0.3:
            back = draw.choice([None, at])
            path = f"/ckpt/{trial}/{attempt}/{at}"
            saved = Batch("running", checkpoints=(checkpoint(at, path),))
            run.store.record(run.lease, trial, attempt, saved)
            run.store.end_attempt(run.lease, trial, attempt, TrialState.PENDING, "infrastructure")
            attempts[trial] = run.store.start_attempt(run.lease, trial, path if back else None)
            reached[trial] = back or 0
        else:
            count = draw.randint(1, 4)
            points = tuple(step(at + 1 + i, loss=float(turn)) for i in range(count))
            run.store.record(run.lease, trial, attempt, Batch("running", steps=points))
            reached[trial] = at + count
        query = draw.choice([{}, {"details": True}, {"columns": "loss"}, {"x": "time"}])
        kept = asked(api_on_both, run, **query)
        if turn % 5 == 4:
            fresh = Store(api_on_both.app.state.services.settings.database_url)
            stored = {c.trial_id: (c.step, c.loss) for c in fresh.curves(run.sweep_id)}
            fresh.close()
            assert {c.trial_id: (c.step, c.loss) for c in kept.curves} == stored
