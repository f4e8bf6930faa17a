"""Settings come from WINNOW_* variables, and the rest follows from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.settings import Settings


def test_the_database_is_a_file_in_home_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.delenv("WINNOW_DATABASE_URL", raising=False)
    monkeypatch.setenv("WINNOW_HOME", str(tmp_path))
    assert Settings().database_url == f"sqlite:///{tmp_path}/winnow.db"
    monkeypatch.setenv("WINNOW_DATABASE_URL", "postgresql://db.example/winnow")
    assert Settings().database_url == "postgresql://db.example/winnow"


def test_a_lease_too_short_to_renew_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WINNOW_LEASE_SECONDS", "0.1")
    with pytest.raises(ValidationError, match="lease_seconds"):
        Settings()


@pytest.mark.parametrize(
    ("address", "here"),
    [(None, True), ("127.0.0.1:6379", True), ("10.0.0.4:6379", False), ("ray://head:10001", False)],
)
def test_a_cluster_elsewhere_is_known_by_its_address(
    address: str | None, here: bool, tmp_path: Path
):
    assert Settings(home=tmp_path, RAY_ADDRESS=address).ray_is_here is here  # type: ignore[call-arg]
