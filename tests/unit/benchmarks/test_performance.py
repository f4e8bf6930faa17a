"""The page of figures says what the result files say."""

from __future__ import annotations

import json

from benchmarks.performance import PAGE, RESULTS, page


def test_the_page_is_made_from_the_result_files() -> None:
    results = {file.stem: json.loads(file.read_text("utf-8")) for file in RESULTS.glob("*.json")}
    assert PAGE.read_text("utf-8") == page(results), "run python -m benchmarks.performance"


def test_every_result_has_a_script_and_a_ratio() -> None:
    for file in RESULTS.glob("*.json"):
        result = json.loads(file.read_text("utf-8"))
        assert (RESULTS.parent / f"{file.stem}.py").is_file()
        for field in ("ours", "peer", "ratio", "versions", "work"):
            assert result[field], f"{file.name} has no {field}"
        assert result["quick"] is False
