"""What trials report: learning curves and evaluations."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.access import READ, SweepId
from api.numbers import answer, rounded
from api.parameters import words, words_among
from api.services import StoreOf
from orchestrator.store import DETAILS, MAIN, Axis, Wanted
from winnow.types import Metrics

router = APIRouter(prefix="/sweeps", tags=["metrics"])

TrialIds = Annotated[
    str | None,
    Query(
        description="Ids, with commas between; all of the sweep's if left out",
        pattern=r"^[A-Za-z0-9_,-]{0,50000}$",
    ),
]
Columns = Annotated[
    str | None,
    Query(
        description=f"Columns beside step and samples, with commas between: {', '.join(MAIN)}, "
        f"{', '.join(DETAILS)}. Default: the first three",
        pattern=r"^[a-z_,]{0,200}$",
        examples=["loss,grad_norm"],
    ),
]
Bound = Annotated[float | None, Query(allow_inf_nan=False)]


@router.get("/{sweep_id:id}/metrics", dependencies=[READ], response_model=Metrics)
def get_metrics(
    sweep_id: SweepId,
    store: StoreOf,
    trials: TrialIds = None,
    columns: Columns = None,
    details: Annotated[
        bool, Query(description="Throughput, memory, padding and gradient noise too")
    ] = False,
    max_points: Annotated[int, Query(ge=2, le=10_000, description="A trial")] = 500,
    after_step: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    x: Annotated[Axis | None, Query(description="An axis: its values are sent as `x`")] = None,
    low: Annotated[Bound, Query(alias="from", description="On that axis, or in steps")] = None,
    high: Annotated[Bound, Query(alias="to")] = None,
    digits: Annotated[
        int | None, Query(ge=2, le=17, description="Significant digits; default: exact")
    ] = None,
    evaluations: Annotated[bool, Query(description="Send evaluations too")] = True,
    limit: Annotated[int, Query(ge=1, le=1000, description="Trials")] = 1000,
    cursor: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
) -> Response:
    """Learning curves of many trials by their number, and their evaluations.

    Filters come first: trials, steps after `after_step`, and `from` ≤ x ≤ `to`. Of what is left, a
    curve of more than `max_points` is thinned out: it is cut into buckets of 2^k steps (bucket =
    step // 2^k), and of each its first and last point stay, and the smallest, largest and first
    non-finite loss and gradient norm. Buckets don't move as a run goes on; k rises when the points
    no longer fit. Evaluations are sent whole.
    """
    asked = _columns(columns, details)
    ids = None if trials is None else words(trials)
    wanted = Wanted(asked, max_points, after_step or None, x, low, high)
    page = store.metrics.read(
        sweep_id,
        ids,
        wanted,
        limit=limit,
        after=-1 if cursor is None else cursor,
        evaluations=evaluations,
    )
    shown = (lambda column: column) if digits is None else partial(rounded, digits=digits)
    return answer(
        {
            "curves": [_EMPTY | curve.fields(shown) for curve in page.curves],
            "evaluations": page.evaluations,
            "next": None if page.next is None else str(page.next),
        }
    )


_EMPTY: dict[str, list[float]] = {name: [] for name in MAIN}


def _columns(named: str | None, details: bool) -> tuple[str, ...]:
    known = (*MAIN, *DETAILS)
    asked = MAIN if named is None else words_among("columns", named, known, what="column")
    return tuple(dict.fromkeys((*asked, *(DETAILS if details else ()))))
