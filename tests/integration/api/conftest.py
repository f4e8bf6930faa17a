"""The API on a real database: in-process for most tests, on a loopback port for live streams."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.app import create_app
from orchestrator.admission.preflight import Preflight
from orchestrator.settings import Settings
from orchestrator.store import Store
from winnow.spec import SweepSpec


@dataclass
class Api:
    """An application, a client with its token, and the store below it."""

    app: FastAPI
    http: TestClient
    store: Store
    home: Path
    token: str

    def post(self, body: Any, **kwargs: Any) -> Any:
        return self.http.post("/v1/sweeps", json=body, **kwargs)


def good_sweep() -> dict[str, Any]:
    """A sweep in which nothing is wrong."""
    return {
        "name": "tiny",
        "model": "/models/tiny",
        "data": {"train": [{"path": "/data/train.jsonl"}], "eval": [{"path": "/data/eval.jsonl"}]},
        "space": {
            "learning_rate": {"log_uniform": [1e-5, 1e-3]},
            "effective_batch_size": {"choice": [8, 16]},
        },
        "search": {"sampler": "random", "trials": 4},
    }


def files_are_fine(spec: SweepSpec) -> Preflight:
    return Preflight(facts={"train_samples": 100})


def make_api(
    url: str,
    home: Path,
    check_files: Callable[[SweepSpec], Preflight] | None,
    *,
    settings: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Iterator[Api]:
    chosen = Settings(home=home, database_url=url, **(settings or {}))
    app = create_app(chosen, check_files=check_files, **kwargs)
    with TestClient(app, base_url="http://127.0.0.1:8642", raise_server_exceptions=False) as http:
        token = (home / "token").read_text().strip()
        http.headers["Authorization"] = f"Bearer {token}"
        store = Store(chosen.database_url)
        yield Api(app, http, store, home, token)
        store.close()


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    path = tmp_path / "api.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def api(sqlite_url: str, tmp_path: Path) -> Iterator[Api]:
    """On SQLite; data and models are not opened."""
    yield from make_api(sqlite_url, tmp_path / "home", files_are_fine)


@pytest.fixture
def api_on_both(migrated_url: str, tmp_path: Path) -> Iterator[Api]:
    """On SQLite and on PostgreSQL."""
    yield from make_api(migrated_url, tmp_path / "home", files_are_fine)


@dataclass
class LiveServer:
    """An API that listens on a loopback port, and can be ended and started again on it."""

    settings: Settings
    port: int
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = field(default=None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return (self.settings.home / "token").read_text().strip()

    def start(self) -> None:
        app = create_app(self.settings, check_files=files_are_fine)
        config = uvicorn.Config(
            app, host="127.0.0.1", port=self.port, log_level="critical", timeout_graceful_shutdown=0
        )
        started = threading.Event()
        server = _Announcing(config, started)
        self._server = server
        self._thread = threading.Thread(target=server.run, daemon=True)
        self._thread.start()
        assert started.wait(120), "the server did not start"

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(20)


class _Announcing(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config, started: threading.Event) -> None:
        super().__init__(config)
        self._announce = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce.set()


@pytest.fixture
def live(sqlite_url: str, tmp_path: Path) -> Iterator[LiveServer]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = LiveServer(Settings(home=tmp_path / "home", database_url=sqlite_url), port)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def live_store(live: LiveServer) -> Iterator[Store]:
    store = Store(live.settings.database_url)
    yield store
    store.close()
