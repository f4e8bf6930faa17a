"""The API in a process of its own, on a database with the sweeps of two projects.

    python -m tests.conformance.server HOME PORT

Data and models of submitted sweeps are not opened; all else is as in production.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from api.app import create_app
from orchestrator.admission.preflight import Preflight
from orchestrator.settings import Settings
from orchestrator.store import Store, migrate
from tests.fixtures.simulated_worker import drive
from tests.fixtures.studies import Studies
from winnow.spec import SweepSpec
from winnow.types import Quota

OTHER_PROJECT = "other"


@dataclass(frozen=True)
class Seeded:
    """What a new database holds: an id for each kind of path parameter, and a token a scope."""

    ids: dict[str, str]
    tokens: dict[str, str]


def seed(home: Path) -> Seeded:
    """Make a database with an ended sweep, one in the middle, and tokens."""
    home.mkdir()
    url = Settings(home=home).database_url
    migrate(url)
    store = Store(url)
    store.add_project(OTHER_PROJECT, Quota(gpus=4))
    studies = Studies(store, home)
    ended = studies.ended()
    running = studies.queued(scheduler={"name": "asha", "rungs": [0.25, 0.5]})
    drive(studies.take(running), turns=40)
    studies.give_back(running)
    ids = {
        "sweep_id": ended,
        "trial_id": store.list_trials(ended).items[0].id,
        "project_id": OTHER_PROJECT,
    }
    tokens = {
        "admin": _token(store, "admin"),
        "read": _token(store, "read"),
        "another project's": _token(store, "control", OTHER_PROJECT),
    }
    ids["token_id"] = str(store.access.create_token("spare", ["read"]).id)
    store.close()
    return Seeded(ids, tokens)


def _token(store: Store, scope: str, project: str | None = None) -> str:
    made = store.access.create_token(scope, [scope], project=project)
    assert made.token is not None
    return made.token


def serve(home: Path, port: int) -> None:
    settings = Settings(home=home, port=port)
    app = create_app(settings, check_files=_fine)
    store = Store(settings.database_url)
    threading.Thread(target=_report, args=(store,), daemon=True).start()
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def _report(store: Store) -> None:
    """What an orchestrator does: without it the server isn't ready."""
    while True:
        store.report_cluster({"CPU": 8.0})
        time.sleep(2.0)


def _fine(spec: SweepSpec) -> Preflight:
    return Preflight(facts={"train_samples": 1000, "train_sets": [1000], "parameters": 7})


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
