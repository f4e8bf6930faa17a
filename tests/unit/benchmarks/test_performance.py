"""The page of figures says what the result files say."""

from __future__ import annotations

from benchmarks.performance import PAGE, RESULTS, page, read


def test_the_page_is_made_from_the_result_files() -> None:
    assert PAGE.read_text("utf-8") == page(read(RESULTS)), "run python -m benchmarks.performance"


def test_every_result_has_a_script_and_a_ratio() -> None:
    for name, result in read(RESULTS).items():
        assert (RESULTS.parent / f"{name.partition('.')[0]}.py").is_file()
        for field in ("ours", "peer", "ratio", "versions", "work"):
            assert result[field], f"{name} has no {field}"
        assert result["quick"] is False
