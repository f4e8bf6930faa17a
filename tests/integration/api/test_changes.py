"""Changes to sweeps and trials over HTTP: what is asked for, and what is refused before that."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.api.conftest import Api, good_sweep
from tests.integration.store.reports import Running
from winnow.types import Command, SweepState, TrialState

PARAMS = {"learning_rate": 1e-4, "effective_batch_size": 8}


def running(api: Api, **changes: Any) -> Running:
    """A sweep that was sent to the API and taken by a driver."""
    response = api.post(good_sweep() | changes)
    assert response.status_code == 201, response.text
    sweep_id = response.json()["id"]
    lease = api.store.acquire_lease(sweep_id, "a driver", 60)
    assert lease is not None
    return Running(api.store, sweep_id, lease)


def trial_of(run: Running, number: int = 1) -> str:
    return run.store.add_trial(run.lease, number, "search", PARAMS, {}, 100)


def ask(api: Api, path: str, body: Any = None) -> Any:
    return api.http.post(f"/v1/{path}", **({} if body is None else {"json": body}))


def accepted(api: Api, path: str, body: Any = None) -> Command:
    response = ask(api, path, body)
    assert response.status_code == 202, response.text
    return Command.model_validate(response.json())


def faults(response: Any) -> dict[str, str]:
    """What was refused, by pointer."""
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return {error["pointer"]: error["message"] for error in response.json()["errors"]}


@pytest.mark.parametrize("action", ["stop", "pause", "pin", "unpin"])
def test_what_is_asked_of_a_trial_is_a_command_with_who_asked(
    api_on_both: Api, action: str
) -> None:
    run = running(api_on_both)
    trial_id = trial_of(run)
    command = accepted(api_on_both, f"trials/{trial_id}:{action}")
    assert (command.kind, command.trial_id, command.issued_by) == (action, trial_id, "owner")
    assert command.result is None
    assert accepted(api_on_both, f"trials/{trial_id}:{action}").id == command.id, "asked twice"


def test_a_trial_is_resumed_and_revived_only_where_it_can_be(api: Api) -> None:
    run = running(api)
    trial_id = trial_of(run)
    assert "is PENDING, not PAUSED" in ask(api, f"trials/{trial_id}:resume").json()["detail"]
    refused = ask(api, f"trials/{trial_id}:revive")
    assert (refused.status_code, "can be revived" in refused.json()["detail"]) == (409, True)
    run.store.end_trial(run.lease, trial_id, TrialState.CANCELED, "user", "Stopped.")
    assert accepted(api, f"trials/{trial_id}:revive").kind == "revive"
    assert ask(api, f"trials/{trial_id}:pause").status_code == 409


def test_an_action_that_there_is_not_names_those_that_there_are(api: Api) -> None:
    response = ask(api, f"trials/{trial_of(running(api))}:destroy")
    assert response.status_code == 404
    actions = ("clone", "export", "pause", "pin", "resume", "revive", "stop", "unpin")
    assert ", ".join(f"`:{action}`" for action in actions) in response.json()["detail"]


def test_a_clone_carries_what_differs(api: Api) -> None:
    trial_id = trial_of(running(api))
    assert accepted(api, f"trials/{trial_id}:clone").payload == {"params": {}}
    changes = {"learning_rate": 3e-4, "weight_decay": 0.1}  # outside of the space, and not in it
    first = accepted(api, f"trials/{trial_id}:clone", {"params": changes})
    assert first.payload == {"params": changes}
    again = accepted(api, f"trials/{trial_id}:clone", {"params": changes})
    assert again.id != first.id, "two clones are two wishes"


@pytest.mark.parametrize(
    ("params", "pointer", "message"),
    [
        ({"learning_rate": -1}, "/params/learning_rate", " 0"),
        ({"learning_rate": "fast"}, "/params/learning_rate", "number"),
        ({"learning_rate": True}, "/params/learning_rate", "true"),
        ({"learning_rate": [1]}, "/params/learning_rate", "give a number, text"),
        ({"lernrate": 1e-4}, "/params/lernrate", "learning_rate"),
        ({"strategy": "phased"}, "/params/strategy", "two phases"),
        ({"schedule": "spiral"}, "/params/schedule", "cosine"),
    ],
)
def test_a_value_that_no_trial_can_have_is_refused_at_its_field(
    api: Api, params: dict[str, Any], pointer: str, message: str
) -> None:
    run = running(api)
    trial_id = trial_of(run)
    found = faults(ask(api, f"trials/{trial_id}:clone", {"params": params}))
    assert message in found[pointer]
    assert run.store.pending_commands(run.sweep_id) == [], "nothing is asked for"


def test_configurations_are_added_one_command_each_or_none_at_all(api: Api) -> None:
    run = running(api)
    good = [PARAMS, PARAMS | {"learning_rate": 2e-4}]
    response = ask(api, f"sweeps/{run.sweep_id}:add", {"params": good})
    assert [c["payload"]["params"] for c in response.json()["items"]] == good
    bad = [PARAMS, {"learning_rate": 2e-4}, PARAMS | {"effective_batch_size": 0}]
    found = faults(ask(api, f"sweeps/{run.sweep_id}:add", {"params": bad}))
    assert set(found) == {"/params/1/effective_batch_size", "/params/2/effective_batch_size"}
    assert found["/params/1/effective_batch_size"] == "is missing; give it a value"
    alone = faults(ask(api, f"sweeps/{run.sweep_id}:add", {"params": {"learning_rate": 1e-4}}))
    assert set(alone) == {"/params/effective_batch_size"}
    assert len(run.store.pending_commands(run.sweep_id)) == 2


def test_a_configuration_has_to_meet_the_sweeps_constraints(api: Api) -> None:
    run = running(api, constraints=["learning_rate * effective_batch_size < 0.01"])
    body = {"params": PARAMS | {"learning_rate": 0.1}}
    found = faults(ask(api, f"sweeps/{run.sweep_id}:add", body))
    assert "learning_rate * effective_batch_size < 0.01" in found["/params"]


def test_more_trials_are_asked_for_unless_the_budget_or_the_grid_is_against_it(api: Api) -> None:
    run = running(api, budget={"trials": 10})
    assert accepted(api, f"sweeps/{run.sweep_id}:extend", {"trials": 6}).payload == {"trials": 6}
    found = faults(ask(api, f"sweeps/{run.sweep_id}:extend", {"trials": 1}))
    assert f"winnow set {run.sweep_id} --budget-trials 11" in found["/trials"]
    assert "the budget allows 10" in faults(ask(api, f"trials/{trial_of(run)}:clone"))[""]
    many = faults(ask(api, f"sweeps/{run.sweep_id}:add", {"params": PARAMS}))
    assert "makes 11 trials" in many["/params"]
    assert "above 0" in faults(ask(api, f"sweeps/{run.sweep_id}:extend", {"trials": 0}))["/trials"]

    space = {"learning_rate": {"choice": [1e-5, 1e-4]}, "effective_batch_size": 8}
    grid = running(api, space=space, search={"sampler": "grid"})
    refused = ask(api, f"sweeps/{grid.sweep_id}:extend", {"trials": 1})
    assert refused.status_code == 409
    assert "is a grid: all its 2 configurations are planned" in refused.json()["detail"]
    assert f"winnow add {grid.sweep_id}" in refused.json()["detail"], "the way out"


def test_a_space_gets_smaller_and_never_larger(api: Api) -> None:
    run = running(api)
    at = f"sweeps/{run.sweep_id}:narrow"
    smaller = {"learning_rate": {"log_uniform": [1e-5, 1e-4]}}
    payload = accepted(api, at, {"space": smaller}).payload
    assert payload is not None
    assert payload["narrowed"] == ["learning_rate"]
    assert payload["space"] == smaller | {"effective_batch_size": {"choice": [8, 16]}}
    # What was asked for a moment ago counts, though nobody has carried it out yet.
    wide = faults(ask(api, at, {"space": {"learning_rate": {"log_uniform": [1e-5, 1e-3]}}}))
    assert "0.001 is outside" in wide["/space/learning_rate"]
    for space, pointer in (
        ({"effective_batch_size": {"choice": [8, 32]}}, "/space/effective_batch_size"),
        ({"epochs": 2}, "/space/epochs"),
        ({"lernrate": 2}, "/space/lernrate"),
        ({}, "/space"),
    ):
        assert list(faults(ask(api, at, {"space": space}))) == [pointer]


def test_share_and_budget_are_changed_field_by_field(api: Api) -> None:
    run = running(api, budget={"trials": 10, "hours": 2})
    at = f"sweeps/{run.sweep_id}:set"
    body = {"max_concurrent": None, "priority": 5, "budget": {"hours": None, "trials": 12}}
    payload = accepted(api, at, body).payload
    assert payload is not None
    assert (payload["max_concurrent"], payload["priority"]) == (None, 5)
    kept = {name: limit for name, limit in payload["budget"].items() if limit is not None}
    assert kept == {"trials": 12}
    assert payload["limits"] == ["trials", "hours"], "what was changed"
    for changes, pointer, message in (
        ({}, "", "at least one of"),
        ({"priority": 101}, "/priority", "at most 100"),
        ({"max_concurrent": 0}, "/max_concurrent", "at least 1"),
        ({"budget": {"hours": 0}}, "/budget/hours", "above 0"),
        ({"budget": {"cost": 5}}, "/budget/cost", "cost_per_gpu_hour"),
        ({"budget": {"gpu_hours": 5}}, "/budget/gpu_hours", "no GPUs"),
        ({"weigth": 2}, "/weigth", "did you mean 'weight'?"),
    ):
        assert message in faults(ask(api, at, changes))[pointer]


def test_a_limit_that_is_used_up_already_is_no_limit(api: Api) -> None:
    run = running(api)
    spent = {"spending": [{"what": "hours", "used": 3, "limit": None, "projected": None}]}
    run.store.write(run.lease, lambda tx: tx.set_plan(account=spent))
    found = faults(ask(api, f"sweeps/{run.sweep_id}:set", {"budget": {"hours": 3}}))
    assert "3 are used already" in found["/budget/hours"]
    assert f"winnow cancel {run.sweep_id}" in found["/budget/hours"]
    accepted(api, f"sweeps/{run.sweep_id}:set", {"budget": {"hours": 3.5}})


def test_a_sweep_is_paused_and_canceled_and_both_are_listed(api_on_both: Api) -> None:
    run = running(api_on_both)
    paused = accepted(api_on_both, f"sweeps/{run.sweep_id}:pause")
    assert paused.issued_by == "owner"
    canceled = accepted(api_on_both, f"sweeps/{run.sweep_id}:cancel")
    assert ask(api_on_both, f"sweeps/{run.sweep_id}:resume").status_code == 409
    run.store.finish_command(paused.id, "paused")
    at = f"/v1/sweeps/{run.sweep_id}/commands"
    listed = [Command.model_validate(c) for c in api_on_both.http.get(at).json()["items"]]
    assert [(c.id, c.kind, c.result) for c in listed] == [
        (paused.id, "pause", "paused"),
        (canceled.id, "cancel", None),
    ]
    assert listed[0].finished_at is not None
    first = api_on_both.http.get(at, params={"limit": 1}).json()
    rest = api_on_both.http.get(at, params={"cursor": first["next"]}).json()
    assert [c["id"] for c in first["items"] + rest["items"]] == [paused.id, canceled.id]


def test_an_ended_sweep_takes_more_trials_and_nothing_else(api: Api) -> None:
    run = running(api)
    run.store.end_sweep(run.lease, SweepState.COMPLETED)
    run.store.release(run.lease)
    for action in ("cancel", "pause", "resume"):
        assert ask(api, f"sweeps/{run.sweep_id}:{action}").status_code == 409
    assert accepted(api, f"sweeps/{run.sweep_id}:extend", {"trials": 2}).result is None
    assert run.store.unattended() == [run.sweep_id]


@pytest.mark.parametrize("path", ["trials/nope-1:pin", "sweeps/nope:pause", "sweeps/nope:extend"])
def test_nothing_is_asked_of_what_there_is_not(api: Api, path: str) -> None:
    assert ask(api, path, {"trials": 1}).status_code == 404


def test_the_stream_of_an_ended_sweep_stays_open_while_something_is_asked_of_it(api: Api) -> None:
    from api.feeds import SweepFeed

    run = running(api)
    run.store.end_sweep(run.lease, SweepState.COMPLETED)
    command = accepted(api, f"sweeps/{run.sweep_id}:extend", {"trials": 2})
    feed = SweepFeed(run.store, run.sweep_id)
    for _ in range(3):
        feed.poll()
        assert not feed.ended
    run.store.finish_command(command.id, "refused")
    told = [message.kind for message in feed.poll()]
    assert (told[0], told[-1]) == ("event", "end")


def test_slots_that_change_without_an_event_are_streamed(api: Api) -> None:
    from api.feeds import POLLS_A_LOOK, SweepFeed

    run = running(api)
    feed = SweepFeed(run.store, run.sweep_id)
    feed.poll()
    run.store.grant(run.sweep_id, 0, "another sweep has them")
    told = [message for _ in range(POLLS_A_LOOK) for message in feed.poll()]
    assert [message.kind for message in told] == ["sweep"]
    assert b"another sweep has them" in told[0].data


# --- projects ------------------------------------------------------------------------------------


def test_a_project_is_made_changed_and_found(api_on_both: Api) -> None:
    http = api_on_both.http
    made = http.post("/v1/projects", json={"id": "nlp", "quota": {"gpus": 4}, "weight": 2})
    assert made.status_code == 201
    assert http.get(made.headers["location"]).json() == made.json()
    assert made.json()["used"] == {"gpus": 0, "trials": 0, "gpu_hours": 0.0}
    assert [p["id"] for p in http.get("/v1/projects").json()["items"]] == ["default", "nlp"]
    assert http.post("/v1/projects", json={"id": "nlp"}).status_code == 409
    changed = http.put("/v1/projects/nlp", json={"quota": {"trials": 8}}).json()
    assert (changed["quota"], changed["weight"]) == (
        {"gpus": None, "trials": 8, "gpu_hours": None},
        1.0,
    )
    assert http.put("/v1/projects/none", json={}).status_code == 404


def test_a_project_that_makes_no_sense_is_refused_at_its_field(api: Api) -> None:
    for body, pointer in (
        ({}, "/id"),
        ({"id": "Big Project"}, "/id"),
        ({"id": "a", "quota": {"gpus": -1}}, "/quota/gpus"),
        ({"id": "a", "quota": {"gpu": 1}}, "/quota/gpu"),
        ({"id": "a", "weight": 0}, "/weight"),
    ):
        assert list(faults(api.http.post("/v1/projects", json=body))) == [pointer]


def test_a_sweep_joins_a_project_that_there_is_and_fits_its_quota(api: Api) -> None:
    unknown = faults(api.post(good_sweep() | {"project": "nlp"}))
    assert "`winnow project create nlp`" in unknown["/project"]
    assert "small letters" in faults(api.post(good_sweep() | {"project": "N L P"}))["/project"]
    api.http.post("/v1/projects", json={"id": "nlp", "quota": {"gpus": 2}})
    assert api.post(good_sweep() | {"project": "nlp"}).json()["project"] == "nlp"
    close = faults(api.post(good_sweep() | {"project": "nlpp"}))["/project"]
    assert "did you mean 'nlp'?" in close
    greedy = good_sweep() | {"project": "nlp", "resources": {"gpus_per_trial": 4}}
    found = faults(api.post(greedy))
    assert "`winnow project set nlp --gpus 4`" in found["/resources/gpus_per_trial"]


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("checkpoints", "give an absolute path"),
        ("s4://bucket", "known: s3, s3a, "),
        ("s3://", "names no bucket"),
        ("/etc/passwd/checkpoints", "/etc/passwd is a file; name a folder"),
    ],
)
def test_a_store_for_checkpoints_is_an_address_that_is_understood(
    api: Api, store: str, message: str
) -> None:
    found = faults(api.post(good_sweep() | {"checkpoints": {"store": store}}))
    assert message in found["/checkpoints/store"]
