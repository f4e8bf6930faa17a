"""A sweep that really runs, on simulated workers: driven and attended as the orchestrator would."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.live_trial import Control
from orchestrator.settings import Settings
from orchestrator.store import Lease
from orchestrator.study import Study
from orchestrator.supervision.attend import attend
from tests.e2e.server import Server
from tests.fixtures.simulated_worker import SimulatedRun
from tests.fixtures.studies import FACTS, spec
from trainer.config import TrainConfig

TURN_SECONDS = 0.08
"""Between two reports of a trial."""
STEPS = 1
SLOTS = 2


class SimulatedDriver:
    """Takes up one sweep whenever it is to run, and does what is asked of it when it isn't."""

    def __init__(self, server: Server, name: str, **changes: Any) -> None:
        self._store = server.store
        self._settings = Settings(
            home=server.home, database_url=f"sqlite:///{server.home / 'winnow.db'}"
        )
        document = spec(name=name, **changes)
        planned = document["search"]["trials"] or 6
        self.id = self._store.create_sweep(document, planned, name, FACTS).id
        self._over = threading.Event()
        self._failure: BaseException | None = None

    @property
    def path(self) -> str:
        return f"/sweeps/{self.id}"

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._over.wait(TURN_SECONDS):
                if self.id in self._store.unattended():
                    attend(self._store, self.id, self._settings)
                elif self.id in {waiting.id for waiting in self._store.claimable()}:
                    self._drive()
        except BaseException as error:  # raised where the test is
            self._failure = error

    def _drive(self) -> None:
        lease = self._store.acquire_lease(self.id, "a driver", 600)
        if lease is None:
            return
        try:
            self._store.grant(self.id, SLOTS, "the cluster has room for 2 trials at once")
            self._turns(lease)
        finally:
            self._store.release(lease)

    def _turns(self, lease: Lease) -> None:
        study = Study(self._store, lease, self._settings.home, checkpoint_seconds=60, slots=SLOTS)
        live: dict[str, tuple[SimulatedRun, Control]] = {}
        while not study.finished and not self._over.wait(TURN_SECONDS):
            for attempt_id, control in study.drain_commands():
                if attempt_id in live:
                    live[attempt_id] = (live[attempt_id][0], control)
            while (attempt := study.next()) is not None:
                config = TrainConfig.model_validate_json(attempt.config)
                live[attempt.id] = (SimulatedRun(config, attempt.resume_from, STEPS), "go")
            for attempt_id, (run, control) in list(live.items()):
                batch = run.advance(control)
                answer = study.report(attempt_id, batch)
                if batch.status == "running":
                    live[attempt_id] = (run, answer)
                else:
                    del live[attempt_id]
