"""Studies with simulated training, on SQLite; on both databases for what is stored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.store import Store
from tests.fixtures.studies import Studies


@pytest.fixture
def studies(sqlite_template: Path, tmp_path: Path) -> Iterator[Studies]:
    path = tmp_path / "studies.db"
    shutil.copy(sqlite_template, path)
    store = Store(f"sqlite:///{path}")
    yield Studies(store, tmp_path)
    store.close()


@pytest.fixture
def studies_on_both(store: Store, tmp_path: Path) -> Studies:
    return Studies(store, tmp_path)
