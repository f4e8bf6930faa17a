"""A server behind a proxy, with secrets in its environment: it works, and writes none of them."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest

import winnow
from tests.fixtures.hub_proxy import HUB_TOKEN, JUDGE_KEY, SECRETS, HubProxy
from tests.fixtures.tiny_model import make_tiny_model, sums, write_jsonl
from tests.integration.api.test_up import Up
from winnow.errors import ApiError
from winnow.types import SweepState

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def sweep(folder: Path, **changes: object) -> dict[str, object]:
    return {
        "name": "secretive",
        "model": str(folder / "model"),
        "data": {
            "train": [{"path": str(folder / "train.jsonl")}],
            "eval": [{"path": str(folder / "held-out.jsonl")}],
            "max_length": 64,
        },
        "space": {"learning_rate": 1e-3, "effective_batch_size": 16},
        "training": {"max_samples": 32, "exact_match": False},
        "search": {"sampler": "grid"},
        "scheduler": {"name": "none"},
    } | changes


OWN = {
    "PGPASSWORD": "madeup-postgres-password",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=madeup-collector-key",
}
"""The server's own secrets, which nothing that it runs for users may have."""


def environments_of_rays_processes(server: Up) -> dict[str, bytes]:
    """What Ray's processes were started with, by what they are."""
    found: dict[str, bytes] = {}
    for pid, line in server.family().items():
        name = "raylet" if "raylet/raylet" in line else "rank" if "_Rank" in line else ""
        if name or line.startswith("ray::"):
            with contextlib.suppress(OSError):  # it has ended
                found[name or line] = Path(f"/proc/{pid}/environ").read_bytes()
    return found


def leaks(*folders: Path) -> list[tuple[str, Path]]:
    """Which secret stands in which file."""
    return [
        (secret, path)
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
        for secret in (*SECRETS, *OWN.values())
        if secret.encode() in path.read_bytes()
    ]


def test_it_runs_behind_a_proxy_and_no_file_of_it_holds_a_secret(
    tmp_path: Path, hub_proxy: HubProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, folder = tmp_path / "home", tmp_path / "files"
    folder.mkdir()
    make_tiny_model(folder / "model")
    write_jsonl(folder / "train.jsonl", sums(64))
    write_jsonl(folder / "held-out.jsonl", sums(8, seed=1))
    for name, value in (hub_proxy.environment() | OWN).items():
        monkeypatch.setenv(name, value)
    before = set(Path(tempfile.gettempdir()).glob("winnow-*"))
    server = Up(home, "--cpus", "2", "--gpus", "0")
    try:
        server.wait_for("Ctrl-C ends it")
        monkeypatch.setenv("WINNOW_HOME", str(home))
        with winnow.Client() as client:
            # The check asks the hub, by way of the proxy; its refusal repeats the token.
            with pytest.raises(ApiError) as refused:
                client.submit(sweep(folder, model="org/model"))
            assert refused.value.problem.errors[0].pointer == "/model"
            assert not [s for s in SECRETS if s in str(refused.value)]
            asked = {k.lower(): v for _, sent in hub_proxy.requests for k, v in sent.items()}
            assert asked["authorization"] == f"Bearer {HUB_TOKEN}"
            # A key is named, never told; one that isn't there is noticed before anything runs.
            judge = {"base_url": "http://judge.example/v1", "model": "j", "questions": "/q.jsonl"}
            evaluation = {"judge": judge | {"api_key_env": "madeup_key_itself"}}
            with pytest.raises(ApiError, match="no such variable is set") as unknown:
                client.submit(sweep(folder, evaluation=evaluation))
            assert "madeup_key_itself" not in str(unknown.value)
            done = client.submit(sweep(folder))
            seen: dict[str, bytes] = {}
            last = None
            for update in client.watch(done.id):
                seen |= environments_of_rays_processes(server)
                last = update
            assert last is not None
            assert last.sweep is not None
            assert last.sweep.state is SweepState.COMPLETED
            # What Ray and its workers were started with, the trial's ranks among them. (Proxies are
            # everybody's, with their passwords.)
            assert {"raylet", "rank"} <= set(seen)
            for what, variables in seen.items():
                assert b"WINNOW_DATABASE_URL=" not in variables, what
                for secret in (HUB_TOKEN, JUDGE_KEY, *OWN.values()):
                    assert secret.encode() not in variables, what
        scratch = set(Path(tempfile.gettempdir()).glob("winnow-*")) - before
        assert leaks(home, *scratch) == []
    finally:
        server.close()
    assert leaks(home) == []
    assert not [s for s in SECRETS if s in server.printed]
