"""A table as a file: CSV, Parquet, JSON or JSON lines, made while it is sent.

Memory holds one batch of rows, whatever the table's length.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from orchestrator.store.exports import Kind, Table

Format = Literal["csv", "parquet", "json", "jsonl"]

MEDIA_TYPES: dict[Format, str] = {
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "json": "application/json; charset=utf-8",
    "jsonl": "application/jsonl",
}

_TYPES: dict[Kind, pa.DataType] = {
    "text": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
    "json": pa.string(),
}
_FORMULA = r"^[=+\-@\t\r]"
"""What a spreadsheet takes a text for a formula by."""


def encode(table: Table, form: Format) -> Iterator[bytes]:
    """The file, piece by piece."""
    makers: dict[Format, Callable[[Table], Iterator[bytes]]] = {
        "csv": _csv,
        "parquet": _parquet,
        "json": _json,
        "jsonl": _jsonl,
    }
    return makers[form](table)


def _schema(table: Table) -> pa.Schema:
    return pa.schema([(name, _TYPES[kind]) for name, kind in table.columns.items()])


def _batches(table: Table) -> Iterator[pa.RecordBatch]:
    schema = _schema(table)
    for rows in table.batches:
        columns = list(zip(*rows, strict=True))
        arrays = [
            pa.array(map(_text, cells) if kind == "json" else cells, field.type)
            for kind, field, cells in zip(table.columns.values(), schema, columns, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _text(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _csv(table: Table) -> Iterator[bytes]:
    """A text that a spreadsheet would take for a formula gets a quote before it."""
    schema = _schema(table)
    header = io.StringIO()
    header.write(",".join(_quoted(name) for name in schema.names) + "\n")
    yield header.getvalue().encode()
    for batch in _batches(table):
        safe = [
            _defused(column) if pa.types.is_string(column.type) else column
            for column in batch.columns
        ]
        sink = io.BytesIO()
        pc_csv.write_csv(
            pa.RecordBatch.from_arrays(safe, schema=schema),
            sink,
            pc_csv.WriteOptions(include_header=False),
        )
        yield sink.getvalue()


def _quoted(name: str) -> str:
    if name[:1] in "=+-@\t\r":
        name = "'" + name
    return '"' + name.replace('"', '""') + '"'


def _defused(column: pa.Array) -> pa.Array:
    # By name: pyarrow makes these functions at run time.
    dangerous = pc.call_function(
        "match_substring_regex", [column], pc.MatchSubstringOptions(_FORMULA)
    )
    quoted = pc.call_function("binary_join_element_wise", [pa.scalar("'"), column, pa.scalar("")])
    return pc.call_function("if_else", [dangerous, quoted, column])


def _parquet(table: Table) -> Iterator[bytes]:
    sink = _Drained()
    with pq.ParquetWriter(pa.PythonFile(sink, "w"), _schema(table), compression="zstd") as writer:
        for batch in _batches(table):
            writer.write_batch(batch)
            yield sink.drain()
    yield sink.drain()


class _Drained(io.RawIOBase):
    """A file whose bytes are taken out as they are written."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._size += len(part)
        return len(part)

    def tell(self) -> int:
        return self._size

    def drain(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _jsonl(table: Table) -> Iterator[bytes]:
    for lines in _objects(table):
        yield "".join(f"{line}\n" for line in lines).encode()


def _json(table: Table) -> Iterator[bytes]:
    before = "["
    for lines in _objects(table):
        yield (before + ",\n".join(lines)).encode()
        before = ",\n"
    yield b"[]\n" if before == "[" else b"]\n"


def _objects(table: Table) -> Iterator[list[str]]:
    names = list(table.columns)
    for rows in table.batches:
        yield [
            json.dumps(dict(zip(names, row, strict=True)), default=_plain, ensure_ascii=False)
            for row in rows
        ]


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} in a table")
