"""What a sweep's scheduler says of its evidence, in lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from winnow.cli.tables import number, percent


def account(summary: Mapping[str, Any] | None) -> RenderableType | None:
    """The main lines of `Sweep.scheduler_summary`; None if it says nothing.

    Schedulers differ in what they have to say, so each line stands only if its numbers are there.
    """
    lines = list(_lines(summary or {}))
    if not lines:
        return None
    grid = Table.grid(padding=(0, 2))
    for label, text in lines:
        grid.add_row(label, Text(text))
    return Group(Text("Early decisions", style="bold"), grid)


def _lines(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    announced, taken = _number(summary, "announced_risk"), _number(summary, "risk_taken")
    if announced is not None:
        so_far = "" if taken is None else f", {percent(taken)} taken"
        yield "  Risk", f"{percent(announced)} announced{so_far} (of losing the best)"
    weights = _part(summary, "weights")
    weight = _number(weights, "norm_and_loss")
    if weight is not None:
        interval = _interval(weights)
        yield "  Norm and loss", f"weight {number(weight)}{interval}, beside held-out loss with 1"
    if audit := _audit(_part(summary, "audit")):
        yield "  Audit", audit
    guard = _part(summary, "guard")
    if guard.get("state") == "fired":
        yield "  Guard", f"fired: {guard.get('text') or 'early ranks do not tell the end here'}"
    elif guard.get("state") == "open":
        yield "  Guard", "has not fired: nothing says that early ranks mislead here"
    sign = _part(summary, "paper_sign")
    if text := sign.get("text"):
        partial = _number(sign, "partial")
        figures = "" if partial is None else f" (partial correlation {number(partial)}"
        figures += "" if partial is None else f"{_interval(sign, ', ')})"
        yield "  Paper's sign", f"{text}{figures}"
    transfer = _part(summary, "transfer")
    sweeps = _number(transfer, "sweeps")
    if sweeps:
        share = _number(transfer, "weight")
        yield (
            "  Transfer",
            f"started from {sweeps:.0f} earlier sweep{'s' if sweeps != 1 else ''}"
            + ("" if share is None else f", with weight {number(share)}"),
        )
    elif sweeps == 0:
        yield "  Transfer", "no earlier sweep of the same model, data and method"


def _audit(audit: Mapping[str, Any]) -> str:
    stops, needed = _number(audit, "audited_stops"), _number(audit, "needed")
    rate, false = _number(audit, "rate"), _number(audit, "false_stops")
    if rate is None:
        note = str(audit.get("note") or "")
        return note if needed is None or not note else f"{note}; a rate takes {needed:.0f}"
    of = "" if false is None or stops is None else f"{false:.0f} of {stops:.0f} "
    match audit.get("interval"):
        case [int() | float() as low, int() | float() as high]:
            between = f" ({percent(low)} to {percent(high)})"
        case _:
            between = ""
    return f"{of}audited stops would have lost the best: {percent(rate)}{between}"


def _interval(part: Mapping[str, Any], lead: str = " ") -> str:
    match part.get("interval"):
        case [int() | float() as low, int() | float() as high]:
            inside = f"{number(low)} to {number(high)}"
            return f"{lead}{inside}" if lead != " " else f" ({inside})"
        case _:
            return ""


def _part(summary: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = summary.get(name)
    return found if isinstance(found, Mapping) else {}


def _number(part: Mapping[str, Any], name: str) -> float | None:
    found = part.get(name)
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None
