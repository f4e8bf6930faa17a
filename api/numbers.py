"""Answers that are mostly numbers: from arrays to JSON without an object for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response


def answer(body: Any) -> Response:
    """`body` as JSON. Arrays are lists in it, and numbers that are not finite null."""
    # OPT_PASSTHROUGH_DATETIME would hand times to us; as it is they are ISO 8601, with `Z`.
    return Response(dump(body), media_type="application/json")


def dump(body: Any) -> bytes:
    """JSON of mappings, lists, arrays, times and plain values, as pydantic would write it."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z)


def rounded(column: NDArray[Any], digits: int) -> NDArray[Any]:
    """Floats with so many significant digits: their JSON is as short. Whole numbers stay."""
    if column.dtype.kind != "f":
        return column
    size = np.abs(column)
    with np.errstate(divide="ignore", invalid="ignore"):
        places = digits - 1 - np.floor(np.log10(size))
    places = np.where(np.isfinite(places), places, 0.0)
    # Whole powers of ten are exact up to 22: dividing by them gives the float next to the decimal.
    up, down = 10.0 ** np.clip(places, 0, 22), 10.0 ** np.clip(-places, 0, 22)
    return np.round(column * up / down) / up * down
