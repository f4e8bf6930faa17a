"""Every scheduler against what goes wrong in a sweep: nothing of it may reach the driver."""

from __future__ import annotations

import json
import math
import random
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.schedulers import Action, Outcome, make_scheduler
from orchestrator.schedulers.audit import coin
from orchestrator.schedulers.simulate import Recorded, SimulatedSweep, simulate
from winnow.spec import SCHEDULER_FIELDS, SchedulerSpec

RULES = tuple(SCHEDULER_FIELDS)
PAUSING = ("asha", "random", "hyperband", "pareto", "rate-batch-curve", "one-epoch")
"""Rules that pause trials and end them only when nothing is left to run."""
READING = ("dynamics", "paper-sign", "pareto", "wilcoxon")
"""Rules that read steps, so that they keep them."""

quick = settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
every_rule = pytest.mark.parametrize("rule", RULES)


def spec_of(rule: str, *, audit: float = 0.0, **settings: Any) -> SchedulerSpec:
    if rule != "none":
        settings["audit"] = audit
    return SchedulerSpec(name=rule, **settings)  # type: ignore[arg-type]


# --- what goes wrong --------------------------------------------------------------------------


def without_losses(trial: Recorded) -> Recorded:
    return replace(trial, steps=tuple(replace(s, loss=None) for s in trial.steps))


def without_norms(trial: Recorded) -> Recorded:
    return replace(trial, steps=tuple(replace(s, grad_norm=None) for s in trial.steps))


def with_held_out(trial: Recorded, loss: float | None) -> Recorded:
    return replace(trial, evaluations=tuple(replace(e, loss=loss) for e in trial.evaluations))


def without_an_evaluation(trial: Recorded) -> Recorded:
    return replace(trial, evaluations=trial.evaluations[1:])


def without_evaluations(trial: Recorded) -> Recorded:
    return replace(trial, evaluations=())


def failing(trial: Recorded) -> Recorded:
    """It fails at two thirds of its way."""
    steps = trial.steps[: max(1, 2 * len(trial.steps) // 3)]
    evaluations = tuple(e for e in trial.evaluations if e.samples <= steps[-1].samples)
    return replace(trial, steps=steps, evaluations=evaluations, value=None)


def with_params(trial: Recorded, params: dict[str, Any]) -> Recorded:
    return replace(trial, info=replace(trial.info, params=params))


def all_alike(trial: Recorded) -> Recorded:
    return replace(with_held_out(trial, 2.0), value=2.0)


def with_second_set(trial: Recorded) -> Recorded:
    more = tuple(replace(e, dataset="other", loss=None) for e in trial.evaluations[::2])
    return replace(trial, evaluations=(*trial.evaluations, *more))


FAULTS = {
    "none": lambda t: t,
    "losses": without_losses,
    "norms": without_norms,
    "held-out None": lambda t: with_held_out(t, None),
    "held-out NaN": lambda t: with_held_out(t, math.nan),
    "held-out infinite": lambda t: with_held_out(t, math.inf),
    "a rung's evaluation": without_an_evaluation,
    "evaluations": without_evaluations,
    "failure": failing,
    "alike": all_alike,
    "second set": with_second_set,
    "no params": lambda t: with_params(t, {}),
    "odd params": lambda t: with_params(
        t, {"learning_rate": 0.0, "effective_batch_size": "many", "seed": None}
    ),
    "odd numbers": lambda t: with_params(
        t, {"learning_rate": math.inf, "effective_batch_size": True}
    ),
}


@st.composite
def hostile_sweeps(draw: st.DrawFn) -> list[tuple[dict[str, Any], str]]:
    """For each trial, how it is made and what is wrong with it."""
    size = draw(st.integers(1, 12))
    return [
        (
            {
                "total": draw(st.sampled_from([400, 800, 803])),
                "batch": draw(st.sampled_from([8, 64, 300, 1000])),
                "final": draw(st.floats(1.0, 3.0)),
                "crossing": draw(st.floats(-1.0, 1.0)),
            },
            draw(st.sampled_from([*FAULTS, *["none"] * 8])),
        )
        for _ in range(size)
    ]


def build(trial: Any, sweep: Sequence[tuple[dict[str, Any], str]]) -> list[Recorded]:
    return [FAULTS[fault](trial(n, **made)) for n, (made, fault) in enumerate(sweep, start=1)]


def check(result: SimulatedSweep, spec: SchedulerSpec) -> None:
    assert [t.ends for t in result.trials.values()] == [1] * len(result.trials)
    for decision in result.decisions:
        json.dumps(asdict(decision), allow_nan=False)
        assert "nan" not in decision.reason.split()
        assert decision.code in (*RULES, "diverged")
    for trial in result.trials.values():
        if coin(0, trial.recorded.info.number) < spec.audit and trial.reason != "diverged":
            assert trial.state in ("COMPLETED", "FAILED")


# --- the tests --------------------------------------------------------------------------------


@every_rule
@quick
@given(
    sweep=hostile_sweeps(),
    workers=st.integers(1, 4),
    audit=st.sampled_from([0.0, 0.3]),
    mode=st.sampled_from(["act", "shadow"]),
)
def test_hostile_records_never_raise_and_every_trial_ends_once(
    trial, rule, sweep, workers, audit, mode
) -> None:
    spec = spec_of(rule, audit=audit, mode=mode)
    recorded = build(trial, sweep)
    result = simulate(make_scheduler(spec, 0), recorded, workers=workers, act=mode == "act")
    check(result, spec)
    healthy = [r for r in recorded if r.value is not None]
    if healthy and rule in PAUSING:
        assert result.best is not None
    if mode == "shadow":
        assert result.saved == 0


@every_rule
@quick
@given(sweep=hostile_sweeps(), workers=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_restart_among_hostile_records_changes_no_decision(
    trial, restarting, rule, sweep, workers, seed
) -> None:
    spec = spec_of(rule, audit=0.2)
    recorded = build(trial, sweep)
    whole = simulate(make_scheduler(spec, 0), recorded, workers=workers)
    cut = simulate(restarting(spec, random.Random(seed), 0.2), recorded, workers=workers)
    assert cut.decisions == whole.decisions


@every_rule
def test_records_that_go_backwards_or_come_twice_never_raise(trial, rule) -> None:
    scheduler = make_scheduler(spec_of(rule), 0)
    recorded = [trial(n, total=800, batch=8, final=2.0 + 0.1 * n) for n in range(6)]
    for r in recorded:
        scheduler.add(r.info)
        scheduler.add(r.info)
    for r in recorded:
        i, steps, evaluations = r.info.id, r.steps, r.evaluations
        scheduler.observe(i, steps[:30], evaluations[:2])
        scheduler.observe(i, steps[10:30], evaluations[:1])  # again from a checkpoint
        scheduler.observe(i, steps[60:80], [])
        scheduler.observe(i, steps[40:50], evaluations[1:2])  # backwards, never to come again
        scheduler.observe(i, steps[:1], [replace(evaluations[2], samples=7)])
        scheduler.observe(i, [replace(s, samples=5) for s in steps[80:85]], evaluations[2:3])
        scheduler.observe(i, [], [])
    for r in recorded:
        scheduler.completed(r.info.id, Outcome("COMPLETED", "completed", r.value))
        scheduler.observe(r.info.id, r.steps[-1:], r.evaluations[-1:])
        scheduler.completed(r.info.id, Outcome("COMPLETED", "completed", r.value))
    assert scheduler.next(0) is None
    assert scheduler.finish() == []


@every_rule
@quick
@given(sweep=hostile_sweeps())
def test_a_rule_that_says_it_reads_no_steps_decides_the_same_without_them(
    trial, rule, sweep
) -> None:
    recorded = build(trial, sweep)
    keeping = make_scheduler(spec_of(rule), 0)
    keeping.reads_steps = True  # type: ignore[attr-defined]
    with_steps = simulate(keeping, recorded, workers=2)
    assert simulate(make_scheduler(spec_of(rule), 0), recorded, workers=2) == with_steps


@pytest.mark.parametrize("rule", sorted({*RULES} - {*READING}))
def test_steps_take_no_memory_where_the_rule_does_not_read_them(trial, rule) -> None:
    long = trial(1, total=40_000, batch=1)
    scheduler = make_scheduler(spec_of(rule), 0)
    scheduler.add(long.info)
    scheduler.observe(long.info.id, long.steps[:100], [])
    tracemalloc.start()
    try:
        for at in range(100, len(long.steps), 100):
            scheduler.observe(long.info.id, long.steps[at : at + 100], [])
        assert tracemalloc.get_traced_memory()[0] < 100_000  # all of them are 2.2 MB
    finally:
        tracemalloc.stop()


@every_rule
def test_a_single_trial_runs_to_its_end(trial, rule) -> None:
    only = trial(3, total=800)
    result = simulate(make_scheduler(spec_of(rule), 0), [only], workers=2)
    assert result.best == only.info.id
    assert result.saved == 0


@every_rule
@pytest.mark.parametrize("total", [1, 2, 3, 10])
def test_budgets_of_a_few_samples_leave_someone_standing(trial, rule, total) -> None:
    recorded = [trial(n, total=total, batch=1, final=2.0 + n / 10) for n in range(5)]
    result = simulate(make_scheduler(spec_of(rule), 0), recorded, workers=2)
    check(result, spec_of(rule))
    assert result.best is not None


@every_rule
def test_a_sweep_in_which_all_held_out_losses_are_missing_still_completes(sweep, rule) -> None:
    recorded = [with_held_out(r, None) for r in sweep(8)]
    result = simulate(make_scheduler(spec_of(rule), 0), recorded, workers=3)
    check(result, spec_of(rule))
    assert result.best is not None


@every_rule
def test_every_trial_fails_and_the_sweep_ends(sweep, rule) -> None:
    recorded = [failing(r) for r in sweep(8)]
    result = simulate(make_scheduler(spec_of(rule), 0), recorded, workers=3)
    check(result, spec_of(rule))
    assert result.best is None


@pytest.mark.parametrize("rule", PAUSING)
def test_if_those_that_went_on_fail_a_paused_trial_takes_over(sweep, rule) -> None:
    recorded = sweep(8, seed=3)
    first = simulate(make_scheduler(spec_of(rule), 0), recorded, workers=2)
    done = {i for i, t in first.trials.items() if t.state == "COMPLETED"}
    assert 0 < len(done) < 8
    broken = [failing(r) if r.info.id in done else r for r in recorded]
    second = simulate(make_scheduler(spec_of(rule), 0), broken, workers=2)
    assert second.best is not None
    assert second.best not in done


@every_rule
def test_shadow_decides_but_changes_nothing(sweep, rule) -> None:
    recorded = sweep(12, scatter=0.3, batches=(8, 64))
    scheduler = make_scheduler(spec_of(rule, mode="shadow"), 0)
    result = simulate(scheduler, recorded, workers=3, act=False)
    assert result.saved == 0
    assert all(t.state == "COMPLETED" for t in result.trials.values())
    assert scheduler.next(0) is None
    assert all(d.evidence["mode"] == "shadow" for d in result.decisions)
    assert (rule == "none") == (not result.decisions)


@every_rule
def test_audited_trials_run_to_their_end_and_their_evidence_says_what_was_due(sweep, rule) -> None:
    recorded = sweep(30, scatter=0.3)
    result = simulate(make_scheduler(spec_of(rule, audit=0.4), 0), recorded, workers=3)
    audited = {i for i, t in result.trials.items() if coin(0, t.recorded.info.number) < 0.4}
    assert 5 < len(audited) < 25
    assert all(result.trials[i].state == "COMPLETED" for i in audited)
    of_audited = [d for d in result.decisions if d.trial_id in audited]
    assert {d.action for d in of_audited} <= {Action.CONTINUE}
    if rule != "none":
        assert all(d.evidence["audited"] for d in of_audited)
    if rule not in ("none", "dynamics"):
        spared = [d for d in of_audited if "would" in d.evidence]
        assert spared
        assert all(d.reason.endswith("it is audited, so it runs on") for d in spared)


@every_rule
def test_reasons_are_sentences_and_evidence_has_their_numbers(sweep, rule) -> None:
    recorded = sweep(16, seed=5, scatter=0.3, batches=(8, 16))
    result = simulate(make_scheduler(spec_of(rule), 0), recorded, workers=3)
    for decision in result.decisions:
        assert 20 < len(decision.reason) < 300
        assert "None" not in decision.reason
        assert "  " not in decision.reason
        assert decision.rule
        assert decision.action is Action.RESUME or "point" in decision.evidence
        assert decision.samples > 0
    ended = [d for d in result.decisions if d.action in (Action.PAUSE, Action.STOP)]
    for decision in ended:
        info = next(r.info for r in recorded if r.info.id == decision.trial_id)
        left = info.total_samples - decision.samples
        assert decision.evidence["samples_saved"] == left > 0


@every_rule
def test_every_rule_asks_for_its_rungs_inside_the_budget_only(rule) -> None:
    scheduler = make_scheduler(spec_of(rule), 0)
    for total in (1, 2, 7, 800, 10**9):
        rungs = scheduler.rungs(total)
        assert list(rungs) == sorted(set(rungs))
        assert all(0 < r < total for r in rungs)


@every_rule
def test_a_sweep_without_rungs_runs_to_its_end(sweep, rule) -> None:
    spec = spec_of(rule, rungs=())
    result = simulate(make_scheduler(spec, 0), sweep(6), workers=2)
    check(result, spec)
    assert result.best is not None


@pytest.mark.parametrize(
    ("rule", "least", "most"),
    [
        ("random", -0.1, 0.1),
        ("pareto", -0.1, 0.1),
        ("hyperband", -0.4, -0.05),  # its later brackets halve less often
        ("rate-batch-curve", -0.5, 0.1),  # a surface that moves calls more trials back
    ],
)
def test_what_the_halving_rules_save_beside_asha(trial, rule, least, most) -> None:
    rng = random.Random(1)
    recorded = [
        trial(n, final=rng.uniform(1, 3), rate=10 ** rng.uniform(-6, -3)) for n in range(24)
    ]
    mine, asha = (
        simulate(make_scheduler(spec_of(name), 0), recorded, workers=2).saved
        for name in (rule, "asha")
    )
    assert least < mine - asha < most
