"""A sweep is checked and estimated without being started."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.admission.preflight import Preflight, preflight
from orchestrator.environment import Environment
from orchestrator.store import Store
from tests.integration.api.conftest import Api, good_sweep, make_api
from tests.integration.store.reports import Running, steps
from winnow.cli.main import app as command_line
from winnow.spec import SweepSpec
from winnow.types import TrialState

FACTS: dict[str, Any] = {
    "train_samples": 1000,
    "train_sets": [1000],
    "mean_length": 20.0,
    "eval_samples": {"eval": 500},
    "parameters": 39_072,
}


@pytest.fixture
def known(migrated_url: str, tmp_path: Path) -> Iterator[Api]:
    """On SQLite and on PostgreSQL; files hold what FACTS say."""
    yield from make_api(migrated_url, tmp_path / "home", lambda spec: Preflight(facts=dict(FACTS)))


def validated(api: Api, **changes: Any) -> dict[str, Any]:
    response = api.http.post("/v1/sweeps:validate", json=good_sweep() | changes)
    assert response.status_code == 200, response.text
    return response.json()


def trained(store: Store, sweep_id: str, trials: int, last: int) -> None:
    """Trials of a sweep that have trained for some steps."""
    lease = store.acquire_lease(sweep_id, "a driver", 60)
    assert lease is not None
    run = Running(store, sweep_id, lease)
    for number in range(trials):
        trial, attempt = run.started(number)
        store.record(lease, trial, attempt, steps(1, last))
        store.end_attempt(lease, trial, attempt, TrialState.COMPLETED, value=1.0)


def test_nothing_is_stored_and_the_size_and_first_proposals_are_told(known: Api) -> None:
    found = validated(known)
    assert found["valid"] is True
    assert known.store.list_sweeps().items == []
    estimate = found["estimate"]
    assert (estimate["space"], estimate["trials"]) == ("continuous", 4)
    assert estimate["steps"] == {"low": 63, "high": 125}
    assert len(estimate["sampled"]) == 4
    assert estimate["throughput"] is estimate["trial_seconds"] is None


def test_speed_is_that_of_earlier_trials_of_the_same_size_on_the_same_workers(known: Api) -> None:
    earlier = known.post(good_sweep()).json()["id"]
    trained(known.store, earlier, trials=3, last=10)
    seconds = known.store.list_trials(earlier).items[0].seconds
    assert seconds > 0
    estimate = validated(known)["estimate"]
    speed = estimate["throughput"]
    assert [sweep["id"] for sweep in speed["sweeps"]] == [earlier]
    assert speed["trials"] == 3
    # 100 samples of 20 tokens
    assert speed["tokens_per_second"]["high"] == pytest.approx(2000 / seconds)
    assert estimate["trial_seconds"]["high"] == pytest.approx(20_000 / (2000 / seconds))

    other = validated(known, resources={"workers_per_trial": 2})["estimate"]
    assert other["throughput"] is None
    assert known.http.post("/v1/projects", json={"id": "team"}).status_code == 201
    token = known.http.post(
        "/v1/tokens", json={"name": "t", "scopes": ["submit"], "project": "team"}
    ).json()["token"]
    theirs = known.http.post(
        "/v1/sweeps:validate",
        json=good_sweep() | {"project": "team"},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert theirs.json()["estimate"]["throughput"] is None  # what others run is not told


def test_faults_are_those_of_creation(known: Api) -> None:
    bad = good_sweep() | {"typo": 1}
    created, checked = (known.http.post(f"/v1/sweeps{v}", json=bad) for v in ("", ":validate"))
    assert created.status_code == checked.status_code == 422
    assert created.json()["errors"] == checked.json()["errors"]


def test_warnings_are_told_by_the_check_and_kept_with_the_sweep(known: Api) -> None:
    space = {"learning_rate": 1e-2, "effective_batch_size": 128}
    warnings = validated(known, space=space)["warnings"]
    assert {w["code"] for w in warnings} >= {"learning-rate", "steps"}
    made = known.post(good_sweep() | {"space": space}).json()
    assert made["facts"]["warnings"] == warnings


def test_a_token_that_only_reads_may_not_have_files_opened(known: Api) -> None:
    token = known.http.post("/v1/tokens", json={"name": "r", "scopes": ["read"]}).json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    response = known.http.post("/v1/sweeps:validate", json=good_sweep(), headers=headers)
    assert response.status_code == 403


def test_the_command_line_shows_the_estimate(
    live: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"URL": live.url, "TOKEN": live.token}.items():
        monkeypatch.setenv(f"WINNOW_{name}", value)
    monkeypatch.setenv("COLUMNS", "160")
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(good_sweep()))
    shown = CliRunner().invoke(command_line, ["validate", str(file)])
    assert shown.exit_code == 0, shown.output
    for words in ("configurations", "steps a trial", "first proposals", "has been measured here"):
        assert words in shown.output
    as_json = CliRunner().invoke(command_line, ["check", str(file), "--json"])
    assert json.loads(as_json.stdout)["valid"] is True


def test_a_check_of_files_has_none_of_the_servers_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "WINNOW_DATABASE_URL": "postgresql://u:canary-1@h/d",
        "WINNOW_TOKEN": "canary-2",
        "OTHER_API_KEY": "canary-3",
        "PGPASSWORD": "canary-4",
        "AWS_SECRET_ACCESS_KEY": "canary-5",
        "SOME_DSN": "redis://:canary-6@h",
        "WINNOW_WEBHOOK_SECRET": "canary-7",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    script = (
        "import json, os, sys; sys.stdin.read(); "
        "found = [k for k, v in os.environ.items() if 'canary' in v]; "
        "print(json.dumps({'ok': True, 'found': found, 'path': 'PATH' in os.environ}))"
    )
    facts = preflight(
        SweepSpec.model_validate(good_sweep()),
        cache_dir="/nonexistent",
        passed=Environment.of(secrets),
        command=(sys.executable, "-c", script),
    ).facts
    assert facts == {"found": [], "path": True}
