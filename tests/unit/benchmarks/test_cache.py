"""The benchmark of the cache compares like with like, and says so where it can't."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cache
from benchmarks.cache import BenchmarkFailed, check_same_work, make_data, make_model

SAME: dict[str, Any] = {"samples": 3, "tokens": 90, "targets": 40, "digest": "ab", "seconds": 1.0}


def test_sides_that_got_other_samples_are_not_compared() -> None:
    check_same_work([SAME, {**SAME, "seconds": 2.0}])
    for key in ("samples", "tokens", "targets", "digest"):
        with pytest.raises(BenchmarkFailed, match=f"{key} differ"):
            check_same_work([SAME, {**SAME, key: 0}])


def test_both_sides_get_the_same_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The peer's tokens, mask and counts are ours, on a small set, in this process."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(cache, "BATCH", 16)
    monkeypatch.setattr(cache.os, "cpu_count", lambda: None)
    make_model(tmp_path / "model")
    make_data(tmp_path / "train.jsonl", 50)
    found: list[dict[str, Any]] = []
    for side in ("ours", "ours", "peer"):
        cache._side(side, tmp_path)
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    check_same_work(found)
    assert found[0]["samples"] == 50
    assert 0 < found[0]["targets"] < found[0]["tokens"]
