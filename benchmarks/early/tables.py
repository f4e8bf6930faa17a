"""The results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text


def show(found: Mapping[str, Any], name: str, console: Console) -> None:
    """All tables of one result."""
    console.print(_contenders(found["contenders"], name))
    if found["frontier"]:
        console.print(_frontier(found["frontier"]))
    _risk(found.get("risk") or {}, console)
    calibration = found.get("calibration")
    if calibration:
        console.print(
            f"calibration of {calibration['forecasts']:,} probabilities: Brier "
            f"{calibration['brier']:.4f}, the base rate's {calibration['brier_of_base_rate']:.4f}",
            highlight=False,
        )
    for label, control in found["exchanged_control"].items():
        console.print(
            f"{label} minus itself with early norm and loss exchanged: regret "
            f"{_signed(control['regret'])}",
            highlight=False,
        )
    if found.get("audit", {}).get("with_an_interval"):
        audit = found["audit"]
        console.print(
            f"audit: the interval held the truth in {audit['covered']} of "
            f"{audit['with_an_interval']} sweeps",
            highlight=False,
        )
    if found.get("guard_fired"):
        fired = ", ".join(f"{f} {v:.0%}" for f, v in found["guard_fired"].items())
        console.print(f"guard fired: {fired}", highlight=False)


def _contenders(contenders: Mapping[str, Any], name: str) -> Table:
    table = Table(box=SIMPLE_HEAD, title=name, title_justify="left", title_style="bold")
    table.add_column("")
    for column in (
        "saved",
        "best kept",
        "by own value",
        "regret",
        "regret − random",
        "kept − random",
        "worst family",
        "ms a sweep",
    ):
        table.add_column(column, justify="right")
    for label, figures in contenders.items():
        less = figures["minus_random"]
        regret = less["regret"]
        style = "dim" if "exchanged" in label else "bold" if label == "dynamics" else ""
        table.add_row(
            label,
            f"{figures['saved']['mean']:.2f}",
            f"{figures['kept']['1']['mean']:.2f}",
            f"{figures['kept_run']['1']['mean']:.2f}",
            f"{figures['regret']['mean']:.3f}",
            _signed(regret),
            _signed(less["kept_run"]["1"]),
            f"{regret['worst']:+.2f} {regret['worst_family']}",
            f"{figures['scheduler_ms_a_sweep']:.0f}",
            style=style,
        )
    return table


def _frontier(frontier: Mapping[str, Any]) -> Table:
    table = Table(
        box=SIMPLE_HEAD,
        title="regret at a compute budget, best settings of each rule",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("")
    for budget in frontier["budgets"]:
        table.add_column(f"{budget:.0%}", justify="right")
    columns = range(len(frontier["budgets"]))
    lowest = [
        min((v for t in frontier["regret"].values() if (v := t[k]) is not None), default=None)
        for k in columns
    ]
    for label, regrets in frontier["regret"].items():
        cells = [
            Text("–", style="dim")
            if v is None
            else Text(f"{v:.3f}", style="bold green" if v == lowest[k] else "")
            for k, v in enumerate(regrets)
        ]
        table.add_row(label, *cells)
    return table


def _risk(risks: Mapping[str, Any], console: Console) -> None:
    for label, risk in risks.items():
        low, high = risk["interval"]
        console.print(
            f"{label}: announced risk {risk['announced']:.2f}, lost {risk['lost']} of "
            f"{risk['of']} ({risk['rate']:.3f}, {low:.3f} to {high:.3f})",
            style="" if risk["kept"] else "red",
            highlight=False,
        )


def _signed(estimate: Mapping[str, Any]) -> str:
    low, high = estimate["interval"]
    return f"{estimate['mean']:+.3f} [{low:+.2f}, {high:+.2f}]"
