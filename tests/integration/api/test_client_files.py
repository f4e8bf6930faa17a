"""From Python and on the command line: files of runs, and requests that get lost."""

from __future__ import annotations

import csv
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from orchestrator.store import Store
from tests.integration.api.conftest import Api, LiveServer, good_sweep
from tests.integration.api.test_trial_files import Ran, write_log
from winnow.cli.main import app
from winnow.client import Client


class Losing:
    """A server before the real one. It passes on each request, and loses the first answer."""

    def __init__(self, url: str) -> None:
        self.passed: list[str | None] = []
        losing = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                losing.passed.append(self.headers["Idempotency-Key"])
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {
                    k: v
                    for k, v in self.headers.items()
                    if k.lower() in ("authorization", "content-type", "idempotency-key")
                }
                answer = httpx2.post(f"{url}{self.path}", content=body, headers=headers)
                if len(losing.passed) == 1:
                    self.close_connection = True
                    return
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def losing(live: LiveServer) -> Iterator[Losing]:
    server = Losing(live.url)
    yield server
    server.close()


def test_a_sweep_whose_answer_was_lost_is_submitted_once(
    losing: Losing, live: LiveServer, live_store: Store
) -> None:
    with Client(losing.url, live.token) as client:
        sweep = client.submit(good_sweep())
    assert [s.id for s in live_store.list_sweeps().items] == [sweep.id]
    assert len(losing.passed) == 2
    assert len(set(losing.passed)) == 1
    assert losing.passed[0]


def test_files_of_a_trial_are_fetched_on_the_command_line(
    live: LiveServer, live_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINNOW_URL", live.url)
    monkeypatch.setenv("WINNOW_TOKEN", live.token)
    monkeypatch.chdir(tmp_path)
    headers = {"Authorization": f"Bearer {live.token}"}
    with httpx2.Client(base_url=live.url, headers=headers) as http:
        ran = Ran(Api(None, http, live_store, live.settings.home, live.token))  # type: ignore[arg-type]
    write_log(ran, b"one\ntwo\n")

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    assert run("logs", ran.trial, "--search", "TW") == "two\n"
    assert run("logs", ran.trial, "--follow") == "one\ntwo\n"
    assert "COMPLETED" in run("attempts", ran.trial)
    assert "export" in run("checkpoints", ran.trial)
    run("checkpoints", ran.trial, "--download", "model.tar")
    with tarfile.open(tmp_path / "model.tar") as tar:
        assert f"{ran.trial}-export-3/config.json" in tar.getnames()
    run("export", ran.sweep, "--what", "metrics", "-o", "m.csv")
    with (tmp_path / "m.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3"]
