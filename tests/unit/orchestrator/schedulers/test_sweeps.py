"""What must hold for every rule in every sweep, and across restarts of the driver."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.schedulers import (
    Action,
    Scheduler,
    make_scheduler,
)
from orchestrator.schedulers.audit import coin
from orchestrator.schedulers.simulate import Recorded, simulate
from winnow.spec import SCHEDULER_FIELDS, SchedulerSpec

RULES = tuple(SCHEDULER_FIELDS)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "eta": st.integers(2, 4),
    "audit": st.sampled_from([0.0, 0.3]),
    "first_rung": st.sampled_from([0.05, 0.1, 0.2]),
    "keep": st.sampled_from([0.25, 0.5]),
    "p_value": st.sampled_from([0.05, 0.3]),
}


@st.composite
def specs(draw: st.DrawFn, rules: Sequence[str] = RULES) -> SchedulerSpec:
    """Any rule, with values for the fields that it reads."""
    fields = {str(name): read for name, read in SCHEDULER_FIELDS.items()}
    name = draw(st.sampled_from(rules))
    read = {field: draw(VALUES[field]) for field in fields[name] if field in VALUES}
    mode = draw(st.sampled_from(["act", "act", "shadow"]))
    return SchedulerSpec.model_validate({"name": name, "mode": mode, **read})


quick = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def broken(recorded: Recorded, at: int) -> Recorded:
    """The same trial, with a loss that isn't finite at one step."""
    steps = list(recorded.steps)
    steps[at] = replace(steps[at], loss=None)
    return replace(recorded, steps=tuple(steps))


def play(spec: SchedulerSpec, scheduler: Scheduler, recorded: list[Recorded], workers: int):
    return simulate(scheduler, recorded, workers=workers, act=spec.mode == "act")


@quick
@given(spec=specs(), trials=st.integers(1, 14), workers=st.integers(1, 5), seed=st.integers(0, 99))
def test_every_trial_ends_once_and_one_completes(sweep, spec, trials, workers, seed) -> None:
    recorded = sweep(trials, seed=seed, scatter=0.5, batches=(8, 64, 300), total=800)
    result = play(spec, make_scheduler(spec, 0), recorded, workers)
    assert [t.ends for t in result.trials.values()] == [1] * trials
    assert result.best is not None
    assert result.samples <= sum(r.steps[-1].samples for r in recorded)
    if spec.mode == "shadow" or spec.name == "none":
        assert result.saved == 0
    for trial in result.trials.values():
        if coin(0, trial.recorded.info.number) < spec.audit:
            assert trial.state == "COMPLETED"
    for decision in result.decisions:
        if decision.action is Action.STOP:
            assert decision.code in (*RULES, "diverged")
        json.dumps(asdict(decision), allow_nan=False)


@quick
@given(
    spec=specs(),
    trials=st.integers(2, 14),
    workers=st.integers(1, 4),
    seed=st.integers(0, 99),
    rate=st.sampled_from([0.05, 0.3]),
)
def test_a_restarted_driver_decides_as_if_nothing_had_happened(
    sweep, restarting, spec, trials, workers, seed, rate
) -> None:
    recorded = sweep(trials, seed=seed, scatter=0.5, batches=(8, 64), total=800)
    if spec.name == "dynamics":
        recorded[1] = broken(recorded[1], at=min(8, len(recorded[1].steps) - 2))
    whole = play(spec, make_scheduler(spec, 0), recorded, workers)
    restarted = restarting(spec, random.Random(seed), rate)
    cut = play(spec, restarted, recorded, workers)
    assert cut.decisions == whole.decisions
    assert {i: (t.state, t.at) for i, t in cut.trials.items()} == {
        i: (t.state, t.at) for i, t in whole.trials.items()
    }


def test_a_restart_keeps_what_the_first_rung_has_learned(telling_sweep, restarting) -> None:
    spec = SchedulerSpec()
    recorded = telling_sweep(32, 1)
    whole = simulate(make_scheduler(spec, 0), recorded, workers=2, batch_seconds=0.2)
    restarted = restarting(spec, random.Random(0), rate=0.05)
    cut = simulate(restarted, recorded, workers=2, batch_seconds=0.2)
    assert restarted.lives > 5
    assert any(d.rule == "first-rung" for d in whole.decisions)
    assert {Action.PAUSE, Action.RESUME, Action.STOP} <= {d.action for d in whole.decisions}
    assert cut.decisions == whole.decisions


@pytest.mark.parametrize("rule", RULES)
def test_the_same_records_give_the_same_decisions(sweep, rule) -> None:
    spec = SchedulerSpec(name=rule, audit=0.0 if rule == "none" else 0.2)
    recorded = sweep(12, seed=7, scatter=0.5)
    one, two = (play(spec, make_scheduler(spec, 0), recorded, 3) for _ in range(2))
    assert one.decisions == two.decisions


def test_a_decision_that_was_not_stored_before_the_crash_is_made_again(sweep) -> None:
    (recorded,) = sweep(1)
    spec = SchedulerSpec(name="asha")
    old, new = make_scheduler(spec, 0), make_scheduler(spec, 0)
    for scheduler in (old, new):
        scheduler.add(recorded.info)
    lost = old.observe("t0", recorded.steps[:20], recorded.evaluations[:1])
    assert lost is not None
    assert new.observe("t0", recorded.steps[:20], recorded.evaluations[:1]) == lost


@pytest.mark.parametrize("rule", ["asha", "dynamics"])
def test_keeps_the_best_of_sixteen_when_early_ranks_are_final(sweep, rule) -> None:
    saved = []
    for seed in range(5):
        recorded = sweep(16, seed=seed)
        result = play(spec := SchedulerSpec(name=rule), make_scheduler(spec, 0), recorded, 2)
        assert result.best == min(recorded, key=lambda r: r.value or 0).info.id
        saved.append(result.saved)
    assert sum(saved) / len(saved) >= 0.4
