"""Environments of peers: made once, never used half made."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import peers


def test_a_peer_that_cannot_be_installed_is_named_with_pip_s_reason_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINNOW_PEERS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    said: list[str] = []
    with pytest.raises(peers.PeerNotInstalled, match=r"(?s)missing could not be installed.*pip"):
        peers.environment("missing", "no-such-package==1.0", torch=False, log=said.append)
    assert said == [f"missing: making an environment in {tmp_path / 'missing'} (once)"]
    assert not (tmp_path / "missing" / peers.STAMP).exists()


def test_an_environment_that_is_there_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINNOW_PEERS", str(tmp_path))
    made: list[list[str]] = []

    def run(command: list[str], name: str, say: peers.Log) -> None:
        made.append(command)
        (tmp_path / name).mkdir(exist_ok=True)

    monkeypatch.setattr(peers, "_run", run)
    quiet: peers.Log = lambda line: None  # noqa: E731
    first = peers.environment("peer", "a==1", log=quiet)
    commands = len(made)
    assert first == tmp_path / "peer" / "bin" / "python"
    assert peers.environment("peer", "a==1", log=quiet) == first
    assert len(made) == commands
    peers.environment("peer", "a==2", log=quiet)
    assert len(made) == 2 * commands


def test_torch_is_the_one_that_winnow_pins() -> None:
    assert peers.torch_requirement() in peers.CONSTRAINTS.read_text("utf-8").splitlines()
