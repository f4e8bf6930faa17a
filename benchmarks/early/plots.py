"""Pictures of the results: regret against compute, and announced against observed frequencies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.early.frontier import RANDOM, hull

COLOURS = {
    "dynamics": "#d1495b",
    "asha": "#00798c",
    "hyperband": "#30638e",
    "median": "#edae49",
    "wilcoxon": "#8d6a9f",
    "pareto": "#66a182",
    "one-epoch": "#5c5c5c",
    "rate-batch-curve": "#b5651d",
    "paper-sign": "#e39ec1",
    "random": "#b0b0b0",
}


def draw_frontier(result: Mapping[str, Any], title: str, path: Path) -> None:
    """One panel a budget choice: each rule's settings as dots, its lower hull as a line, random at
    matched compute dashed."""
    from matplotlib.figure import Figure

    panels = {n: found for n, found in result["results"].items() if found["frontier"]}
    if not panels:
        return
    figure = Figure(figsize=(6.4 * len(panels), 4.4), dpi=90, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, found) in zip(axes, panels.items(), strict=True):
        table = found["frontier"]
        axis.plot(table["budgets"], table["regret"][RANDOM], "k--", lw=1.4, label=RANDOM, zorder=3)
        whole = (1.0, table["everything"])
        # Ours last, so that it lies on top.
        for rule in sorted(table["settings"], key=lambda n: n == "dynamics"):
            points = [(p["compute"], p["regret"]) for p in table["settings"][rule]]
            line = hull([*points, whole])
            ours = rule == "dynamics"
            colour = COLOURS.get(rule, "#999999")
            axis.scatter(*zip(*points, strict=True), s=22 if ours else 7, color=colour, alpha=0.6)
            axis.plot(*zip(*line, strict=True), color=colour, lw=2.4 if ours else 1.2, label=rule)
        axis.set_xlim(0, 1.02)
        # Most rules are within a few hundredths: on a linear axis they would be one line.
        axis.set_yscale("symlog", linthresh=0.01, linscale=0.3)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("compute, share of running everything to its end")
        axis.set_ylabel("regret of the selected trial\n0 the best, 1 the median configuration")
        axis.set_title(title if len(panels) == 1 else f"{title}, {name}", loc="left", fontsize=11)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if axis is axes[-1]:
            axis.legend(fontsize=8, frameon=False)
    _save(figure, path)


def draw_calibration(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Reliability of the default rule's probabilities, one line for each kind of sweeps."""
    from matplotlib.figure import Figure

    shown = {
        f"{name}{'' if len(result['results']) == 1 else ', ' + choice}": found["calibration"]
        for name, result in results.items()
        for choice, found in result["results"].items()
        if found.get("calibration")
    }
    if not shown:
        return
    figure = Figure(figsize=(6.0, 5.4), dpi=90, layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="#bbbbbb", lw=1)
    for name, found in shown.items():
        bins = [b for b in found["bins"] if b["count"] >= 10]
        x, y = [b["forecast"] for b in bins], [b["came_true"] for b in bins]
        label = f"{name}: Brier {found['brier']:.3f}, base rate's {found['brier_of_base_rate']:.3f}"
        axis.plot(x, y, "o-", ms=4, lw=1.4, label=label)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_xlabel("announced chance to end within seed noise of the best")
    axis.set_ylabel("share that did")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    """As a PNG of a palette: it lives in the repository."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
