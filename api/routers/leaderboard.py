"""A sweep's trials, a page at a time: filtered, sorted, with the fields that are asked for."""

from __future__ import annotations

from typing import Annotated, Any, Optional, get_args

from fastapi import APIRouter, Query
from pydantic import create_model
from starlette.responses import Response

from api.access import READ, SweepId
from api.errors import invalid_parameter
from api.numbers import answer
from api.pages import Limit
from api.parameters import words, words_among
from api.services import StoreOf
from orchestrator.store import FIELDS, KEYS, Order
from winnow.types import Model, Page, Trial, TrialKind, TrialState

router = APIRouter(prefix="/sweeps", tags=["trials"])

# Of types that are known at run time only.
_optional: dict[str, Any] = {
    name: (Optional[field.annotation], None)  # noqa: UP045
    for name, field in Trial.model_fields.items()
    if name != "id"
}
TrialPart = create_model(
    "TrialPart", __base__=Model, __doc__="Some fields of a trial.", id=(str, ...), **_optional
)

Words = Annotated[str | None, Query(pattern=r"^[A-Za-z0-9_,-]{1,1000}$")]


@router.get(
    "/{sweep_id:id}/trials",
    dependencies=[READ],
    response_model=Page[Trial] | Page[TrialPart],  # type: ignore[valid-type]
)
def list_trials(
    sweep_id: SweepId,
    store: StoreOf,
    sort: Annotated[
        str,
        Query(
            description=f"One of {', '.join(KEYS)}, or a parameter as `params.NAME`; with `-` "
            "before it from the largest (`-score`: the worst first). Trials without it come last",
            pattern=r"^-?[a-z_]{1,20}(\.[A-Za-z0-9_]{1,64})?$",
            examples=["score"],
        ),
    ] = "number",
    fields: Annotated[
        str | None,
        Query(
            description="Fields to send, with commas between; `id` always is. Default: all",
            pattern=r"^[a-z_,]{1,1000}$",
            examples=["number,state,params,value"],
        ),
    ] = None,
    state: Annotated[Words, Query(description="States, with commas between")] = None,
    kind: Annotated[Words, Query(description="Kinds, with commas between")] = None,
    reason: Annotated[Words, Query(description="Reason codes, with commas between")] = None,
    limit: Limit = 500,
    cursor: Annotated[str | None, Query(pattern=r"^[A-Za-z0-9_-]{1,1000}$")] = None,
) -> Response:
    """The sweep's trials by number, the baseline and the report on the winner among them.

    `sort=score` is the leaderboard: best objective first, until it is measured the latest held-out
    figure. A cursor is good for the same `sort` only.
    """
    page = store.leaderboard.page(
        sweep_id,
        order=_order(sort),
        fields=words_among("fields", fields or "", FIELDS) or FIELDS,
        states=words_among("state", state or "", tuple(TrialState)) or None,
        kinds=words_among("kind", kind or "", _KINDS) or None,
        reasons=words(reason or "") or None,
        limit=limit,
        after=cursor,
    )
    return answer({"items": page.items, "next": page.next})


_KINDS = get_args(TrialKind)


def _order(sort: str) -> Order:
    by = sort.removeprefix("-")
    if by not in KEYS and not by.startswith("params."):
        known = f"{', '.join(KEYS)} and params.NAME"
        raise invalid_parameter("sort", f"no order by {by}; there are {known}")
    return Order(by, descending=sort.startswith("-"))
