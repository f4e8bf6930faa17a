"""`winnow.Client` against a server that listens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import winnow
from orchestrator.store import Store
from tests.integration.api.conftest import LiveServer, good_sweep
from tests.integration.store.reports import Running, steps
from winnow.errors import ApiError, DocumentError, ServerNotFound, WinnowError
from winnow.types import TrialState


@pytest.fixture
def client(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[winnow.Client]:
    """Found as `winnow up` leaves it: through server.json and the token in the home folder."""
    for name in ("WINNOW_URL", "WINNOW_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WINNOW_HOME", str(live.settings.home))
    (live.settings.home / "server.json").write_text(json.dumps({"url": live.url}))
    with winnow.Client() as client:
        yield client


def test_a_sweep_file_is_sent_with_its_paths_made_absolute(
    client: winnow.Client, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "name: from a file\n"
        "model: base\n"
        "data: {train: [{path: train.jsonl}], eval: [{path: ../eval.jsonl, name: e}]}\n"
        "space: {learning_rate: {log_uniform: [1e-6, 1e-4]}, effective_batch_size: 8}\n"
        "search: {trials: 2}\n"
    )
    spec = client.submit(file).spec
    assert spec["model"] == str(tmp_path / "base")
    assert spec["data"]["train"][0]["path"] == str(tmp_path / "train.jsonl")
    assert spec["data"]["eval"][0]["path"] == str(tmp_path.parent / "eval.jsonl")
    assert spec["space"]["learning_rate"] == {"log_uniform": [1e-6, 1e-4]}


def test_a_mapping_and_a_spec_are_the_same_sweep(client: winnow.Client) -> None:
    as_mapping = client.submit(good_sweep())
    as_spec = client.submit(winnow.SweepSpec.model_validate(good_sweep()))
    assert as_mapping.spec == as_spec.spec
    assert [s.id for s in client.sweeps()] == [as_spec.id, as_mapping.id]


def test_a_refusal_names_every_field(client: winnow.Client) -> None:
    with pytest.raises(ApiError) as caught:
        client.submit(good_sweep() | {"typo": 1, "search": {"trials": 0}})
    assert caught.value.status == 422
    assert {e.pointer for e in caught.value.problem.errors} == {"/typo", "/search/trials"}
    assert "/search/trials: give a number above 0, got 0" in str(caught.value)


def test_a_file_that_cannot_be_read_is_told_by_name_and_line(
    client: winnow.Client, tmp_path: Path
) -> None:
    with pytest.raises(DocumentError, match=r"none\.yaml does not exist"):
        client.submit(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("name: x\n name: y\n")
    with pytest.raises(DocumentError, match=r"bad\.yaml: YAML: .* in line 2"):
        client.submit(tmp_path / "bad.yaml")


def test_lists_are_fetched_page_by_page(client: winnow.Client, live_store: Store) -> None:
    stored = [live_store.create_sweep({}, 1, f"s{i}").id for i in range(120)]
    assert [s.id for s in client.sweeps()] == stored[::-1]


def test_events_are_told_after_a_given_one(client: winnow.Client, live_store: Store) -> None:
    sweep = client.submit(good_sweep())
    live_store.acquire_lease(sweep.id, "a driver", 60)
    events = client.events(sweep.id)
    assert events[0].type == "sweep.created"
    assert client.events(sweep.id, after=events[0].id) == events[1:]


def test_the_best_trial_is_the_one_to_take_away(client: winnow.Client, live_store: Store) -> None:
    sweep = client.submit(good_sweep())
    with pytest.raises(WinnowError, match="no trial of sweep tiny has finished"):
        client.best(sweep.id)
    lease = live_store.acquire_lease(sweep.id, "a driver", 60)
    assert lease is not None
    run = Running(live_store, sweep.id, lease)
    for number, value in enumerate((2.0, 1.0, 3.0)):
        trial_id, attempt = run.started(number)
        run.store.record(run.lease, trial_id, attempt, steps(1, 2))
        run.store.end_attempt(lease, trial_id, attempt, TrialState.COMPLETED, value=value)
    assert client.best(sweep.id).number == 1


def test_no_server_is_one_clear_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: LiveServer
) -> None:
    monkeypatch.delenv("WINNOW_URL", raising=False)
    monkeypatch.setenv("WINNOW_HOME", str(tmp_path / "empty"))
    with pytest.raises(ServerNotFound, match="winnow up"):
        winnow.Client()
    live.stop()
    away = winnow.Client(live.url, "x")
    with away, pytest.raises(ServerNotFound, match="no winnow server answers"):
        list(away.sweeps())


def test_the_local_token_is_never_sent_to_another_server(
    client: winnow.Client, live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.url == live.url
    with winnow.Client("http://127.0.0.1:9") as elsewhere:
        assert "authorization" not in elsewhere._http.headers
