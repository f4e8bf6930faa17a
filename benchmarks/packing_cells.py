"""The cells of `benchmarks/packing.py`: their lengths, and what is measured in each."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.packing_measures import (
    Plans,
    batch_sizes,
    cut_by_wrapping,
    quality,
    samples_of_row_steps,
)
from trainer.config import DataConfig, TrainSet
from trainer.curriculum import Curriculum
from trainer.multipack import PaperBatches
from trainer.packing import QUADRATIC_TOKENS, packed_bins, plan_step, plan_steps

Lengths = npt.NDArray[np.int64]

BATCHES = (128, 3840, 7680)
RANKS = (8, 64)
ONLY_TOKENS = 1e18
"""`quadratic_tokens` that makes cost equal to tokens."""


@dataclass(frozen=True)
class LengthSet:
    """Synthetic lengths: log-normal with this mean and this sd of the logarithm, cut to a range."""

    name: str
    mean: float
    sigma: float
    longest: int
    cap: int
    shortest: int = 16

    def draw(self, count: int) -> Lengths:
        """`count` lengths in tokens, in the order of one epoch's stream."""
        generator = np.random.Generator(np.random.PCG64([self.longest, round(self.mean)]))
        location = np.log(self.mean) - self.sigma**2 / 2
        drawn = generator.lognormal(location, self.sigma, count)
        return np.clip(np.rint(drawn), self.shortest, self.longest).astype(np.int64)


SETS = (
    LengthSet("gsm8k-like", mean=150, sigma=0.45, longest=4_096, cap=8_192),
    LengthSet("instruction", mean=620, sigma=1.0, longest=4_096, cap=8_192),
    LengthSet("long", mean=1_500, sigma=1.3, longest=32_768, cap=32_768),
)

WIDE_STEPS = 20
"""Steps over which the study's sampler is compared, if the cell has fewer."""
UNBOUNDED = 1 << 40
"""A cap that leaves the study's sampler to its own capacity, for the exactness of its batches."""


@dataclass(frozen=True)
class Cell:
    """One comparison; `steps` effective batches of it are packed by the peer."""

    lengths: LengthSet
    ranks: int
    batch_size: int
    padded: bool
    steps: int

    @property
    def key(self) -> str:
        kind = "padded" if self.padded else "linear"
        return f"{self.lengths.name}-{self.ranks}-{self.batch_size}-{kind}"


def make_cells(quick: bool) -> Iterable[Cell]:
    """The cells, with as many steps as keep the peer's part within minutes.

    Its linear packer allocates a square of the batch size in every call of every rank.
    """
    for lengths in SETS:
        for ranks in ranks_of(quick):
            for batch_size in BATCHES[:2] if quick else BATCHES:
                for padded in (False, True):
                    if batch_size == BATCHES[0]:
                        steps = 30 if quick else 100
                    elif padded:
                        steps = 2 if quick else 5
                    else:
                        steps = 2 if ranks == RANKS[0] and batch_size == BATCHES[1] else 1
                    yield Cell(lengths, ranks, batch_size, padded, steps)


def ranks_of(quick: bool) -> tuple[int, ...]:
    return RANKS[:1] if quick else RANKS


def sizes_of(quick: bool) -> tuple[int, ...]:
    return (100_000,) if quick else (300_000, 1_000_000)


# --- quality ----------------------------------------------------------------------------------


def measure_cell(cell: Cell, lengths: Lengths, peer: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The cell in both modes.

    Ours and instructlab-training's are compared on the same effective batches. The study's sampler
    makes its own, of other samples: so it is compared over more steps, with as many of ours.
    """
    taken = lengths[: cell.batch_size * cell.steps]
    theirs = Plans(
        taken,
        np.arange(len(taken)) // cell.batch_size,
        peer[f"{cell.key}/rank"].astype(np.int64),
        peer[f"{cell.key}/micro_batch"].astype(np.int64),
    )
    wide = lengths[
        : min(max(cell.steps, WIDE_STEPS), len(lengths) // cell.batch_size) * cell.batch_size
    ]
    paper, reason, capacity = _paper(cell, lengths, len(wide) // cell.batch_size)
    for lockstep in (False, True):
        entry: dict[str, Any] = {
            "set": cell.lengths.name,
            "ranks": cell.ranks,
            "batch_size": cell.batch_size,
            "attention": "padded" if cell.padded else "linear",
            "mode": "lockstep" if lockstep else "free",
            "steps": cell.steps,
        }
        if paper is None:
            entry["paper_cannot"] = reason
        else:
            entry |= {"paper_capacity": capacity, "paper_steps": len(wide) // cell.batch_size}
        entry |= compare_cell(cell, lockstep, float(QUADRATIC_TOKENS), taken, theirs, wide, paper)
        entry["by_tokens"] = compare_cell(cell, lockstep, ONLY_TOKENS, taken, theirs, wide, paper)
        yield entry


def compare_cell(
    cell: Cell,
    lockstep: bool,
    quadratic: float,
    taken: Lengths,
    theirs: Plans,
    wide: Lengths,
    paper: Plans | None,
) -> dict[str, Any]:
    """Quality of all sides, and the lowest ratio of ours over another's."""

    def measured(plans: Plans) -> dict[str, float]:
        return quality(
            plans,
            ranks=cell.ranks,
            cap=cell.lengths.cap,
            padded=cell.padded,
            lockstep=lockstep,
            quadratic_tokens=quadratic,
        ).asdict()

    ours = measured(_our_plans(cell, taken, lockstep, quadratic))
    sides: dict[str, Any] = {"ours": ours, "instructlab": measured(theirs)}
    pairs = [(ours, sides["instructlab"])]
    if paper is not None:
        sides["paper"] = measured(paper)
        sides["ours_beside_paper"] = measured(_our_plans(cell, wide, lockstep, quadratic))
        pairs.append((sides["ours_beside_paper"], sides["paper"]))
    sides["ratio"] = {
        measure: round(min(mine[measure] / other[measure] for mine, other in pairs), 5)
        for measure in ("efficiency", "balance", "utilisation")
    }
    return sides


def _our_plans(cell: Cell, taken: Lengths, lockstep: bool, quadratic: float) -> Plans:
    plans = plan_steps(
        taken,
        batch_size=cell.batch_size,
        ranks=cell.ranks,
        cap=cell.lengths.cap,
        padded=cell.padded,
        equal_counts=lockstep,
        quadratic_tokens=quadratic,
    )
    rank = np.empty_like(plans.rank)
    micro_batch = np.empty_like(plans.micro_batch)
    rank[plans.order] = plans.rank
    micro_batch[plans.order] = plans.micro_batch
    return Plans(taken, np.arange(len(taken)) // cell.batch_size, rank, micro_batch)


def _paper(cell: Cell, lengths: Lengths, steps: int) -> tuple[Plans | None, str, int]:
    """`steps` steps of the study's sampler, or why there are none, and its capacity."""
    try:
        batches = PaperBatches(
            lengths,
            ranks=cell.ranks,
            batch_size=cell.batch_size,
            cap=cell.lengths.cap,
            padded=cell.padded,
            seed=0,
        )
    except ValueError as error:
        return None, str(error), 0
    parts: list[tuple[int, int, int, int]] = []
    for number in range(steps):
        made = batches.step(number)
        sizes = lengths[made.samples].tolist()
        parts.extend(
            (sizes[i], number, rank, k)
            for rank, mine in enumerate(made.plan)
            for k, part in enumerate(mine)
            for i in part
        )
    columns = np.array(parts, dtype=np.int64).T
    return Plans(columns[0], columns[1], columns[2], columns[3]), "", batches.capacity


# --- exactness, whole sets --------------------------------------------------------------------


def measure_batches(
    lengths: LengthSet, ranks: int, drawn: Lengths, rows: dict[str, Any]
) -> list[dict[str, Any]]:
    """Samples a step over an epoch, by side."""
    entries: list[dict[str, Any]] = []
    for batch_size in BATCHES:
        stream = Curriculum(
            DataConfig(train=(TrainSet(path="-"),)),
            sets=[len(drawn)],
            answer_tokens=drawn,
            epochs=1.0,
            max_samples=None,
            seed=0,
        )
        full = len(drawn) // batch_size
        ours = np.array(
            [len(stream.take(i * batch_size, (i + 1) * batch_size)) for i in range(full)]
        )
        entry: dict[str, Any] = {
            "set": lengths.name,
            "ranks": ranks,
            "batch_size": batch_size,
            "ours": batch_sizes(ours, batch_size).asdict(),
            "instructlab": batch_sizes(np.full(full, batch_size), batch_size).asdict(),
        }
        for padded in (False, True):
            name = "paper_padded" if padded else "paper"
            try:
                paper = PaperBatches(
                    drawn,
                    ranks=ranks,
                    batch_size=batch_size,
                    cap=UNBOUNDED,
                    padded=padded,
                    seed=0,
                )
            except ValueError as error:
                entry[name] = {"cannot": str(error)}
            else:
                entry[name] = batch_sizes(paper.batch_sizes(), batch_size).asdict()
        samples = rows[f"{lengths.name}/bfd/all"][1]
        found, count = samples_of_row_steps(samples, batch_size, ranks, seed=0)
        entry["trl"] = {**batch_sizes(found, batch_size).asdict(), "rows_per_step": count}
        entries.append(entry)
    return entries


def measure_whole_set(lengths: LengthSet, drawn: Lengths, rows: dict[str, Any]) -> dict[str, Any]:
    """All samples packed into rows of the cap, without batches."""
    began = time.perf_counter()
    bins = packed_bins(drawn.tolist(), lengths.cap)
    seconds = time.perf_counter() - began
    total = int(drawn.sum())
    entry: dict[str, Any] = {
        "set": lengths.name,
        "cap": lengths.cap,
        "ours": {
            "efficiency": round(total / (len(bins) * lengths.cap), 6),
            "seconds": round(seconds, 3),
        },
    }
    for batch in ("all", 1000):
        taken, samples = rows[f"{lengths.name}/bfd/{batch}"]
        entry[f"trl_bfd_{batch}"] = {
            "efficiency": round(total / (len(samples) * lengths.cap), 6),
            "seconds": round(taken, 3),
        }
    taken, count = rows[f"{lengths.name}/wrapped/all"]
    entry["trl_wrapped"] = {
        "efficiency": round(total / (count * lengths.cap), 6),
        "samples_cut": round(cut_by_wrapping(drawn, lengths.cap), 4),
        "seconds": round(taken, 3),
    }
    entry["ratio"] = round(
        entry["ours"]["efficiency"]
        / max(entry["trl_bfd_all"]["efficiency"], entry["trl_bfd_1000"]["efficiency"]),
        6,
    )
    return entry


# --- planning time ----------------------------------------------------------------------------


def measure_planning(lengths: LengthSet, count: int, quick: bool) -> dict[str, Any]:
    """Seconds to plan a set of `count` samples."""
    drawn = lengths.draw(count)
    entry: dict[str, Any] = {"set": lengths.name, "samples": count, "cases": []}
    for batch_size in BATCHES:
        for ranks in ranks_of(quick):
            for padded in (False, True):
                for lockstep in (False, True):
                    arguments: dict[str, Any] = {
                        "ranks": ranks,
                        "cap": lengths.cap,
                        "padded": padded,
                        "equal_counts": lockstep,
                    }
                    plan_steps(drawn[:batch_size], batch_size=batch_size, **arguments)
                    wall: list[float] = []
                    cpu: list[float] = []
                    for _ in range(3 if count <= 300_000 else 2):
                        began, used = time.perf_counter(), time.process_time()
                        plan_steps(drawn, batch_size=batch_size, **arguments)
                        wall.append(time.perf_counter() - began)
                        cpu.append(time.process_time() - used)
                    entry["cases"].append(
                        {
                            "batch_size": batch_size,
                            "ranks": ranks,
                            "attention": "padded" if padded else "linear",
                            "mode": "lockstep" if lockstep else "free",
                            "planning_s": round(min(wall), 4),
                            "planning_cpu_s": round(min(cpu), 4),
                            "one_step_ms": _one_step(drawn, batch_size, arguments),
                        }
                    )
    return entry


def _one_step(drawn: Lengths, batch_size: int, arguments: dict[str, Any]) -> float:
    taken: list[float] = []
    for step in range(9 if batch_size == BATCHES[0] else 1):
        batch = drawn[step * batch_size : (step + 1) * batch_size].tolist()
        began = time.perf_counter()
        plan_step(batch, **arguments)
        taken.append(time.perf_counter() - began)
    return round(float(np.median(taken)) * 1e3, 3)


def add_peer_planning(entry: dict[str, Any], cells: list[Cell], peer: dict[str, Any]) -> None:
    by_key = {c.key: c for c in cells}
    for case in entry["cases"]:
        key = f"{entry['set']}-{case['ranks']}-{case['batch_size']}-{case['attention']}"
        if key in by_key:
            steps = -(-entry["samples"] // case["batch_size"])
            seconds = float(np.median(peer[f"{key}/seconds"])) * steps
            case["instructlab_s"] = round(seconds, 3)
            case["ratio"] = round(seconds / case["planning_s"], 2)
