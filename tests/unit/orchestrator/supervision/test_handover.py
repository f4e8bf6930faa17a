"""Settings of launchers: what is wrong with them is said before anything runs."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.settings import Settings
from orchestrator.supervision.handover import SettingsMissing, hand_over, handed_over


def test_jobs_need_the_address_of_a_dashboard(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="WINNOW_RAY_JOBS_ADDRESS: launcher job needs"):
        Settings(home=tmp_path, launcher="job")
    with pytest.raises(ValidationError, match="'head:6379' is not a web address"):
        Settings(home=tmp_path, launcher="job", ray_jobs_address="head:6379")
    found = Settings(home=tmp_path, launcher="job", ray_jobs_address="http://head:8265")
    assert found.launcher == "job"


def test_what_is_handed_over_makes_the_same_settings_and_only_its_owner_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    url = "postgresql://winnow:password@database/winnow"
    path = hand_over(Settings(home=tmp_path, database_url=url, lease_seconds=7.0))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    monkeypatch.delenv("HF_TOKEN")
    for name, value in handed_over(path).items():
        monkeypatch.setenv(name, value)
    there = Settings()
    assert there.home == tmp_path
    assert there.database_url == url
    assert there.lease_seconds == 7.0
    assert there.environment["HF_TOKEN"] == "hf_secret"


def test_a_node_without_the_file_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsMissing, match="WINNOW_HOME must be a folder that all nodes"):
        handed_over(tmp_path / "driver-settings.json")
