from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server on loopback that notes what it is sent."""
    started = Receiver().start()
    yield started
    started.stop()
