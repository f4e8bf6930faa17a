from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from orchestrator.schedulers import Action, make_scheduler
from orchestrator.schedulers.base import TrialInfo
from orchestrator.schedulers.gates import Divergence, DivergenceGate
from orchestrator.schedulers.simulate import Recorded
from trainer.metrics import Evaluation, StepRecord
from winnow.spec import SchedulerSpec


def read(recorded: Recorded, batch: int) -> tuple[Divergence | None, int]:
    """What the gate finds in a trial, and at which step."""
    gate = DivergenceGate.of(recorded.info.total_samples, batch)
    for record in recorded.steps:
        if (found := gate.read(record)) is not None:
            return found, record.step
    return None, len(recorded.steps)


def blown_up(recorded: Recorded, after: int, rise: float) -> Recorded:
    """The same trial, but its loss climbs by `rise` nats in the four steps after `after`."""
    rng = random.Random(after)

    def worse(record: StepRecord) -> StepRecord:
        share = min(1.0, max(0, record.step - after) / 4)
        assert record.loss is not None
        assert record.grad_norm is not None
        lifted = record.loss + rise * share * math.exp(rng.gauss(0, 0.15))
        return replace(record, loss=lifted, grad_norm=record.grad_norm * (1 + 4 * share))

    return replace(recorded, steps=tuple(worse(r) for r in recorded.steps))


def test_never_fires_on_healthy_curves_however_small_their_batch(trial) -> None:
    for seed in range(200):
        rng = random.Random(seed)
        batch = rng.choice([4, 4, 4, 16, 64, 240, 512])
        final = rng.uniform(0.2, 3)
        healthy = trial(
            0,
            final=final,
            start=final + rng.uniform(0, 2),
            batch=batch,
            total=rng.choice([400, 1600, 8000]),
            noise=rng.choice([0.3, 0.6, 1.0]),
            warmup=rng.choice([0, 0, 25, 100]),
            norm=math.exp(rng.gauss(0, 1)),
            seed=seed,
        )
        found, step = read(healthy, batch)
        assert found is None, f"curve {seed}: {found} at step {step}"


@pytest.mark.parametrize("batch", [4, 16, 64])
@pytest.mark.parametrize("after", [5, 20])
def test_catches_a_loss_that_blows_up_within_forty_steps(trial, batch: int, after: int) -> None:
    caught = 0
    for seed in range(20):
        healthy = trial(0, final=2.0, start=2.5, batch=batch, noise=0.3, seed=seed)
        found, step = read(blown_up(healthy, after, rise=4.0), batch)
        if found is not None and step - after <= 40:
            assert found.rule == "loss-blowup"
            caught += 1
    assert caught >= 19


def test_a_rate_that_destroys_the_model_at_its_second_step_is_caught(trial) -> None:
    healthy = trial(0, final=2.0, start=2.5, batch=16, noise=0.2, seed=1)
    found, step = read(blown_up(healthy, 1, rise=6.0), 16)
    assert found is not None
    assert found.rule == "loss-blowup"
    assert step <= 30


def test_a_start_that_is_all_scatter_hides_no_blow_up(trial) -> None:
    healthy = trial(0, final=2.0, start=2.5, batch=16, noise=0.2, seed=1)
    wild = random.Random(0)
    steps = [
        s if s.step <= 2 else replace(s, loss=wild.choice([9.0, 12.0, 30.0, 60.0]))
        for s in healthy.steps
    ]
    found, step = read(replace(healthy, steps=tuple(steps)), 16)
    assert found is not None
    assert step <= 32


@pytest.mark.parametrize("field", ["loss", "grad_norm"])
def test_a_number_that_is_not_finite_ends_the_trial_at_once(trial, field: str) -> None:
    healthy = trial(0)
    steps = list(healthy.steps)
    steps[6] = replace(steps[6], **{field: None})
    found, step = read(replace(healthy, steps=tuple(steps)), 16)
    assert found is not None
    assert (found.rule, step) == ("non-finite", 7)
    assert "step 7" in found.reason


def spiky(recorded: Recorded, *, rising: bool) -> Recorded:
    def change(record: StepRecord) -> StepRecord:
        assert record.loss is not None
        assert record.grad_norm is not None
        late = record.step > 40
        norm = record.grad_norm * (40 if late and record.step % 4 == 0 else 1)
        # Below the threshold of the loss rule: only the spikes give it away.
        loss = 2.9 if late and rising else record.loss
        return replace(record, grad_norm=norm, loss=loss)

    return replace(recorded, steps=tuple(change(r) for r in recorded.steps))


def test_repeated_norm_spikes_end_a_trial_only_while_its_loss_rises(trial) -> None:
    for seed in (1, 2, 3, 4):
        calm = trial(0, final=2.0, start=2.6, batch=8, noise=0.4, seed=seed)
        found, step = read(spiky(calm, rising=True), 8)
        assert found is not None
        assert found.rule == "norm-spikes"
        assert step <= 40 + 32
        assert read(spiky(calm, rising=False), 8)[0] is None


def test_dynamics_stops_a_diverging_trial_and_shows_its_evidence(trial) -> None:
    scheduler = make_scheduler(SchedulerSpec(), 0)
    bad = blown_up(trial(0, final=2.0, start=2.5, seed=2), 20, rise=4.0)
    scheduler.add(bad.info)
    decisions = [scheduler.observe("t0", [s], []) for s in bad.steps]
    stop = next(d for d in decisions if d is not None and d.action is Action.STOP)
    assert (stop.code, stop.rule) == ("diverged", "loss-blowup")
    assert stop.samples < 0.6 * bad.info.total_samples
    assert stop.evidence["samples_saved"] == bad.info.total_samples - stop.samples
    assert stop.evidence["window_loss"] > stop.evidence["threshold"] > stop.evidence["start_loss"]
    assert set(stop.evidence["norm_percentiles"]) == {"50", "90", "99"}


def test_findings_do_not_depend_on_how_steps_were_cut_into_reports(trial) -> None:
    bad = blown_up(trial(0, final=2.0, start=2.5, seed=2), 20, rise=4.0)
    one = make_scheduler(SchedulerSpec(), 0)
    one.add(bad.info)
    whole = one.observe("t0", bad.steps, [])
    each = make_scheduler(SchedulerSpec(), 0)
    each.add(bad.info)
    single = next(
        d
        for s in bad.steps
        if (d := each.observe("t0", [s], [])) is not None and d.action is Action.STOP
    )
    assert whole is not None
    assert (whole.rule, whole.reason) == (single.rule, single.reason)


def test_steps_done_again_after_a_crash_replace_the_first_ones(trial) -> None:
    """An attempt that blew up was killed; the next one, from an earlier checkpoint, is healthy."""
    healthy = trial(0, final=2.0, start=2.5, seed=2)
    bad = blown_up(healthy, 20, rise=4.0)
    scheduler = make_scheduler(SchedulerSpec(), 0)
    scheduler.add(healthy.info)
    scheduler.observe("t0", bad.steps[:26], [])
    rest = [scheduler.observe("t0", [s], []) for s in healthy.steps[15:]]
    rest.append(scheduler.observe("t0", bad.steps[10:26], []))
    rest += [scheduler.observe("t0", [s], []) for s in healthy.steps[15:40]]
    assert all(d is None or d.action is not Action.STOP for d in rest)


def step(number: int, loss: float, batch: int = 240) -> StepRecord:
    return StepRecord(number, number * batch, number, loss, 1.0, 0.1, 0.1, 1, batch)


def held_out(samples: int, loss: float) -> Evaluation:
    return Evaluation(samples // 240, samples, "eval", "held-out", loss, 1000)


@pytest.mark.parametrize(("loss", "rule"), [(16.3, "held-out-blowup"), (7.9, "rung")])
def test_two_steps_that_ruin_the_model_are_caught_at_the_rung(loss: float, rule: str) -> None:
    scheduler = make_scheduler(SchedulerSpec(), 0)
    for number in (1, 2):
        scheduler.add(TrialInfo(f"t{number}", number, {"learning_rate": 0.1}, 3840))
    scheduler.observe("t1", [step(1, 4.8), step(2, 4.6)], [held_out(480, 4.5)])
    decision = scheduler.observe("t2", [step(1, 4.8), step(2, 17.9)], [held_out(480, loss)])
    assert decision is not None
    assert decision.rule == rule
    assert (decision.action, decision.code) == (
        (Action.STOP, "diverged") if rule == "held-out-blowup" else (Action.PAUSE, "asha")
    )


def test_an_untrained_model_is_not_taken_for_a_diverged_one() -> None:
    """One batch of four may begin far below the others; the start is that of all trials."""
    scheduler = make_scheduler(SchedulerSpec(), 0)
    for number in (1, 2):
        scheduler.add(TrialInfo(f"t{number}", number, {"learning_rate": 1e-7}, 3840))
    scheduler.observe("t1", [step(1, 4.8), step(2, 4.8)], [held_out(480, 4.8)])
    few = [step(n, 2.0 + n % 3, batch=4) for n in range(1, 121)]
    decision = scheduler.observe("t2", few, [held_out(480, 4.8)])
    assert decision is not None
    assert decision.rule == "rung"
