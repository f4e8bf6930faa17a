"""What a sweep found, told at its end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from winnow.cli.account import account
from winnow.cli.tables import (
    duration,
    further_of,
    metric_name,
    metric_of,
    metric_value,
    parameter,
    percent,
    saved_part,
    scores,
)
from winnow.types import Scores, Sweep, SweepState, SweepSummary, Trial, TrialState

CODES = {
    "diverged": "diverged",
    "dynamics": "fell behind on held-out loss or training dynamics",
    "asha": "fell behind on held-out loss",
    "hyperband": "fell behind on held-out loss in their bracket",
    "median": "fell behind the median of held-out loss",
    "wilcoxon": "were worse than the best on held-out loss",
    "pareto": "fell behind in every objective",
    "one-epoch": "were not among the best of the first part",
    "rate-batch-curve": "fell behind the curve of rate and batch size",
    "random": "were left out at random",
    "paper-sign": "left out by the paper's rule",
    "oom": "ran out of memory",
    "user": "stopped by a user",
    "infrastructure": "lost to the machinery",
    "data": "could not use the data",
    "error": "ended in an error",
}


def report(sweep: Sweep, trials: list[Trial], dashboard: str | None = None) -> RenderableType:
    """Best configuration, before and after, what was stopped and why, what that saved."""
    competing = [t for t in trials if t.kind == "search"]
    best = next((t for t in competing if t.id == sweep.summary.best_trial), None)
    parts: list[RenderableType] = [Text()]
    if sweep.state is not SweepState.COMPLETED:
        parts.append(
            Text(
                f"The sweep ended as {sweep.state.value.lower()}"
                + (f": {sweep.message}" if sweep.message else "."),
                style="bold red",
            )
        )
    parts.append(_best(sweep, best) if best else Text("No trial finished.", style="bold"))
    front = [t for i in sweep.summary.front for t in competing if t.id == i]
    if front:
        parts += [Text(), _front(sweep, front)]
    parts += [Text(), _stopped(competing), Text(), _cost(sweep, competing)]
    if (said := account(sweep.scheduler_summary)) is not None:
        parts += [Text(), said]
    if dashboard:
        parts.append(_whole("Dashboard", dashboard))
    return Group(*parts)


def _best(sweep: Sweep, best: Trial) -> RenderableType:
    params = ", ".join(f"{name} {parameter(value)}" for name, value in best.params.items())
    grid = Table.grid(padding=(0, 2))
    grid.add_row(Text("Best trial", style="bold green"), Text(f"{best.number}: {params}"))
    metric = metric_of(sweep)
    if metric not in ("eval/loss", "eval/exact_match"):
        chosen = f"{metric_name(metric)} {metric_value(best.value, metric)}"
        grid.add_row("Chosen by", Text(chosen))
    for split, name in (("eval", "Held out"), ("test", "Test"), ("general", "General text")):
        before, after = sweep.summary.baseline.get(split), sweep.summary.winner.get(split)
        if before is not None or after is not None:
            grid.add_row(name, Text(f"{scores(before)}  →  {scores(after)}"))
    for row in _benchmarks(sweep.summary):
        grid.add_row(*row)
    if not best.checkpoint:
        return grid
    return Group(
        grid,
        _whole("Checkpoint", best.checkpoint),
        Text("             transformers.AutoModelForCausalLM.from_pretrained(…) opens it", "dim"),
    )


def _front(sweep: Sweep, front: list[Trial]) -> RenderableType:
    """The trials that no other beats in all objectives, and what each reached."""
    names = [metric_of(sweep), *further_of(sweep)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("trial", *map(metric_name, names)):
        table.add_column(name, justify="right")
    for trial in front:
        figures = (trial.value, *(trial.also.get(name) for name in names[1:]))
        shown = (metric_value(f, n) for f, n in zip(figures, names, strict=True))
        table.add_row(str(trial.number), *shown)
    several = len(front) > 1
    title = (
        f"{len(front)} trials that no other beats in everything"
        if several
        else ("One trial beats all others in everything")
    )
    return Group(Text(title, style="bold"), table)


def _benchmarks(summary: SweepSummary) -> Iterator[tuple[str, Text]]:
    """Every figure of benchmarks and judge, before and after."""
    for split in ("lm_eval", "judge"):
        before = summary.baseline.get(split, Scores()).scores
        after = summary.winner.get(split, Scores()).scores
        for name in sorted(before | after):
            if "stderr" in name:
                continue
            figures = (
                metric_value(found.get(name), name) or "not measured" for found in (before, after)
            )
            yield name.removesuffix(",none"), Text("  →  ".join(figures))


def _whole(label: str, value: str) -> Text:
    """A line that is never broken or cut, whatever the terminal's width: it is to be copied.

    Print it with `crop=False`.
    """
    return Text(f"{label:<11}  {value}", overflow="ignore", no_wrap=True)


def _stopped(trials: list[Trial]) -> RenderableType:
    groups: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        if trial.state in (TrialState.PRUNED, TrialState.FAILED, TrialState.CANCELED):
            groups[trial.reason or "unknown"].append(trial)
    if not groups:
        return Text("No trial was stopped.")
    total = sum(map(len, groups.values()))
    lines: list[RenderableType] = [Text(f"{total} of {len(trials)} trials were stopped", "bold")]
    for code, members in sorted(groups.items(), key=lambda item: -len(item[1])):
        numbers = ", ".join(str(t.number) for t in members)
        lines.append(Text(f"  {len(members):>3}  {CODES.get(code, code)} (trial {numbers})"))
        example = next((t for t in members if t.message), None)
        if example is not None:
            lines.append(Text(f"       e.g. trial {example.number}: {example.message}", "dim"))
    return Group(*lines)


def _cost(sweep: Sweep, trials: list[Trial]) -> RenderableType:
    summary = sweep.summary
    saved = saved_part(sweep)
    lines: list[RenderableType] = []
    if saved is not None:
        lines.append(
            Text(
                f"Compute saved    {percent(saved)}: {summary.samples_trained:,} of "
                f"{summary.samples_full:,} training samples, against running all {len(trials)} "
                "trials to their end"
            )
        )
    if sweep.started_at and sweep.ended_at:
        took = (sweep.ended_at - sweep.started_at).total_seconds()
        lines.append(
            Text(f"Time             {duration(took)}; workers {duration(summary.seconds)} in all")
        )
    return Group(*lines)
