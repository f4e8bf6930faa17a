from __future__ import annotations

import pytest

from orchestrator.store import Store
from tests.integration.store.reports import Running, begin


@pytest.fixture
def running(store: Store) -> Running:
    """A sweep with a driver."""
    return begin(store)
