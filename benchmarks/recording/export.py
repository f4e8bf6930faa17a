"""Recorded runs as three Parquet files and a page that says what is in them.

`runs` and `points` have the form that `benchmarks.early_termination` replays; `evaluations` keeps
every measurement of quality. The same runs give the same bytes (for one version of pyarrow).
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.recording.grid import SWEEPS, Planned, RecordedSweep, plan
from benchmarks.recording.runs import run_file
from benchmarks.recording.sources import sources

RUNS = pa.schema(
    [
        ("run", pa.string()),
        ("workload", pa.string()),
        ("submission", pa.string()),
        ("study", pa.int16()),
        ("trial", pa.string()),
        ("metric", pa.string()),
        ("mode", pa.string()),
        ("config", pa.string()),
        ("hparams", pa.string()),
        ("family", pa.string()),
        ("budget", pa.int32()),
        ("status", pa.string()),
        ("failure", pa.string()),
    ]
)
POINTS = pa.schema(
    [
        ("run", pa.dictionary(pa.int32(), pa.string())),
        ("step", pa.int32()),
        ("samples", pa.int32()),
        ("grad_norm", pa.float32()),
        ("loss", pa.float32()),
        ("learning_rate", pa.float32()),
        ("seconds", pa.float32()),
        ("metric", pa.float32()),
    ]
)
EVALUATIONS = pa.schema(
    [
        ("run", pa.dictionary(pa.int32(), pa.string())),
        ("step", pa.int32()),
        ("samples", pa.int32()),
        ("split", pa.dictionary(pa.int32(), pa.string())),
        ("dataset", pa.dictionary(pa.int32(), pa.string())),
        ("loss", pa.float32()),
        ("exact_match", pa.float32()),
        ("tokens", pa.int32()),
        ("generated", pa.int32()),
        ("seconds", pa.float32()),
    ]
)

Row = dict[str, Any]


def export(
    folder: Path, out: Path, *, partial: bool = False, sweeps: Sequence[RecordedSweep] = SWEEPS
) -> list[str]:
    """Write what `folder` has to `out`. Returns the names of the sweeps that went in.

    A sweep goes in once all its runs are there; with `partial` so does one with some. Runs whose
    numbers stopped being finite go in with what they have.

    Raises:
        SystemExit: no sweep is ready; nothing is written.
    """
    from_source = sources(folder)
    runs: list[Row] = []
    points: list[Row] = []
    evaluations: list[Row] = []
    counts: dict[str, tuple[int, int]] = {}
    for sweep in sweeps:
        planned = list(plan(sweep, from_source[sweep.source]))
        there = [p for p in planned if run_file(folder, p).exists()]
        if not there or (len(there) < len(planned) and not partial):
            continue
        counts[sweep.name] = (len(there), len(planned))
        for one in there:
            recorded = _read(run_file(folder, one))
            runs.append(_run_row(one, recorded))
            points += _point_rows(one.name, recorded)
            evaluations += _evaluation_rows(one.name, recorded)
    if not counts:
        raise SystemExit(
            f"no sweep in {folder / 'runs'} has all its runs; make them with `python -m "
            "benchmarks.recording run`, or export what there is with --partial"
        )
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "runs.parquet", runs, RUNS)
    _write(out / "points.parquet", points, POINTS)
    _write(out / "evaluations.parquet", evaluations, EVALUATIONS)
    _replace(out / "README.md", _page(counts).encode("utf-8"))
    return list(counts)


def _read(path: Path) -> dict[str, Any]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)


def _run_row(planned: Planned, recorded: dict[str, Any]) -> Row:
    sweep, recipe = planned.sweep, planned.recipe
    hparams = {
        "learning_rate": recipe.learning_rate,
        "effective_batch_size": recipe.effective_batch_size,
        "schedule": recipe.schedule,
        "warmup_ratio": recipe.warmup_ratio,
        "strategy": recipe.strategy,
        "method": sweep.method,
    }
    return {
        "run": planned.name,
        "workload": sweep.name,
        "submission": planned.source.base.name if sweep.source[:4] != "demo" else "demo-base",
        "study": planned.seed,
        "trial": recipe.name,
        "metric": "eval/loss",
        "mode": "min",
        "config": recipe.name,
        "hparams": json.dumps(hparams),
        "family": f"{sweep.source}-{sweep.method}",
        "budget": recorded["total_samples"] or planned.source.samples,
        "status": recorded["status"],
        "failure": recorded["failure"],
    }


def _point_rows(run: str, recorded: dict[str, Any]) -> list[Row]:
    """A row a step, and one a held-out evaluation with nothing but the metric, in order."""
    rows = [
        {
            "run": run,
            "step": s["step"],
            "samples": s["samples"],
            "grad_norm": s["grad_norm"],
            "loss": s["loss"],
            "learning_rate": s["learning_rate"],
            # Milliseconds: finer digits are noise that does not compress.
            "seconds": round(s["seconds"], 3 if s["seconds"] >= 0.1 else 4),
            "metric": None,
        }
        for s in recorded["steps"]
    ]
    at: dict[tuple[int, int], list[Row]] = {}
    for e in recorded["evaluations"]:
        if e["split"] == "eval":
            at.setdefault((e["step"], e["samples"]), []).append(e)
    empty = dict.fromkeys(("grad_norm", "loss", "learning_rate", "seconds"))
    rows += [
        {"run": run, "step": step, "samples": samples, **empty, "metric": _token_mean(found)}
        for (step, samples), found in at.items()
    ]
    return sorted(rows, key=lambda r: r["step"])  # Stable: the step first, then what it led to.


def _evaluation_rows(run: str, recorded: dict[str, Any]) -> list[Row]:
    kept = [n for n in EVALUATIONS.names if n != "run"]
    return [{"run": run, **{name: e[name] for name in kept}} for e in recorded["evaluations"]]


def _token_mean(evaluations: Iterable[Row]) -> float | None:
    """Mean loss over all tokens of the sets; None if one set has none."""
    found = [(e["loss"], e["tokens"]) for e in evaluations]
    if any(loss is None for loss, _ in found):
        return None
    return sum(loss * n for loss, n in found) / sum(n for _, n in found)


def _write(path: Path, rows: list[Row], schema: pa.Schema) -> None:
    """One row group; numbers that are missing are NaN, as those who read the form expect."""
    columns: list[pa.Array] = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if pa.types.is_floating(field.type):
            values = [math.nan if v is None else v for v in values]
        columns.append(pa.array(values, type=field.type))
    floats = [f.name for f in schema if pa.types.is_floating(f.type)]
    texts = [f.name for f in schema if f.name not in floats]
    buffer = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(columns, schema=schema),
        buffer,
        compression="zstd",
        compression_level=19,
        use_dictionary=texts,  # type: ignore[arg-type]  # A list of columns will do.
        column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
        row_group_size=len(rows),
    )
    _replace(path, buffer.getvalue().to_pybytes())


def _replace(path: Path, content: bytes) -> None:
    """A reader sees the old file or the new one, never a half."""
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(content)
    draft.replace(path)


def _page(counts: dict[str, tuple[int, int]]) -> str:
    table = "\n".join(
        f"| {name} | {there} |" if there == planned else f"| {name} | {there} of {planned} |"
        for name, (there, planned) in counts.items()
    )
    template = Path(__file__).with_name("curves.md").read_text("utf-8")
    return template.replace("{table}", table)
