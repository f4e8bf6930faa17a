"""A log that is followed: nothing that is written before the end is missed."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.routers.logs import _lines
from orchestrator.views.logs import Source


def test_a_log_is_followed_until_what_writes_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what was written last, between the last look and the end."""
    monkeypatch.setattr("api.routers.logs.POLL_SECONDS", 0.01)
    source = Source("rank 0", tmp_path / "rank-0.log")
    source.path.write_text("one\n")
    looks = 0

    def ended() -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:
            source.path.write_text("one\ntwo\nlast\n")
        return looks >= 3

    async def follow() -> bytes:
        return b"".join([part async for part in _lines(lambda: source, ended, 10, None, None)])

    with ThreadPoolExecutor(max_workers=1) as thread:
        told = thread.submit(asyncio.run, follow()).result().decode()
    data = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: ")]
    assert [line.get("text") for line in data] == ["one", "two", "last", None]
    assert told.endswith("event: end\ndata: {}\n\n")
