"""Sweeps that were really driven, replayed from what is stored of them."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import Conflict, NotFound
from orchestrator.hindsight.replay import replay_sweep
from tests.fixtures.simulated_worker import drive
from tests.fixtures.studies import Studies
from winnow.replays import Replay
from winnow.spec import SCHEDULER_FIELDS, ReplayRequest
from winnow.types import TrialState


def under(studies: Studies, sweep_id: str, scheduler: str, **request: Any) -> Replay:
    wanted = ReplayRequest.model_validate({"scheduler": {"name": scheduler}} | request)
    return replay_sweep(studies.store, sweep_id, wanted)


@pytest.mark.parametrize("name", ["asha", "hyperband", "median", "random"])
def test_a_replay_ends_the_trials_that_the_live_rule_ends(studies: Studies, name: str) -> None:
    """One slot: then trials follow one another in a replay as they did live."""
    whole = studies.ended(slots=1)
    live = studies.ended(slots=1, scheduler={"name": name, "rungs": [0.25, 0.5]})
    replayed = under(studies, whole, name)
    ended = [t for t in studies.store.list_trials(live).items if t.kind == "search"]
    assert {t.number: t.fate == "stopped" for t in replayed.outcomes} == {
        t.number: t.state is TrialState.PRUNED for t in ended
    }
    assert {t.number: t.samples for t in replayed.outcomes} == {t.number: t.samples for t in ended}
    messages = {t.number: t.message for t in ended if t.state is TrialState.PRUNED}
    assert {t.number: t.reason for t in replayed.outcomes if t.fate == "stopped"} == messages


def test_a_sweep_replayed_under_its_own_rule_is_as_it_was(studies_on_both: Studies) -> None:
    sweep_id = studies_on_both.ended(slots=1, scheduler={"name": "asha", "rungs": [0.25, 0.5]})
    replayed = under(studies_on_both, sweep_id, "asha")
    assert replayed.unknown == 0
    assert replayed.censored == replayed.stopped > 0
    assert replayed.best_kept
    assert replayed.scheduler["rungs"] == [0.25, 0.5]


def test_workers_are_as_many_as_ran_at_once(studies: Studies) -> None:
    one, three = studies.ended(slots=1), studies.ended(slots=3)
    assert under(studies, one, "none").workers == 1
    assert under(studies, three, "none").workers == 3
    assert under(studies, three, "none", workers=2).workers == 2


def test_every_scheduler_can_be_replayed_on_censored_trials_too(studies: Studies) -> None:
    sweep_id = studies.ended(scheduler={"name": "asha", "rungs": [0.25, 0.5]})
    for name in SCHEDULER_FIELDS:
        replayed = under(studies, sweep_id, name)
        fates = [t.fate for t in replayed.outcomes]
        assert sum(fates.count(f) for f in ("stopped", "unknown", "kept")) == 6, name
        assert replayed.censored > 0


def test_a_sweep_that_has_not_ended_is_refused(studies: Studies) -> None:
    sweep_id = studies.queued()
    drive(studies.take(sweep_id), turns=5)
    with pytest.raises(Conflict, match=r"is RUNNING\. Only an ended sweep can be replayed"):
        under(studies, sweep_id, "asha")


def test_a_sweep_with_one_completed_trial_is_refused(studies: Studies) -> None:
    space = {"learning_rate": {"choice": [1e-3]}, "effective_batch_size": 40}
    sweep_id = studies.ended(space=space)
    with pytest.raises(Conflict, match="only 1 of its trials ran to the end with a value"):
        under(studies, sweep_id, "asha")


def test_a_sweep_that_was_canceled_before_it_began_is_refused(studies: Studies) -> None:
    sweep_id = studies.queued()
    studies.store.cancel_queued(sweep_id)
    with pytest.raises(Conflict, match="none of its trials"):
        under(studies, sweep_id, "asha")


def test_a_sweep_that_is_not_there_is_not_found(studies: Studies) -> None:
    with pytest.raises(NotFound):
        under(studies, "nothing", "asha")
