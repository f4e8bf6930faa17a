"""What a sweep takes over from earlier ones: of the same family, learned once, kept for good."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.hindsight.earlier import MOST_SWEEPS, earlier_sweeps, settle_prior
from orchestrator.study import ledger as ledger_module
from tests.fixtures.simulated_worker import drive
from tests.fixtures.studies import FACTS, Studies, spec
from winnow.spec import SweepSpec

DYNAMICS = {"name": "dynamics", "rungs": [0.25, 0.5]}


@pytest.fixture
def priors(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each scheduler was made with."""
    given: list[Any] = []
    make = ledger_module.make_scheduler

    def note(spec: Any, seed: int, prior: Any = None) -> Any:
        given.append(prior)
        return make(spec, seed, prior)

    monkeypatch.setattr(ledger_module, "make_scheduler", note)
    return given


def found(studies: Studies, sweep_id: str) -> list[str]:
    rows = studies.store.sweep_rows(sweep_id)
    return list(
        earlier_sweeps(studies.store, sweep_id, SweepSpec.model_validate(rows.spec), rows.facts)
    )


def test_a_sweep_starts_from_the_earlier_ones_of_its_family_newest_first(
    studies_on_both: Studies, priors: list[Any]
) -> None:
    first, second = studies_on_both.ended(), studies_on_both.ended()
    third = studies_on_both.queued(scheduler=DYNAMICS)
    studies_on_both.take(third)
    kept = studies_on_both.store.sweep_rows(third).prior
    assert kept is not None
    assert kept["sweeps"] == [second, first]
    assert priors[-1].sweeps == 2
    assert priors[-1].to_json() == kept["learned"]


def test_a_new_driver_has_exactly_the_same_prior_whatever_has_ended_meanwhile(
    studies_on_both: Studies, priors: list[Any]
) -> None:
    studies_on_both.ended()
    sweep_id = studies_on_both.queued(scheduler=DYNAMICS)
    drive(studies_on_both.take(sweep_id), turns=3)
    mine = priors[-1]
    studies_on_both.ended()
    drive(studies_on_both.take(sweep_id))
    assert priors[-1] == mine
    assert mine.sweeps == 1
    assert studies_on_both.store.get_sweep(sweep_id).state == "COMPLETED"


def test_the_first_driver_of_a_family_has_none_and_so_has_its_successor(
    studies: Studies, priors: list[Any]
) -> None:
    sweep_id = studies.queued(scheduler=DYNAMICS)
    studies.take(sweep_id)
    studies.ended()
    studies.take(sweep_id)
    assert [priors[0], priors[-1]] == [None, None]
    assert studies.store.sweep_rows(sweep_id).prior == {"sweeps": [], "learned": None}


@pytest.mark.parametrize(
    "scheduler", [DYNAMICS | {"transfer": False}, {"name": "asha", "rungs": [0.25, 0.5]}]
)
def test_a_scheduler_that_takes_none_over_is_given_none(
    studies: Studies, priors: list[Any], scheduler: dict[str, Any]
) -> None:
    studies.ended()
    sweep_id = studies.queued(scheduler=scheduler)
    studies.take(sweep_id)
    assert priors[-1] is None
    assert studies.store.sweep_rows(sweep_id).prior is None


def test_a_sweep_that_had_begun_before_goes_on_without(studies: Studies) -> None:
    """One whose first driver was of a version that looked at no earlier sweeps."""
    store = studies.store
    studies.ended()
    sweep_id = studies.queued()
    drive(studies.take(sweep_id), turns=3)
    store.expire_lease(sweep_id, store.live_drivers()[0].epoch)
    lease = store.acquire_lease(sweep_id, "a new driver", 60)
    assert lease is not None
    wanting = SweepSpec.model_validate(spec(scheduler=DYNAMICS))
    assert settle_prior(store, lease, store.sweep_rows(sweep_id), wanting) is None
    assert store.sweep_rows(sweep_id).prior == {"sweeps": [], "learned": None}


OTHERS: dict[str, dict[str, Any]] = {
    "another model": {"model": "/models/other"},
    "another file": {"data": spec()["data"] | {"train": [{"path": "/data/other.jsonl"}]}},
    "another method": {"training": {"method": "lora"}},
    "another objective": {"objective": {"metric": "eval/exact_match"}},
    "a file of the same name with other content": {"facts": FACTS | {"train_sets": [999]}},
    "a model of the same name and another size": {"facts": FACTS | {"parameters": 8}},
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS.keys())
def test_a_sweep_of_another_family_says_nothing(studies: Studies, changes: dict[str, Any]) -> None:
    sweep_id = studies.queued()
    studies.ended(**changes)
    assert found(studies, sweep_id) == []


def test_what_does_not_make_a_family_does_not_matter(studies: Studies) -> None:
    weighted = [{"path": "/data/train.jsonl", "weight": 2, "phase": 1}]
    other = studies.ended(
        name="another name",
        model="/models/tiny/",
        data=spec()["data"] | {"train": weighted},
        space={"learning_rate": {"choice": [1e-4, 1e-3, 1e-2]}, "effective_batch_size": 20},
        scheduler={"name": "asha", "rungs": [0.25]},
    )
    assert found(studies, studies.queued()) == [other]


def test_a_sweep_without_two_completed_trials_is_left_out(studies: Studies) -> None:
    studies.ended(space={"learning_rate": {"choice": [1e-3]}, "effective_batch_size": 40})
    assert found(studies, studies.queued()) == []


def test_a_sweep_that_has_not_ended_is_left_out(studies: Studies) -> None:
    drive(studies.take(studies.queued()), turns=5)
    assert found(studies, studies.queued()) == []


def test_only_the_newest_are_read(studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.hindsight.earlier.MOST_SWEEPS", 2)
    ended = [studies.ended() for _ in range(3)]
    assert MOST_SWEEPS > 2
    assert found(studies, studies.queued()) == [ended[2], ended[1]]


def test_a_prior_that_cannot_be_learned_keeps_no_sweep_from_running(
    studies: Studies, priors: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("orchestrator.hindsight.earlier.learn", fail)
    studies.ended()
    sweep_id = studies.queued(scheduler=DYNAMICS)
    studies.take(sweep_id)
    assert priors[-1] is None
    assert "starts without what earlier ones showed" in caplog.text
