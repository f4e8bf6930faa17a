"""Tables and numbers, as the command line shows them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from winnow.types import Decision, Scores, Spending, Sweep, SweepState, Trial, TrialState

STATE_STYLE = {
    "RUNNING": "cyan",
    "COMPLETED": "green",
    "PRUNED": "yellow",
    "PAUSED": "magenta",
    "FAILED": "red",
    "CANCELED": "red",
    "PENDING": "dim",
    "QUEUED": "dim",
}
SHORT = {
    "learning_rate": "rate",
    "effective_batch_size": "batch",
    "warmup_steps": "warmup",
    "warmup_ratio": "warmup",
    "weight_decay": "decay",
    "max_grad_norm": "clip",
}


def sweeps_table(sweeps: Iterable[Sweep]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("id", "name", "state", "trials", "best", "saved", "created"):
        table.add_column(name, justify="right" if name in ("trials", "best", "saved") else "left")
    for sweep in sweeps:
        summary = sweep.summary
        _add(
            table,
            sweep.id,
            sweep.name,
            state_text(sweep.state),
            f"{summary.trials}/{summary.planned}",
            number(summary.best_value),
            percent(saved_part(sweep)),
            ago(sweep.created_at),
        )
    return table


def trials_table(
    trials: Iterable[Trial],
    names: list[str] | None = None,
    metric: str | None = None,
    further: Sequence[str] = (),
    front: Collection[str] = (),
) -> Table:
    """Trials in the order given. `names`: the parameters to show; all that occur, if None.

    `metric`: what they are judged by; it gets a column if held-out loss and exact match, which
    always have one, are not it. So do the `further` objectives; trials on the `front` get a mark.
    """
    trials = list(trials)
    judged = metric not in (None, "eval/loss", "eval/exact_match")
    if names is None:
        names = list(dict.fromkeys(name for t in trials for name in t.params))
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    table.add_column("trial", justify="right")
    table.add_column("state")
    for name in names:
        table.add_column(SHORT.get(name, name), justify="right")
    for name in ("step", "loss", "norm", "held-out", "exact"):
        table.add_column(name, justify="right")
    if judged:
        table.add_column(metric_name(str(metric)), justify="right")
    for name in further:
        table.add_column(metric_name(name), justify="right")
    if front:
        table.add_column("front")
    marked = any(marks(t) for t in trials)
    if marked:
        table.add_column("marks")
    table.add_column("why", overflow="ellipsis", no_wrap=True)
    for trial in trials:
        _add(
            table,
            str(trial.number),
            state_text(trial.state),
            *(parameter(trial.params.get(name)) for name in names),
            f"{trial.step}/{trial.total_steps}" if trial.total_steps else "",
            number(trial.loss),
            number(trial.grad_norm),
            number(trial.eval_loss),
            percent(trial.exact_match),
            *([metric_value(trial.value, str(metric))] if judged else []),
            *(metric_value(trial.also.get(name), name) for name in further),
            *([Text("●" if trial.id in front else "", "green")] if front else []),
            *([marks(trial)] if marked else []),
            trial.why_pending or trial.reason or "",
        )
    return table


def marks(trial: Trial) -> str:
    """What sets a trial apart: pinned, a clone, a result that was taken over."""
    found = [
        "pinned" if trial.pinned else "",
        f"clone of {trial.parent.rpartition('-')[2]}" if trial.parent else "",
        f"reused {trial.reused_from}" if trial.reused_from else "",
    ]
    return ", ".join(one for one in found if one)


def share_lines(sweep: Sweep) -> RenderableType | None:
    """What a sweep gets of the cluster, why not more, and what it has used of its budget.

    None if there is nothing to say: it has ended, and had no budget.
    """
    grid = Table.grid(padding=(0, 2))
    limited = [spent for spent in sweep.budget if spent.limit is not None]
    if not sweep.state.ended:
        share = [
            f"project {sweep.project}",
            f"priority {sweep.priority}" if sweep.priority else "",
            f"weight {number(sweep.weight)}" if sweep.weight != 1 else "",
            "" if sweep.slots is None else f"{sweep.slots} slots",
            ""
            if sweep.max_concurrent is None
            else f"at most {sweep.max_concurrent} trials at once",
        ]
        grid.add_row(Text("Share", "bold"), Text(", ".join(part for part in share if part)))
        if sweep.why_pending:
            label = "Why no more" if sweep.slots else "Waits"
            grid.add_row(Text(label, "bold"), Text(sweep.why_pending))
    for i, spent in enumerate(limited):
        assert spent.limit is not None
        used = duration(spent.used * 3600) if spent.what == "hours" else number(spent.used)
        line = f"{used} of {_spent(spent, spent.limit)} used"
        over = spent.projected is not None and spent.projected > spent.limit
        if spent.projected is not None and not sweep.state.ended:
            line += f", about {_spent(spent, spent.projected)} at its end"
            line += ": the budget will end it" if over else ""
        grid.add_row(
            Text("Budget" if i == 0 else "", "bold"),
            Text(line, "yellow" if over and not sweep.state.ended else ""),
        )
    return grid if grid.row_count else None


def _spent(spent: Spending, value: float) -> str:
    """4 trials, 2 h 5 min, 12.5 GPU-hours, 30 in money."""
    if spent.what == "hours":
        return duration(value * 3600)
    unit = {"trials": " trials", "gpu_hours": " GPU-hours"}.get(spent.what, " in money")
    return number(value) + unit


def facts_line(sweep: Sweep) -> str:
    """What the check found of model and data, in one line; empty for sweeps of before it told."""
    facts = sweep.facts
    left_out = sum(facts.get("too_long", {}).values())
    parts = [
        f"{facts['parameters']:,} parameters" if facts.get("parameters") else "",
        f"{facts['train_samples']:,} training samples" if facts.get("train_samples") else "",
        f"{left_out:,} left out as too long" if left_out else "",
    ]
    return ", ".join(part for part in parts if part)


def decisions_table(decisions: Iterable[Decision]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("trial", "samples", "decision", "reason"):
        table.add_column(name, justify="right" if name in ("trial", "samples") else "left")
    for decision in decisions:
        action = decision.action if decision.acted else f"({decision.action})"
        _add(table, str(decision.trial_number), f"{decision.samples:,}", action, decision.reason)
    return table


def _add(table: Table, *cells: str | Text) -> None:
    """A row whose text is shown as it is: names and reasons may hold brackets."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def scores(value: Scores | None) -> str:
    if value is None:
        return "not measured"
    parts = []
    if value.loss is not None:
        parts.append(f"loss {number(value.loss)}")
    if value.exact_match is not None:
        parts.append(f"exact match {percent(value.exact_match)}")
    return ", ".join(parts) or "not measured"


def metric_of(sweep: Sweep) -> str:
    """What a sweep's trials are judged by."""
    return str((sweep.spec.get("objective") or {}).get("metric") or "eval/loss")


def further_of(sweep: Sweep) -> list[str]:
    """The metrics that matter beside that."""
    also = (sweep.spec.get("objective") or {}).get("also") or []
    return [str(further["metric"]) for further in also]


def metric_name(metric: str) -> str:
    """As a reader calls it: held-out loss, mmlu acc, judge score, …"""
    kind, _, rest = metric.partition("/")
    words = (
        rest.replace("_", " ").replace("/", " ") if kind != "lm_eval" else rest.replace("/", " ")
    )
    return {
        "eval": f"held-out {words}",
        "general": f"general {words}",
        "judge": f"judge {words}",
    }.get(kind, words)


def metric_value(value: float | None, metric: str) -> str:
    """Exact match and accuracies as per cent, the rest as plain numbers."""
    name = metric.rsplit("/", 1)[-1].partition(",")[0]
    share = name in ("exact_match", "acc", "acc_norm") and value is not None and 0 <= value <= 1
    return percent(value) if share else number(value)


def saved_part(sweep: Sweep) -> float | None:
    """Part of the samples of its trials that an ended sweep did not train; None before its end."""
    full = sweep.summary.samples_full
    if not sweep.state.ended or not full:
        return None
    return 1 - sweep.summary.samples_trained / full


def state_text(state: TrialState | SweepState) -> Text:
    return Text(state.value.lower(), style=STATE_STYLE.get(state.value, ""))


def number(value: float | None) -> str:
    """Four digits: 2.345, 0.01234, 1.2e+06."""
    if value is None:
        return ""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    return f"{value:.1e}"


def parameter(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2e}" if value and abs(value) < 1e-2 else f"{value:.4g}"
    return "" if value is None else str(value)


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """42 s, 3 min 20 s, 2 h 5 min."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    return f"{total // 3600} h {total % 3600 // 60} min"


def ago(when: datetime) -> str:
    seconds = (datetime.now(UTC) - when).total_seconds()
    return f"{duration(max(0, seconds))} ago"
