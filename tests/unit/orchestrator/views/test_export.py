"""A table as a file: the same rows in each format, however many batches they come in."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.store.exports import Table
from orchestrator.views.export import Format, encode

MOMENT = datetime(2026, 1, 31, 12, tzinfo=UTC)
ROWS: list[Any] = [
    (1, 0.5, "plain", MOMENT, {"a": [1, None]}, True),
    (2, None, "=1+1", None, None, None),
    (3, float("1e300"), 'a "quote", and\na line', MOMENT, "text", False),
]


def file(form: Format, *batches: list[Any]) -> bytes:
    def read() -> Iterator[list[Any]]:
        yield from batches

    table = Table(
        {"id": "int", "x": "float", "say": "text", "at": "time", "data": "json", "ok": "bool"},
        read(),
    )
    return b"".join(encode(table, form))


@pytest.mark.parametrize("batches", [(ROWS,), (ROWS[:1], ROWS[1:]), tuple([row] for row in ROWS)])
def test_every_format_has_every_row_once(batches: tuple[list[Any], ...]) -> None:
    listed = json.loads(file("json", *batches))
    assert [row["id"] for row in listed] == [1, 2, 3]
    assert listed[0]["data"] == {"a": [1, None]}
    assert [json.loads(line) for line in file("jsonl", *batches).splitlines()] == listed
    table = pq.read_table(io.BytesIO(file("parquet", *batches))).to_pylist()
    assert [(row["id"], row["x"], row["at"]) for row in table] == [
        (1, 0.5, MOMENT),
        (2, None, None),
        (3, 1e300, MOMENT),
    ]
    read = list(csv.DictReader(io.StringIO(file("csv", *batches).decode(), newline="")))
    assert [row["say"] for row in read] == ["plain", "'=1+1", 'a "quote", and\na line']
    assert json.loads(read[0]["data"]) == {"a": [1, None]}


def test_a_table_without_rows_is_a_file_all_the_same() -> None:
    assert json.loads(file("json")) == []
    assert file("jsonl") == b""
    assert pq.read_table(io.BytesIO(file("parquet"))).num_rows == 0
    assert len(file("csv").splitlines()) == 1
