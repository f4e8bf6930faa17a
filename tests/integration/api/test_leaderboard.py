"""A sweep's trials, a page at a time: sorted and filtered by the database, whatever it is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.api.conftest import Api, good_sweep
from tests.integration.store.reports import Running, evaluation, steps
from trainer.metrics import Batch
from winnow.types import Page, Trial, TrialState

RATES = [1e-4, 3e-5, 1e-3, 1e-5, 2e-4, 5e-4]
LOSSES = [0.9, 0.7, None, 0.7, 0.5, 0.8]
"""Held-out losses; the third trial has diverged, the first two are still running."""


@pytest.fixture
def run(api_on_both: Api) -> Running:
    sweep_id = api_on_both.post(good_sweep()).json()["id"]
    lease = api_on_both.store.acquire_lease(sweep_id, "a driver", 600)
    assert lease is not None
    run = Running(api_on_both.store, sweep_id, lease)
    for number, (rate, loss) in enumerate(zip(RATES, LOSSES, strict=True)):
        params = {"learning_rate": rate, "schedule": "cosine" if number % 2 else None}
        trial = run.store.add_trial(lease, number, "search", params, {}, 1000)
        attempt = run.store.start_attempt(lease, trial)
        run.store.record(lease, trial, attempt, steps(1, number + 1))
        if loss is None:
            end = (TrialState.PRUNED, "diverged")
            run.store.end_attempt(lease, trial, attempt, *end)
            continue
        measured = Batch("running", evaluations=(evaluation(number + 1, loss),))
        run.store.record(lease, trial, attempt, measured)
        if number > 2:
            run.store.end_attempt(lease, trial, attempt, TrialState.COMPLETED, value=loss)
    return run


ORDERS = {
    "number": [0, 1, 2, 3, 4, 5],
    "-number": [5, 4, 3, 2, 1, 0],
    "score": [4, 1, 3, 5, 0, 2],
    "-score": [0, 5, 1, 3, 4, 2],
    "value": [4, 3, 5, 0, 1, 2],
    "-value": [5, 3, 4, 0, 1, 2],
    "params.learning_rate": [3, 1, 0, 4, 5, 2],
    "-params.learning_rate": [2, 5, 4, 0, 1, 3],
    "params.schedule": [1, 3, 5, 0, 2, 4],
    "state": [0, 1, 3, 4, 5, 2],
    "-samples": [5, 4, 3, 2, 1, 0],
    "progress": [0, 1, 2, 3, 4, 5],
}


def test_pages_of_any_order_meet_each_trial_once(api_on_both: Api, run: Running) -> None:
    def walk(sort: str, size: int) -> list[int]:
        seen: list[int] = []
        query: dict[str, Any] = {"sort": sort, "limit": size}
        while True:
            answer = api_on_both.http.get(f"/v1/sweeps/{run.sweep_id}/trials", params=query)
            assert answer.status_code == 200, answer.text
            page = Page[Trial].model_validate_json(answer.content)
            assert len(page.items) <= size
            seen += [trial.number for trial in page.items]
            if page.next is None:
                return seen
            query["cursor"] = page.next

    for size in (2, 5):
        assert {sort: walk(sort, size) for sort in ORDERS} == ORDERS


def test_a_page_shows_trials_as_they_are_alone(api_on_both: Api, run: Running) -> None:
    page = api_on_both.http.get(f"/v1/sweeps/{run.sweep_id}/trials").json()
    for item in page["items"]:
        alone = api_on_both.http.get(f"/v1/trials/{item['id']}").json()
        assert item == alone


def test_filters_and_fields_are_combined(api_on_both: Api, run: Running) -> None:
    def get(**query: str) -> list[dict[str, Any]]:
        at = f"/v1/sweeps/{run.sweep_id}/trials"
        return api_on_both.http.get(at, params=query).json()["items"]

    ended = get(state="COMPLETED,PRUNED", fields="number,state,value", sort="-number")
    assert [set(item) for item in ended] == [{"id", "number", "state", "value"}] * 4
    assert [item["number"] for item in ended] == [5, 4, 3, 2]
    assert [t["number"] for t in get(reason="diverged")] == [2]
    assert get(kind="baseline") == []


def test_what_is_not_known_is_refused_by_name(api_on_both: Api, run: Running) -> None:
    for name, value in {
        "sort": "password",
        "fields": "config",
        "state": "DEAD",
        "kind": "other",
    }.items():
        at = f"/v1/sweeps/{run.sweep_id}/trials"
        answer = api_on_both.http.get(at, params={name: value})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == f"/{name}"


def test_a_cursor_that_was_not_given_out_is_not_found(api_on_both: Api, run: Running) -> None:
    for cursor in ("x", "W10", "bnVsbA", "99999999999", "WyJ2YWx1ZSIsZmFsc2UsIngiLDFd"):
        for sort in ("number", "value"):
            at = f"/v1/sweeps/{run.sweep_id}/trials"
            answer = api_on_both.http.get(at, params={"sort": sort, "cursor": cursor})
            assert answer.status_code == 404, answer.text


def test_a_cursor_is_good_for_the_order_that_it_came_from(api_on_both: Api, run: Running) -> None:
    at = f"/v1/sweeps/{run.sweep_id}/trials"
    cursor = api_on_both.http.get(at, params={"sort": "value", "limit": 2}).json()["next"]
    for other in ("-value", "eval_loss", "params.learning_rate"):
        answer = api_on_both.http.get(at, params={"sort": other, "cursor": cursor})
        assert answer.status_code == 404, other


def test_the_best_comes_first_whichever_way_the_objective_goes_and_none_that_diverged(
    api_on_both: Api,
) -> None:
    objective = {"metric": "eval/exact_match", "mode": "max"}
    sweep_id = api_on_both.post(good_sweep() | {"objective": objective}).json()["id"]
    store = api_on_both.store
    lease = store.acquire_lease(sweep_id, "a driver", 600)
    assert lease is not None
    for number, match in enumerate((0.2, 0.9, 0.5)):
        trial = store.add_trial(lease, number, "search", {}, {}, 1000)
        attempt = store.start_attempt(lease, trial)
        store.record(lease, trial, attempt, steps(1, 1))
        figure = evaluation(1, 1.0, exact_match=match, generated=10)
        store.record(lease, trial, attempt, Batch("running", evaluations=(figure,)))
        if match == 0.9:
            store.end_attempt(lease, trial, attempt, TrialState.PRUNED, "diverged")
    for sort, expected in {"score": [2, 0, 1], "-score": [0, 2, 1]}.items():
        page = api_on_both.http.get(f"/v1/sweeps/{sweep_id}/trials", params={"sort": sort})
        assert [trial["number"] for trial in page.json()["items"]] == expected, sort
