"""Replaying a sweep over HTTP, from Python, and on the command line."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import winnow
from orchestrator.store import Store
from tests.fixtures.studies import Studies
from tests.integration.api.conftest import Api, LiveServer, good_sweep
from winnow.cli.main import app
from winnow.errors import ApiError
from winnow.replays import Replay
from winnow.spec import SCHEDULER_FIELDS, SchedulerSpec


def ask(api: Api, sweep_id: str, body: Any) -> Any:
    return api.http.post(f"/v1/sweeps/{sweep_id}:replay", json=body)


@pytest.fixture
def ended(api: Api) -> str:
    """A sweep of six trials that all ran to their end."""
    return Studies(api.store, api.home).ended()


def test_an_ended_sweep_is_replayed_under_another_scheduler(api_on_both: Api) -> None:
    sweep_id = Studies(api_on_both.store, api_on_both.home).ended()
    before = api_on_both.store.get_sweep(sweep_id)
    answer = ask(api_on_both, sweep_id, {"scheduler": {"name": "asha", "eta": 3}})
    assert answer.status_code == 200
    replay = Replay.model_validate(answer.json())
    assert replay.scheduler == {"name": "asha", "eta": 3, "rungs": [0.25, 0.5], "audit": 0.0}
    assert replay.trials == 6
    assert replay.stopped > 0
    assert 0 < replay.saved < 1
    assert api_on_both.store.get_sweep(sweep_id) == before, "nothing is stored"


def test_yaml_is_taken_too(api: Api, ended: str) -> None:
    answer = api.http.post(
        f"/v1/sweeps/{ended}:replay",
        content="scheduler: {name: median}\nseed: 3\nworkers: 1\n",
        headers={"Content-Type": "application/yaml"},
    )
    assert answer.status_code == 200, answer.text
    assert (answer.json()["seed"], answer.json()["workers"]) == (3, 1)


FAULTS = [
    ({}, "/scheduler", "is missing; say under which rule: {name: asha}"),
    ({"scheduler": {"name": "ahsa"}}, "/scheduler/name", "did you mean 'asha'?"),
    ({"scheduler": {"name": "asha", "eta": 1}}, "/scheduler/eta", "at least 2"),
    ({"scheduler": {"name": "asha", "eta": "3"}}, "/scheduler/eta", "give a whole number"),
    ({"scheduler": {"name": "asha", "risk": 0.2}}, "/scheduler/risk", "asha doesn't read it"),
    ({"scheduler": {"name": "asha", "rungs": [0.5, 0.2]}}, "/scheduler/rungs", "give rising"),
    ({"scheduler": {"name": "asha", "mode": "shadow"}}, "/scheduler/mode", "leave mode out"),
    ({"scheduler": {"name": "asha"}, "workers": 0}, "/workers", "at least 1"),
    ({"scheduler": {"name": "asha"}, "seed": -1}, "/seed", "at least 0"),
    ({"scheduler": {"name": "asha"}, "sedd": 1}, "/sedd", "did you mean 'seed'?"),
    ([], "", "give a mapping with some of the keys scheduler, seed, workers"),
]


@pytest.mark.parametrize(("body", "pointer", "says"), FAULTS, ids=[f[1] or "/" for f in FAULTS])
def test_a_request_with_a_fault_is_refused_by_its_field(
    api: Api, body: Any, pointer: str, says: str
) -> None:
    answer = ask(api, "any", body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["title"] == "The replay cannot run as written"
    (fault,) = problem["errors"]
    assert fault["pointer"] == pointer
    assert says in fault["message"]


def test_a_sweep_that_has_not_ended_is_a_conflict(api: Api) -> None:
    sweep_id = api.post(good_sweep()).json()["id"]
    answer = ask(api, sweep_id, {"scheduler": {"name": "asha"}})
    assert answer.status_code == 409
    assert "Only an ended sweep can be replayed" in answer.json()["detail"]


def test_a_sweep_that_is_not_there_is_not_found(api: Api) -> None:
    assert ask(api, "nothing", {"scheduler": {"name": "asha"}}).status_code == 404


def test_it_is_in_the_openapi_document(api: Api) -> None:
    document = api.http.get("/v1/openapi.json").json()
    route = document["paths"]["/v1/sweeps/{sweep_id}:replay"]["post"]
    schema = route["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/ReplayRequest"}
    assert "scheduler" in document["components"]["schemas"]["ReplayRequest"]["properties"]
    answer = route["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/Replay"}


def test_the_server_answers_others_while_it_replays(
    live: LiveServer, live_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replay waits, in its thread, until the loop has answered something else."""
    sweep_id = Studies(live_store, live.settings.home).ended()
    answered = threading.Event()
    from orchestrator.hindsight import replay as replaying

    real = replaying.replay_sweep

    def slow(*args: Any) -> Replay:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        assert answered.wait(120), "the server answered nobody meanwhile"
        return real(*args)

    monkeypatch.setattr(replaying, "replay_sweep", slow)
    with winnow.Client(live.url, live.token) as client:
        done: list[Replay] = []
        asking = threading.Thread(target=lambda: done.append(client.replay(sweep_id, "asha")))
        asking.start()
        assert client.sweep(sweep_id).id == sweep_id
        answered.set()
        asking.join(120)
    assert done


# --- from Python --------------------------------------------------------------------------------


def test_the_client_takes_a_name_a_mapping_or_a_spec(live: LiveServer, live_store: Store) -> None:
    sweep_id = Studies(live_store, live.settings.home).ended()
    with winnow.Client(live.url, live.token) as client:
        by_name = client.replay(sweep_id, "asha")
        assert by_name == client.replay(sweep_id, {"name": "asha"})
        assert by_name == client.replay(sweep_id, SchedulerSpec(name="asha"))
        assert client.replay(sweep_id, "asha", workers=1, seed=4).seed == 4
        with pytest.raises(ApiError, match="/scheduler/name"):
            client.replay(sweep_id, "nonsense")


# --- on the command line ------------------------------------------------------------------------


@pytest.fixture
def sweep_id(live: LiveServer, live_store: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {
        "WINNOW_URL": live.url,
        "WINNOW_TOKEN": live.token,
        "COLUMNS": "160",
    }.items():
        monkeypatch.setenv(name, value)
    return Studies(live_store, live.settings.home).ended(slots=1)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["replay", *arguments])


def test_the_command_tells_what_is_saved_what_is_lost_and_who_was_stopped(sweep_id: str) -> None:
    result = run(sweep_id, "--scheduler", "asha", "--rungs", "0.5", "--eta", "3")
    assert result.exit_code == 0, result.output
    said = result.output
    assert "asha (eta 3, rungs 0.5, audit 0.0): 6 trials, 1 at once" in said
    assert "Compute saved" in said
    assert "CPU-hours" in said
    assert "kept: trial" in said or "lost: trial" in said
    assert "trials whole: the best is among them in" in said
    assert "held-out loss" in said
    assert "ranked" in said


def test_all_schedulers_are_compared_in_one_table(sweep_id: str) -> None:
    result = run(sweep_id, "--all", "--eta", "3")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].split() == [
        *("scheduler", "stopped", "saved", "best", "chosen", "worse", "by", "random", "kept")
    ]
    assert [line.split()[0] for line in lines[1 : len(SCHEDULER_FIELDS) + 1]] == list(
        SCHEDULER_FIELDS
    )
    whole = json.loads(run(sweep_id, "--all", "--eta", "3", "--json").stdout)
    etas = {r["scheduler"]["name"]: r["scheduler"].get("eta") for r in whole}
    assert etas["asha"] == 3
    assert etas["median"] is None, "an option goes only to those that read it"


def test_what_trials_were_stopped_early_hide_is_told(
    live: LiveServer, live_store: Store, sweep_id: str
) -> None:
    scheduler = {"name": "asha", "rungs": [0.25, 0.5]}
    censored = Studies(live_store, live.settings.home).ended(scheduler=scheduler)
    said = run(censored, "--scheduler", "none").output
    assert "trials were ended early when the sweep ran" in said
    assert "at least 0.0 %" in said
    compared = run(censored, "--all").output
    assert "unknown" in compared.splitlines()[0]


def test_rungs_that_are_no_numbers_are_refused(sweep_id: str) -> None:
    result = run(sweep_id, "--rungs", "half")
    assert result.exit_code == 2
    assert "0.125,0.25" in result.output
