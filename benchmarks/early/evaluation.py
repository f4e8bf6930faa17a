"""One rule on many sweeps: replay every draw, and score what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.early.statistics import expected_of_random
from benchmarks.early.sweeps import REGRET_CAP, Sweep, exchange_early, held_out_from_training
from orchestrator.schedulers import Action, Decision, Scheduler, make_scheduler
from orchestrator.schedulers.simulate import Recorded, SimulatedSweep, full_seconds, simulate
from winnow.spec import SchedulerSpec

REPORTS = 50
"""Reports of a median run, besides those at rungs; a driver hears of a trial once a second."""
SWITCH = 0.005
"""Of a median run's time: what a pause costs, and what a resume costs."""
DEVIATIONS = (0, 1, 2)
BUDGETS = (0.10, 0.15, 0.20, 0.30, 0.40, 0.50, 0.60, 0.70, 0.80, 0.90, 1.00)
"""Fractions of the full sweep's compute at which regret is compared."""

PriorFor = Callable[[Sweep], Any]
"""What a rule may know before a sweep: learned from all others. None for nothing."""
Factory = Callable[[Sweep, int], Scheduler]


@dataclass(frozen=True)
class Contender:
    """A rule with its settings. What it is shown instead of the records themselves, if anything:

    `exchanged`: another trial's early norm and loss, the control; `training-loss`: the training
    loss in place of the held-out one.
    """

    label: str
    spec: SchedulerSpec
    show: Literal["records", "exchanged", "training-loss"] = "records"
    share: float = 1.0
    """Of the sweep's trials, how many are started at all (at least two): a cheaper sweep."""
    prior_for: PriorFor | None = None

    @classmethod
    def of(cls, name: Any, *, prior_for: PriorFor | None = None, **fields: Any) -> Contender:
        """Raises pydantic's ValidationError for settings that the rule doesn't read."""
        spec = SchedulerSpec(name=name, **fields)
        return cls(_label(name, fields), spec, prior_for=prior_for)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def early(self) -> float:
        """Fraction of the budget up to which the rule goes by norm and loss."""
        rungs = self.spec.rungs
        return max(self.spec.first_rung, rungs[0]) if rungs else self.spec.first_rung

    def __call__(self, sweep: Sweep, seed: int) -> Scheduler:
        prior = None if self.prior_for is None else self.prior_for(sweep)
        return make_scheduler(self.spec, seed, prior)


@dataclass(frozen=True)
class Row:
    """One draw of one sweep under one rule.

    `compute` is what was spent as a fraction of the whole sweep run to its end, net of everything.
    `regret` and `kept` (by deviations) are those of the trial that would be selected, by the truth
    about its configuration; `kept_run` by the draw's own final values, by which running everything
    keeps the best always. `random_…` are those expected of random trials at equal compute. `lost`:
    all trials within a seed deviation of the best were ended. `gone` counts ended trials by reason.
    """

    contender: str
    scheduler: str
    sweep: str
    family: str
    draw: int
    trials: int
    compute: float
    training: float
    wall: float
    selected: str | None
    regret: float
    kept: tuple[bool, ...]
    kept_run: tuple[bool, ...]
    random_regret: float
    random_kept: tuple[float, ...]
    random_kept_run: tuple[float, ...]
    lost: bool
    gone: Mapping[str, int]
    forecasts: Sequence[tuple[float, float, bool]]
    """(fraction of the budget, announced probability, whether it came true)."""
    risk_left: float | None
    guard: str | None
    audit: Mapping[str, Any] = field(default_factory=dict)
    false_stops: float | None = None
    """Share of the trials given up whose own objective beats the best completed one."""
    test_regret: float | None = None
    random_at: tuple[float, ...] = ()
    """Of `none`: expected regret of random trials at each of `BUDGETS`."""
    scheduler_seconds: float = 0.0


def evaluate(
    factory: Contender | Factory,
    sweeps: Sequence[Sweep],
    draws: int | Sequence[int] = 20,
    workers: int = 4,
    *,
    label: str = "",
    switch: float = SWITCH,
) -> list[Row]:
    """Replay `draws` draws of each sweep (or those with the given seeds) on `workers` slots."""
    seeds = range(draws) if isinstance(draws, int) else draws
    return [
        replay(factory, sweep, seed, workers, label=label, switch=switch)[0]
        for sweep in sweeps
        for seed in seeds
    ]


def replay(
    factory: Contender | Factory,
    sweep: Sweep,
    seed: int,
    workers: int = 4,
    *,
    label: str = "",
    switch: float = SWITCH,
) -> tuple[Row, SimulatedSweep]:
    """Replay one draw. Returns its score and the simulation itself."""
    drawn = sweep.draw(seed)
    shown = drawn
    if isinstance(factory, Contender):
        label = label or factory.label
        if factory.show == "exchanged":
            shown = exchange_early(drawn, factory.early, seed)
        elif factory.show == "training-loss":
            shown = [held_out_from_training(r) for r in drawn]
        shown = shown[: max(2, round(factory.share * len(shown)))]
    scheduler = _Timed(factory(sweep, seed))
    result = simulate(
        scheduler,
        shown,
        workers=workers,
        batch_seconds=sweep.run_seconds / REPORTS,
        pause_seconds=switch * sweep.run_seconds,
        resume_seconds=switch * sweep.run_seconds,
    )
    return _score(label or scheduler.name, sweep, seed, drawn, result, scheduler), result


def _score(
    label: str,
    sweep: Sweep,
    seed: int,
    drawn: Sequence[Recorded],
    result: SimulatedSweep,
    scheduler: _Timed,
) -> Row:
    ids = [r.info.id for r in drawn]
    values = [r.value for r in drawn]
    selected = result.best
    full = math.fsum(full_seconds(r) for r in drawn)
    compute = math.fsum(t.seconds for t in result.trials.values()) / full
    ran = {i: _within_run(sweep, drawn, i) for i in ids}
    none_ran = (False,) * len(DEVIATIONS)
    alive = compute * len(drawn)
    good = [i for i, v in zip(ids, values, strict=True) if v is not None and sweep.within(i, 1)]
    ended = {i: t for i, t in result.trials.items() if t.state == "PRUNED"}
    gone: dict[str, int] = {}
    for trial in ended.values():
        gone[trial.reason] = gone.get(trial.reason, 0) + 1
    regrets = [sweep.regret(i) for i in ids]
    spent = sum(t.train_seconds for t in result.trials.values())
    return Row(
        contender=label,
        scheduler=scheduler.name,
        sweep=sweep.name,
        family=sweep.family,
        draw=seed,
        trials=len(drawn),
        compute=compute,
        training=spent / full,
        wall=result.seconds,
        selected=selected,
        regret=sweep.regret(selected),
        kept=tuple(sweep.within(selected, d) for d in DEVIATIONS),
        kept_run=none_ran if selected is None else ran[selected],
        random_regret=expected_of_random(values, regrets, alive, REGRET_CAP),
        random_kept=tuple(
            expected_of_random(values, [float(sweep.within(i, d)) for i in ids], alive, 0.0)
            for d in DEVIATIONS
        ),
        random_kept_run=tuple(
            expected_of_random(values, [float(ran[i][k]) for i in ids], alive, 0.0)
            for k in range(len(DEVIATIONS))
        ),
        lost=bool(good) and all(i in ended for i in good),
        gone=gone,
        forecasts=_forecasts(sweep, result.decisions),
        risk_left=_last(result.decisions, "risk_taken"),
        guard=_guard(scheduler.inner, result.decisions),
        audit=scheduler.audit(),
        false_stops=_false_stops(result),
        test_regret=_test_regret(sweep, seed, selected),
        random_at=tuple(
            expected_of_random(values, regrets, b * len(drawn), REGRET_CAP) for b in BUDGETS
        )
        if scheduler.name == "none"
        else (),
        scheduler_seconds=scheduler.seconds,
    )


def _within_run(sweep: Sweep, drawn: Sequence[Recorded], trial_id: str) -> tuple[bool, ...]:
    """Whether the trial's own final value is within so many deviations of the draw's lowest."""
    values = {r.info.id: r.value for r in drawn}
    value = values[trial_id]
    if value is None:
        return (False,) * len(DEVIATIONS)
    lowest = min(v for v in values.values() if v is not None)
    return tuple(value <= lowest + d * sweep.deviation + 1e-12 for d in DEVIATIONS)


def _forecasts(sweep: Sweep, decisions: Sequence[Decision]) -> list[tuple[float, float, bool]]:
    found = []
    for d in decisions:
        p = d.evidence.get("probability")
        if isinstance(p, (int, float)) and math.isfinite(p) and d.action is not Action.RESUME:
            found.append((d.samples / sweep.budget, float(p), sweep.within(d.trial_id, 1)))
    return found


def _last(decisions: Sequence[Decision], key: str) -> float | None:
    found = [d.evidence[key] for d in decisions if isinstance(d.evidence.get(key), (int, float))]
    return float(found[-1]) if found else None


def _guard(scheduler: Scheduler, decisions: Sequence[Decision]) -> str | None:
    """`fired` if the rule's guard ever said so; None for a rule without one."""
    said = {str(d.evidence["guard"]) for d in decisions if "guard" in d.evidence}
    own = getattr(scheduler, "guard", None)
    if own is not None:
        said.add(str(own() if callable(own) else own))
    if not said:
        return None
    return "fired" if "fired" in said else "open"


def _false_stops(result: SimulatedSweep) -> float | None:
    """The truth that an audit estimates: of all trials that the rule gave up or would have given up
    but for the audit, how many have a better objective than the best that it let complete."""
    spared = {d.trial_id for d in result.decisions if d.evidence.get("would") is not None}
    given_up = [
        t.recorded.value
        for i, t in result.trials.items()
        if (t.state == "PRUNED" and t.reason != "diverged")
        or (t.state == "COMPLETED" and i in spared)
    ]
    let_go = [
        t.recorded.value
        for i, t in result.trials.items()
        if t.state == "COMPLETED" and i not in spared and t.recorded.value is not None
    ]
    judged = [v for v in given_up if v is not None]
    if not judged or not let_go:
        return None
    return sum(v < min(let_go) for v in judged) / len(judged)


def _test_regret(sweep: Sweep, seed: int, selected: str | None) -> float | None:
    """How much worse the selected run is on the test set than the draw's best there, in units of
    best − median on the test set. None without test values."""
    tests = {c: v for c, v in sweep.test_values(seed).items() if v is not None}
    if len(tests) < 2 or selected is None:
        return None
    ranked = sorted(tests.values())
    scale = max(ranked[len(ranked) // 2] - ranked[0], 1e-12)
    value = tests.get(selected)
    return REGRET_CAP if value is None else min(REGRET_CAP, (value - ranked[0]) / scale)


class _Timed:
    """A scheduler whose own processor time is measured, to tell a replay's cost apart from it."""

    def __init__(self, inner: Scheduler) -> None:
        self.inner = inner
        self.name = inner.name
        self.seconds = 0.0

    def _timed(self, call: Callable[..., Any], *args: Any) -> Any:
        began = time.process_time()
        found = call(*args)
        self.seconds += time.process_time() - began
        return found

    def rungs(self, total_samples: int) -> tuple[int, ...]:
        return self.inner.rungs(total_samples)

    def add(self, trial: Any) -> None:
        self._timed(self.inner.add, trial)

    def observe(self, trial_id: str, steps: Any, evaluations: Any) -> Decision | None:
        return self._timed(self.inner.observe, trial_id, steps, evaluations)

    def completed(self, trial_id: str, outcome: Any) -> list[Decision]:
        return self._timed(self.inner.completed, trial_id, outcome)

    def next(self, waiting: int) -> Decision | None:
        return self._timed(self.inner.next, waiting)

    def finish(self) -> list[Decision]:
        return self._timed(self.inner.finish)

    def pin(self, trial_id: str, pinned: bool) -> None:
        self.inner.pin(trial_id, pinned)

    def replay(self, decision: Decision) -> None:
        self.inner.replay(decision)

    def audit(self) -> Mapping[str, Any]:
        report: Any = getattr(self.inner, "audit", None)
        found: Any = report() if callable(report) else {}
        return found


def _label(name: str, fields: Mapping[str, Any]) -> str:
    if not fields:
        return name
    parts = []
    for key, value in fields.items():
        text = "·".join(f"{v:g}" for v in value) if isinstance(value, tuple) else f"{value}"
        parts.append(f"{key} {text or 'none'}")
    return f"{name}({', '.join(parts)})"
