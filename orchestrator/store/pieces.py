"""Curves a second time, as blobs: what a chart needs of many trials, read in few rows.

The rows of `metrics` are what counts. A piece holds the points of a run of them, as columns of
float64, and beside these the few that a coarse view of it shows (see `thinning`). It is written by
the driver, in the transaction that reports the points, and deleted in the one after which a point
of it counts no more: so pieces are never stale. What no piece holds yet, at most a few hundred
points of a trial that runs, is read from its rows.

Pieces are merged as a trial grows, each point about five times, so a trial has few; once it has
ended they are as large as they get.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, insert, select

from orchestrator.store.database import ReadSession, WriteSession
from orchestrator.store.schema import curve_pieces
from orchestrator.store.thinning import striking

Columns = dict[str, NDArray[np.float64]]

EXTREMES = ("loss", "grad_norm")
COARSE = ("step", "samples", "tokens", *EXTREMES, "learning_rate")
"""Columns of the coarse view."""
WHOLE = (*COARSE, "seconds")
"""Columns of a piece."""
COARSE_LEVEL = 5
"""The coarse view shows of each 2^5 steps the ends and the extremes of loss and norm."""
EVERY = 256
"""Steps after which a trial that runs gets a piece."""
LARGEST = 8192
"""Points of a piece."""
_TRIALS_A_QUERY = 200
_FLOAT = "<f8"


@dataclass(frozen=True, slots=True)
class Held:
    """What a trial's pieces hold."""

    columns: Columns
    points: int
    """Of which `columns` show all, or those of the coarse view."""
    last_step: int


# --- writing (inside a driver's transaction) --------------------------------------------------


def due(before: int, now: int) -> bool:
    """Whether a trial that went from one step to another is to get a piece."""
    return before // EVERY != now // EVERY


def seal(session: WriteSession, trial_id: str, *, done: bool = False) -> None:
    """Put the points that no piece holds into one, together with pieces before it that are no
    larger; with all that fit, if the trial is `done`."""
    known = session.rows(
        select(curve_pieces.c.last_step, curve_pieces.c.points)
        .where(curve_pieces.c.trial_id == trial_id)
        .order_by(curve_pieces.c.last_step.desc())
    )
    with session.cursor() as cursor:
        new = rows(session, cursor, trial_id, WHOLE, known[0].last_step if known else -1)
    size = len(new["step"])
    merged: list[int] = []
    for piece in known:
        if size + piece.points > LARGEST or not (done or piece.points <= size):
            break
        merged.append(piece.last_step)
        size += piece.points
    if not size or (len(merged) == 1 and not len(new["step"])):
        return
    if merged:
        of_these = (curve_pieces.c.trial_id == trial_id, curve_pieces.c.last_step >= merged[-1])
        blobs = session.rows(
            select(curve_pieces.c.whole).where(*of_these).order_by(curve_pieces.c.last_step)
        )
        session.execute(delete(curve_pieces).where(*of_these))
        new = _joined([*(_decoded(row.whole, WHOLE) for row in blobs), new], WHOLE)
    session.execute(
        insert(curve_pieces),
        [dict(zip(FIELDS, row, strict=True)) for row in encoded(trial_id, new)],
    )


def cut(session: WriteSession, trial_id: str, step: int) -> None:
    """Points beyond a step may count no more."""
    session.execute(
        delete(curve_pieces).where(
            curve_pieces.c.trial_id == trial_id, curve_pieces.c.last_step > step
        )
    )


FIELDS = ("trial_id", "last_step", "points", "coarse", "whole")


def encoded(trial_id: str, columns: Columns) -> Iterator[tuple[Any, ...]]:
    """The pieces of some points, as rows of FIELDS."""
    for start in range(0, len(columns["step"]), LARGEST):
        part = {name: columns[name][start : start + LARGEST] for name in WHOLE}
        shown = striking(part["step"], [part[name] for name in EXTREMES], COARSE_LEVEL)
        yield (
            trial_id,
            int(part["step"][-1]),
            len(part["step"]),
            np.array([part[name][shown] for name in COARSE], dtype=_FLOAT).tobytes(),
            np.array([part[name] for name in WHOLE], dtype=_FLOAT).tobytes(),
        )


# --- reading ----------------------------------------------------------------------------------


def load(session: ReadSession, trial_ids: Sequence[str], *, coarse: bool) -> dict[str, Held]:
    """What the pieces of some trials hold, by trial; of each its columns of COARSE or WHOLE."""
    names, blob = (COARSE, "coarse") if coarse else (WHOLE, "whole")
    found: dict[str, list[tuple[int, int, bytes]]] = {}
    with session.cursor() as cursor:
        for start in range(0, len(trial_ids), _TRIALS_A_QUERY):
            some = trial_ids[start : start + _TRIALS_A_QUERY]
            marks = ", ".join([session.placeholder] * len(some))
            cursor.execute(
                f"SELECT trial_id, last_step, points, {blob} FROM curve_pieces "
                f"WHERE trial_id IN ({marks}) ORDER BY trial_id, last_step",
                tuple(some),
            )
            for trial_id, *piece in cursor.fetchall():
                found.setdefault(trial_id, []).append(tuple(piece))
    return {
        trial_id: Held(
            _joined([_decoded(data, names) for _, _, data in pieces], names),
            sum(points for _, points, _ in pieces),
            pieces[-1][0],
        )
        for trial_id, pieces in found.items()
    }


def rows(
    session: ReadSession, cursor: Any, trial_id: str, names: Sequence[str], after: int
) -> Columns:
    """Columns of a trial's points that count, beyond a step, from their rows. Names are ours, not
    a user's."""
    mark = session.placeholder
    cursor.execute(
        f"SELECT {', '.join(names)} FROM metrics "
        f"WHERE trial_id = {mark} AND step > {mark} AND NOT superseded ORDER BY step",
        (trial_id, after),
    )
    found = cursor.fetchall()
    table = np.array(found, dtype=np.float64) if found else np.empty((0, len(names)))
    return {name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(names)}


def joined(first: Columns, then: Columns) -> Columns:
    """One after the other, with the columns of the first."""
    return _joined([first, then], tuple(first))


def _joined(parts: Sequence[Mapping[str, NDArray[np.float64]]], names: Sequence[str]) -> Columns:
    if len(parts) == 1:
        return {name: parts[0][name] for name in names}
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _decoded(data: bytes, names: Sequence[str]) -> Columns:
    table = np.frombuffer(data, dtype=_FLOAT).reshape(len(names), -1)
    return dict(zip(names, table, strict=True))
