"""The page's plots: transparent, in greys and colours that can be read on white and on black."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.findings.analysis import Analysis
from benchmarks.findings.claims import NAMES, Claim
from benchmarks.findings.features import WINDOWS
from benchmarks.findings.loading import Sweep
from benchmarks.findings.rivals import RIVALS

GREY = "#808891"
FAINT = "#80889155"
BLUE, ORANGE, GREEN, PINK = "#3d8bd4", "#d9822b", "#35a06b", "#c75a9b"
STYLE: Any = {
    "font.size": 8.5,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": FAINT,
    "axes.titlecolor": GREY,
    "axes.titlesize": 9,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "font.family": "DejaVu Sans",
}
RIVAL_NAMES = {
    "sign": "sign score",
    "held_out": "held-out loss so far",
    "surface": "rate × batch surface",
    "surface_and_features": "surface + norm and loss",
    "train_loss": "training loss so far",
}


def draw(analysis: Analysis, sweeps: list[Sweep], folder: Path) -> list[Path]:
    """Write all plots to `folder`. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figures = {
            "findings-sign": _sign(analysis),
            "findings-windows": _windows(analysis),
            "findings-surface": _surface(sweeps),
            "findings-twins": _twins(analysis),
        }
        return [_save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def _sign(analysis: Analysis) -> Figure:
    """Each sweep's correlation and their mean, for the six claims about early dynamics."""
    figure = Figure(figsize=(7.6, 2.9), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, group, title in (
        (axes[0], "H1", "sign score and outcome"),
        (axes[1], "H2", "beyond rate and batch"),
    ):
        found = [analysis.claim(f"{group}{c}") for c in "abc"]
        for place, (claim, colour) in enumerate(zip(found, (BLUE, ORANGE, GREEN), strict=True)):
            _forest(ax, -place, claim, colour)
        _zero(ax)
        ax.set(title=title, xlim=(-1.05, 1.05), ylim=(-2.6, 0.6))
        ax.set_xticks([-1, -0.5, 0, 0.5, 1])
        ax.set_yticks([0, -1, -2], list(NAMES.values()))
        ax.set_xlabel("rank correlation; right: as the paper says")
    return figure


def _forest(ax: Any, y: float, claim: Claim, colour: str) -> None:
    if claim.value is None or claim.interval is None or claim.parts is None:
        ax.text(0, y, "no data", ha="center", va="center")
        return
    ax.plot(
        list(claim.parts.values()),
        [y - 0.22] * len(claim.parts),
        "o",
        ms=4,
        mfc="none",
        mec=colour,
        alpha=0.8,
    )
    ax.plot(claim.interval, [y + 0.05] * 2, color=colour, lw=2.5)
    ax.plot([claim.value], [y + 0.05], "D", ms=6, color=colour)
    ax.text(claim.value, y + 0.2, claim.verdict, ha="center", va="bottom", color=colour)


def _windows(analysis: Analysis) -> Figure:
    """How well each rival ranks final eval loss, by the share of the budget that is seen."""
    figure = Figure(figsize=(7.6, 2.9), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, every, title in (
        (axes[0], False, "configurations with 8 steps"),
        (axes[1], True, "all configurations"),
    ):
        for rival, colour, nudge in zip(
            RIVALS, (ORANGE, BLUE, GREY, GREEN, PINK), (-0.1, -0.05, 0.0, 0.05, 0.1), strict=True
        ):
            points = [
                (i + nudge, c.result.agreement[rival])
                for i, f in enumerate(WINDOWS)
                for c in analysis.contests
                if c.fraction == f and c.every is every and rival in c.result.agreement
            ]
            for x, found in points:
                ax.plot([x, x], found.interval, color=colour, lw=1.5, alpha=0.6)
            ax.plot(
                [x for x, _ in points],
                [e.value for _, e in points],
                "o-",
                ms=4,
                color=colour,
                label=RIVAL_NAMES[rival],
            )
        ax.axhline(0, color=FAINT, lw=1)
        ax.set(title=title, xlabel="share of the budget seen", ylim=(-1.05, 1.05))
        ax.set_xticks(range(len(WINDOWS)), [f"1/{round(1 / f)}" for f in WINDOWS])
    axes[0].set_ylabel("rank correlation with\nfinal eval loss (higher: better)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def _surface(sweeps: list[Sweep]) -> Figure:
    """Final eval loss over rate for each batch, a panel a sweep."""
    columns = min(4, max(1, len(sweeps)))
    rows = max(1, math.ceil(len(sweeps) / columns))
    figure = Figure(figsize=(7.6, 0.5 + 1.75 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(sweeps) :]:
        ax.set_axis_off()
    for ax, sweep in zip(axes, sweeps, strict=False):
        ends = sorted(-c.outcome("loss") for c in sweep.stacked if c.crossed and not c.failed)
        for batch, colour, name in zip(
            sweep.batches, (BLUE, GREEN, ORANGE), ("smallest", "middle", "largest"), strict=False
        ):
            row = sorted(
                (c for c in sweep.stacked if c.crossed and c.batch == batch), key=lambda c: c.rate
            )
            ax.plot(
                [c.rate for c in row],
                [_shown(-c.outcome("loss")) for c in row],
                "o-",
                ms=3,
                lw=1.2,
                color=colour,
                label=f"{name} batch",
            )
        # Diverged ends would flatten the rest.
        top = ends[0] + 1.6 * (ends[len(ends) // 2] - ends[0]) + 0.1 if ends else 1.0
        ax.set(title=sweep.name, xscale="log", ylim=(min(ends, default=0) - 0.05, top))
        ax.tick_params(labelsize=7)
        ax.minorticks_off()
    if sweeps:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.supylabel("final eval loss, nats", fontsize=8.5)
    return figure


def _shown(loss: float) -> float:
    return loss if math.isfinite(loss) else math.nan


def _twins(analysis: Analysis) -> Figure:
    """Differences of twins with their intervals and margins."""
    found = [c for c in analysis.claims if c.equivalence]
    figure = Figure(figsize=(7.6, 0.7 + 0.36 * len(found)), layout="constrained")
    ax = figure.subplots()
    for place, claim in enumerate(found):
        ax.plot(
            [-claim.matters, claim.matters], [-place] * 2, color=FAINT, lw=9, solid_capstyle="butt"
        )
        if claim.value is None or claim.interval is None:
            ax.text(0, -place, "no data", ha="center", va="center")
            continue
        if claim.parts is not None:
            ax.plot(
                list(claim.parts.values()),
                [-place] * len(claim.parts),
                "o",
                ms=3.5,
                mfc="none",
                mec=GREY,
                alpha=0.7,
            )
        ax.plot(claim.interval, [-place] * 2, color=BLUE, lw=2.5)
        ax.plot([claim.value], [-place], "D", ms=5, color=BLUE)
        ax.annotate(
            claim.verdict,
            (1.01, -place),
            xycoords=("axes fraction", "data"),
            va="center",
            color=GREY,
        )
    _zero(ax)
    ends = [abs(v) for c in found if c.interval for v in c.interval]
    # With very few pairs an interval is so wide that it would hide the margins.
    most = max([0.6, *(1.4 * abs(c.value) for c in found if c.value is not None)])
    reach = min(most, max([0.12, *(1.1 * e for e in ends)]))
    ax.set(xlim=(-reach, reach), ylim=(0.6 - len(found), 0.6))
    ax.set_xlabel("difference in final eval loss, nats (right: the first ends worse); band: margin")
    ax.set_yticks([-i for i in range(len(found))], [c.text for c in found])
    return figure


def _zero(ax: Any) -> None:
    ax.axvline(0, color=FAINT, lw=1)


def _save(figure: Figure, path: Path) -> Path:
    content = io.BytesIO()
    figure.savefig(content, dpi=120, transparent=True)
    content.seek(0)
    # Few colours are used: a palette makes the file a third of the size.
    Image.open(content).quantize(128, Image.Quantize.FASTOCTREE).save(path, optimize=True)
    return path
