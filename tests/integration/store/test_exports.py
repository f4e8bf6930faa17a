"""Tables for export: all rows that count, each once, whatever the size of a batch."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest

from orchestrator.store.exports import What
from tests.integration.store.reports import Running, begin, checkpoint, evaluation, steps
from trainer.metrics import Batch
from winnow.types import TrialState


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.store.exports.BATCH", 3)
    monkeypatch.setattr("orchestrator.store.exports._TRIAL_BATCH", 2)


def rows(run: Running, what: What) -> list[dict[str, Any]]:
    table = run.store.exports.table(run.sweep_id, what)
    return [dict(zip(table.columns, row, strict=True)) for row in chain(*table.batches)]


def test_what_was_computed_again_is_exported_once(running: Running) -> None:
    trial, attempt = running.started()
    first = Batch(
        "running",
        steps=steps(1, 5).steps,
        evaluations=(evaluation(2, 9.0), evaluation(4, 8.0)),
        checkpoints=(checkpoint(2, "/ckpt/2"),),
    )
    running.store.record(running.lease, trial, attempt, first)
    running.store.end_attempt(running.lease, trial, attempt, TrialState.PENDING, "infrastructure")
    again = running.store.start_attempt(running.lease, trial, "/ckpt/2")
    more = Batch("running", steps=steps(3, 7).steps, evaluations=(evaluation(4, 1.0),))
    running.store.record(running.lease, trial, again, more)
    told = [(row["attempt"], row["step"]) for row in rows(running, "metrics")]
    assert told == [(1, 1), (1, 2), *((2, step) for step in range(3, 8))]
    figures = [(row["attempt"], row["step"], row["loss"]) for row in rows(running, "evaluations")]
    assert figures == [(1, 2, 9.0), (2, 4, 1.0)]


def test_no_row_is_lost_or_told_twice_where_batches_meet(running: Running) -> None:
    for number in range(5):
        trial, attempt = running.started(number)
        sets = tuple(evaluation(at, 1.0, dataset=name) for at in (1, 2) for name in ("a", "b"))
        batch = Batch("running", steps=steps(1, 4).steps, evaluations=sets)
        running.store.record(running.lease, trial, attempt, batch)
    other = begin(running.store)
    other.started()
    assert [row["number"] for row in rows(running, "trials")] == list(range(5))
    points = [(row["number"], row["step"]) for row in rows(running, "metrics")]
    assert points == [(number, step) for number in range(5) for step in range(1, 5)]
    figures = [(row["number"], row["step"], row["dataset"]) for row in rows(running, "evaluations")]
    assert figures == [(n, at, name) for n in range(5) for at in (1, 2) for name in ("a", "b")]
    told = [row["id"] for row in rows(running, "events")]
    assert told == [event.id for event in running.store.events_after(running.sweep_id)]


def test_a_parameters_column_holds_all_its_values(running: Running) -> None:
    values: list[dict[str, Any]] = [
        {"rate": 1, "kind": "cosine", "mixed": 1},
        {"rate": 0.5, "kind": None, "mixed": "auto"},
        {"rate": 2, "flag": True, "mixed": False},
    ]
    for number, params in enumerate(values):
        running.store.add_trial(running.lease, number, "search", params, {}, 100)
    table = running.store.exports.table(running.sweep_id, "trials")
    kinds = {name: kind for name, kind in table.columns.items() if name.startswith("params.")}
    assert kinds == {
        "params.rate": "float",
        "params.kind": "text",
        "params.mixed": "text",
        "params.flag": "bool",
    }
    found = rows(running, "trials")
    assert [row["params.rate"] for row in found] == [1.0, 0.5, 2.0]
    assert [row["params.mixed"] for row in found] == ["1", "auto", "false"]
    assert [row["params.flag"] for row in found] == [None, None, True]
