from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.fixtures.receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server on loopback that notes what it is sent."""
    started = Receiver().start()
    yield started
    started.stop()


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait until something is true."""

    def wait(true: Callable[[], bool], seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, "it did not come true"
            time.sleep(0.02)

    return wait
