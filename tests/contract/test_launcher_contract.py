"""Drivers as child processes and as Ray Jobs, on a real Ray with real training: one contract."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobSubmissionClient

from orchestrator.raytune.jobs import JobLauncher
from orchestrator.settings import Settings
from orchestrator.store import Driver, Store, migrate
from orchestrator.supervision.launch import (
    EXIT_NO_LEASE,
    Holder,
    Launcher,
    LaunchError,
    ProcessLauncher,
)
from tests.fixtures.ray_head import RayHead, ray_head
from tests.fixtures.tiny_model import make_tiny_model, sums, write_jsonl
from winnow.spec import SweepSpec
from winnow.types import SweepState, TrialState

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed, pytest.mark.timeout(1500)]

SECRET = "hf_aSecretThatNobodyMayRead0123"


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head(cpus=3) as started:
        yield started


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_tiny_model(folder / "model")
    write_jsonl(folder / "train.jsonl", sums(256))
    write_jsonl(folder / "eval.jsonl", sums(8, seed=1))
    return folder


@pytest.fixture(params=["process", "job"])
def settings(
    request: pytest.FixtureRequest,
    head: RayHead,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    variables = {
        "WINNOW_HOME": str(tmp_path),
        "WINNOW_LAUNCHER": request.param,
        "WINNOW_RAY_ADDRESS": head.address,
        "WINNOW_RAY_JOBS_ADDRESS": head.dashboard,
        "WINNOW_LEASE_SECONDS": "60",
        "WINNOW_CHECKPOINT_SECONDS": "600",
        "HF_TOKEN": SECRET,
        "OMP_NUM_THREADS": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = Settings()
    migrate(found.database_url)
    return found


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    opened = Store(settings.database_url)
    yield opened
    opened.close()


@pytest.fixture
def launcher(settings: Settings, store: Store) -> Iterator[Launcher]:
    made = make(settings)
    yield made
    made.end([h for d in store.live_drivers() if (h := Holder.parse(d.holder))], 10.0)
    print_what_drivers_wrote(settings)


def print_what_drivers_wrote(settings: Settings) -> None:
    """Shown beside a test that failed."""
    for path in settings.home.rglob("*.log"):
        print(f"--- {path}\n{path.read_text(errors='replace')[-3000:]}")
    if settings.launcher == "job":
        jobs = JobSubmissionClient(settings.ray_jobs_address)
        for job in jobs.list_jobs():
            if job.submission_id is not None:
                print(f"--- {job}\n{jobs.get_job_logs(job.submission_id)[-3000:]}")


def make(settings: Settings) -> Launcher:
    """A launcher that knows of no driver yet, as after a restart of the orchestrator."""
    return JobLauncher(settings) if settings.launcher == "job" else ProcessLauncher(settings.home)


def sweep_of(store: Store, data: Path, samples: int) -> str:
    document: dict[str, Any] = {
        "name": "contract",
        "model": str(data / "model"),
        "data": {
            "train": [{"path": str(data / "train.jsonl")}],
            "eval": [{"path": str(data / "eval.jsonl")}],
        },
        "space": {"learning_rate": {"choice": [1e-3]}},
        "training": {"effective_batch_size": 2, "max_samples": samples, "exact_match": False},
        "search": {"sampler": "grid"},
        "scheduler": {"name": "none", "rungs": []},
        "resources": {"max_concurrent": 1},
    }
    spec = SweepSpec.model_validate(document).model_dump(mode="json")
    facts = {"train_samples": 256, "train_sets": [256], "parameters": 1}
    return store.create_sweep(spec, 1, "contract", facts).id


def wait_for(condition: Callable[[], Any], seconds: float = 400.0) -> Any:
    """What `condition` returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise TimeoutError(f"not within {seconds} s")


def driver_of(store: Store, sweep_id: str) -> Driver | None:
    return next((d for d in store.live_drivers() if d.sweep_id == sweep_id), None)


def trained(store: Store, sweep_id: str) -> int:
    return store.get_sweep(sweep_id).summary.samples_trained


def exit_code(launcher: Launcher, sweep_id: str) -> int:
    return wait_for(lambda: (e := launcher.ended()) and [e[sweep_id]])[0]


def test_a_driver_runs_its_sweep_to_the_end_and_exits_with_0(
    launcher: Launcher, settings: Settings, head: RayHead, store: Store, data: Path
) -> None:
    sweep_id = sweep_of(store, data, samples=8)
    assert launcher.start(sweep_id, 1, slots=1)
    assert launcher.starting(sweep_id)
    if settings.launcher == "job":  # a child has its parent's environment
        check_that_secrets_are_handed_over_in_a_file(settings, head, sweep_id)
    assert exit_code(launcher, sweep_id) == 0
    assert not launcher.starting(sweep_id)
    assert store.get_sweep(sweep_id).state is SweepState.COMPLETED
    assert sweep_id in launcher.log(sweep_id)


def check_that_secrets_are_handed_over_in_a_file(
    settings: Settings, head: RayHead, sweep_id: str
) -> None:
    path = settings.home / "run" / "driver-settings.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["HF_TOKEN"] == SECRET
    told = subprocess.run(
        [Path(sys.executable).with_name("ray"), "job", "list", "--address", head.dashboard],
        env=os.environ | head.variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert sweep_id in told.stdout
    assert SECRET not in told.stdout
    assert settings.database_url not in told.stdout


def test_a_driver_is_known_again_ended_with_a_checkpoint_followed_and_killed(
    launcher: Launcher, settings: Settings, store: Store, data: Path
) -> None:
    sweep_id = sweep_of(store, data, samples=400_000)
    assert launcher.start(sweep_id, 1, slots=1)
    assert not make(settings).start(sweep_id, 1, slots=1)  # another orchestrator's
    driver = wait_for(lambda: trained(store, sweep_id) > 10 and driver_of(store, sweep_id))
    holder = Holder.parse(driver.holder)
    assert holder is not None
    assert (holder.job is not None) == (settings.launcher == "job")

    # An orchestrator that has just started knows the driver by its lease, and ends it.
    successor = make(settings)
    assert not successor.dead(holder)
    successor.end([holder], grace=120.0)
    wait_for(lambda: driver_of(store, sweep_id) is None)
    assert successor.dead(holder)
    assert exit_code(launcher, sweep_id) == 0
    (trial,) = store.list_trials(sweep_id, kinds=["search"]).items
    assert trial.state is TrialState.PENDING
    assert list((settings.home / "sweeps" / sweep_id).glob("trial-*/attempt-1/checkpoints/*"))
    assert store.get_sweep(sweep_id).state is SweepState.RUNNING

    # The next driver is killed as soon as it has the lease, which is seen at once.
    assert launcher.start(sweep_id, driver.epoch + 1, slots=1)
    later = wait_for(lambda: driver_of(store, sweep_id))
    assert later.epoch == driver.epoch + 1
    holder = Holder.parse(later.holder)
    assert holder is not None
    launcher.kill(holder)
    wait_for(lambda: launcher.dead(holder))
    assert exit_code(launcher, sweep_id) == -9
    assert store.expire_lease(sweep_id, later.epoch)


def test_a_driver_of_a_sweep_that_is_taken_ends_by_itself(
    launcher: Launcher, store: Store, data: Path
) -> None:
    sweep_id = sweep_of(store, data, samples=8)
    assert store.acquire_lease(sweep_id, "somebody else", 60) is not None
    launcher.start(sweep_id, 1, slots=1)
    assert exit_code(launcher, sweep_id) == EXIT_NO_LEASE


def test_a_dashboard_that_is_away_is_said_to_be_and_not_waited_for(tmp_path: Path) -> None:
    away = Settings(home=tmp_path, launcher="job", ray_jobs_address="http://127.0.0.1:9")
    launcher = JobLauncher(away)
    with pytest.raises(LaunchError, match=r"http://127\.0\.0\.1:9 "):
        launcher.start("s123456789", 1, slots=1)
    began = time.monotonic()
    with pytest.raises(LaunchError, match="away"):
        launcher.start("s123456789", 1, slots=1)
    assert time.monotonic() - began < 1.0
