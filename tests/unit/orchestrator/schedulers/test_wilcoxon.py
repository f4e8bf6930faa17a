from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from orchestrator.schedulers import Action, Decision, Outcome, Scheduler, TrialInfo, make_scheduler
from orchestrator.schedulers.simulate import simulate
from orchestrator.schedulers.wilcoxon import LEAST_PAIRS, MOST_PAIRS, pairs, signed_rank
from trainer.metrics import Evaluation, StepRecord
from winnow.spec import SchedulerSpec

TOTAL = 1600  # rungs at 200, 400 and 800 samples
Loss = Callable[[int], float | None]


def start(
    trials: int = 6, params: dict[int, dict[str, Any]] | None = None, **settings
) -> Scheduler:
    scheduler = make_scheduler(SchedulerSpec(name="wilcoxon", **settings), 0)
    for number in range(trials):
        own = (params or {}).get(number, {})
        scheduler.add(TrialInfo(f"t{number}", number, own, TOTAL))
    return scheduler


def steps_of(batch: int, upto: int, loss: Loss) -> list[StepRecord]:
    """Steps whose loss is the mean over their samples."""
    records: list[StepRecord] = []
    for step, end in enumerate(range(batch, upto + 1, batch), start=1):
        values = [loss(s) for s in range(end - batch, end)]
        known = [v for v in values if v is not None]
        mean = sum(known) / batch if len(known) == batch else None
        records.append(StepRecord(step, end, 40 * end, mean, 1.0, 1e-4, 0.1, 1, batch))
    return records


def reach(
    scheduler: Scheduler,
    number: int,
    held_out: float | None,
    loss: Loss,
    *,
    batch: int = 10,
    samples: int = 200,
) -> Decision:
    steps = steps_of(batch, samples, loss)
    evaluation = Evaluation(samples // batch, samples, "eval", "main", held_out, 1000)
    decision = scheduler.observe(f"t{number}", steps, [evaluation])
    assert decision is not None
    return decision


def noisy(level: float, seed: int = 0) -> Loss:
    """Losses of samples: the noise is the samples' own, the same for every trial."""
    rng = random.Random(seed)
    difficulty = [rng.gauss(0, 1.0) for _ in range(TOTAL)]
    return lambda s: level + difficulty[s]


def test_a_small_but_steady_gap_on_the_same_samples_stops_a_trial() -> None:
    scheduler = start()
    assert reach(scheduler, 0, 2.0, noisy(2.0)).action is Action.CONTINUE
    samples = noisy(2.0)
    decision = reach(scheduler, 1, 2.1, lambda s: (samples(s) or 0.0) + 0.04 + s / 10_000)
    assert (decision.action, decision.code, decision.rule) == (
        Action.STOP,
        "wilcoxon",
        "wilcoxon",
    )
    assert decision.reason == (
        "held-out loss 2.1 at 200 samples is behind trial 0, and its training loss was higher in "
        "20 of 20 stretches of equal samples: p = 9.5e-07, below 0.1"
    )
    assert decision.evidence["pairs"] == 20
    assert decision.evidence["mean_difference"] == pytest.approx(0.05, abs=1e-4)
    assert scheduler.finish() == []


def test_a_gap_within_the_noise_of_different_samples_would_not() -> None:
    scheduler = start()
    reach(scheduler, 0, 2.0, noisy(2.0, seed=1))
    decision = reach(scheduler, 1, 2.1, noisy(2.05, seed=2))
    assert decision.action is Action.CONTINUE
    assert "not below 0.1" in decision.reason


def test_p_value_is_the_level() -> None:
    rng = random.Random(3)
    jitter = [rng.gauss(0.05, 0.2) for _ in range(TOTAL)]
    for level, action in ((0.5, Action.STOP), (0.001, Action.CONTINUE)):
        scheduler = start(p_value=level)
        reach(scheduler, 0, 2.0, lambda s: 2.0)
        decision = reach(scheduler, 1, 2.1, lambda s: 2.0 + jitter[s])
        assert 0.001 < decision.evidence["p"] < 0.5
        assert decision.action is action


def test_never_stops_what_is_best_on_held_out_loss() -> None:
    scheduler = start()
    reach(scheduler, 0, 2.0, noisy(2.0))
    for held_out in (1.9, 2.0):
        decision = reach(scheduler, 1, held_out, noisy(3.0))
        assert decision.action is Action.CONTINUE
        assert decision.reason.endswith("is the best here so far")
        scheduler = start()
        reach(scheduler, 0, 2.0, noisy(2.0))


def test_the_opponent_is_the_best_at_the_same_rung() -> None:
    scheduler = start()
    reach(scheduler, 0, 2.0, noisy(2.0))
    reach(scheduler, 1, 1.5, noisy(1.5))
    reach(scheduler, 0, 1.0, noisy(1.0), samples=400)  # further on, which says nothing here
    decision = reach(scheduler, 2, 1.8, noisy(1.8))
    assert decision.evidence["best_trial"] == 1


@pytest.mark.parametrize(
    ("batches", "stretch"),
    [((10, 25), 50), ((25, 10), 50), ((8, 20), 40), ((20, 20), 20), ((4, 20), 20)],
)
def test_different_batch_sizes_are_paired_where_both_end_a_step(
    batches: tuple[int, int], stretch: int
) -> None:
    scheduler = start()
    for samples in (200, 400):
        reach(scheduler, 0, 2.0, noisy(2.0), batch=batches[0], samples=samples)
    decision = reach(scheduler, 1, 2.1, noisy(2.01), batch=batches[1], samples=400)
    pairs_of = min(400 // stretch, MOST_PAIRS)
    assert decision.evidence["pairs"] == decision.evidence["higher_in"] == pairs_of
    assert decision.evidence["mean_difference"] == pytest.approx(0.01)
    assert decision.action is Action.STOP


def test_where_steps_hardly_meet_they_are_split() -> None:
    one = steps_of(7, 189, lambda s: 2.0 + s / 100)
    two = steps_of(20, 180, lambda s: 3.0 + s / 100)
    mine, theirs = pairs(one, two, 200)  # they meet at 140 only
    assert len(mine) == 9
    assert theirs - mine == pytest.approx(np.ones(9), abs=0.02)


def test_too_few_pairs_are_no_reason() -> None:
    scheduler = start()
    reach(scheduler, 0, 2.0, noisy(2.0), batch=40)
    decision = reach(scheduler, 1, 9.0, noisy(9.0), batch=40)
    assert decision.action is Action.CONTINUE
    assert f"with 5 stretches of equal samples to compare; {LEAST_PAIRS} are" in decision.reason


@pytest.mark.parametrize(
    "other",
    [{"seed": 2}, {"strategy": "phased"}, {"replay": 0.1}, {"batching": "multipack"}],
)
def test_trials_with_another_order_of_samples_are_not_compared(other: dict[str, Any]) -> None:
    scheduler = start(params={1: other})
    reach(scheduler, 0, 1.0, noisy(1.0))
    decision = reach(scheduler, 1, 3.0, noisy(3.0))
    assert decision.action is Action.CONTINUE
    assert "no other trial here yet that met the same samples" in decision.reason


def test_a_failed_or_diverged_trial_is_no_measure() -> None:
    for outcome in (Outcome("FAILED", "oom", None), Outcome("PRUNED", "diverged", None)):
        scheduler = start()
        reach(scheduler, 0, 1.0, noisy(1.0))
        scheduler.completed("t0", outcome)
        assert reach(scheduler, 1, 3.0, noisy(3.0)).action is Action.CONTINUE


def test_one_that_it_has_stopped_itself_still_is() -> None:
    scheduler = start()
    reach(scheduler, 0, 1.0, noisy(1.0))
    assert reach(scheduler, 1, 1.5, noisy(1.5)).action is Action.STOP
    scheduler.completed("t1", Outcome("PRUNED", "wilcoxon", None))
    scheduler.completed("t0", Outcome("FAILED", "error", None))
    assert reach(scheduler, 2, 2.0, noisy(2.0)).evidence["best_trial"] == 1


def test_stretches_without_a_finite_loss_are_left_out() -> None:
    scheduler = start()
    reach(scheduler, 0, 2.0, noisy(2.0))
    broken = noisy(2.05)
    decision = reach(scheduler, 1, 2.1, lambda s: None if 30 <= s < 50 else broken(s))
    assert decision.evidence["pairs"] == 18
    assert decision.evidence["mean_difference"] == pytest.approx(0.05)


def test_equal_curves_are_no_reason() -> None:
    scheduler = start()
    reach(scheduler, 0, 2.0, noisy(2.0))
    decision = reach(scheduler, 1, 2.1, noisy(2.0))
    assert decision.evidence["p"] == 0.5
    assert decision.action is Action.CONTINUE


def means(losses: Sequence[float], size: int) -> list[float]:
    return [float(np.mean(losses[i : i + size])) for i in range(0, len(losses), size)]


def test_pairs_are_means_over_the_same_samples() -> None:
    losses = [math.sin(s) for s in range(120)]
    fine = steps_of(4, 120, lambda s: losses[s])
    coarse = steps_of(12, 120, lambda s: losses[s] + 1)
    one, two = pairs(fine, coarse, 120)
    assert one == pytest.approx(means(losses, 12))
    assert two == pytest.approx([m + 1 for m in means(losses, 12)])
    assert len(pairs(fine, coarse, 70)[0]) == 5  # only what both have seen by then
    assert len(pairs(fine, [], 120)[0]) == 0


def test_steps_that_do_not_go_on_from_the_one_before_are_left_out() -> None:
    steps = steps_of(10, 200, lambda s: 2.0 + s / 100)
    backwards = [*steps[:10], replace(steps[3], loss=99.0), *steps[10:], replace(steps[-1], loss=9)]
    one, two = pairs(backwards, steps, 200)
    assert one.tolist() == two.tolist()
    assert len(one) == 20


def test_many_steps_make_no_more_than_so_many_pairs() -> None:
    losses = [math.cos(s) for s in range(1000)]
    steps = steps_of(1, 1000, lambda s: losses[s])
    one, _ = pairs(steps, steps, 1000)
    assert len(one) == MOST_PAIRS
    assert one == pytest.approx(means(losses, 1000 // MOST_PAIRS))


def test_the_test_is_scipys_and_bears_zeros_and_ties() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(0.3, 1.0, 20)
    _, reference = stats.wilcoxon(differences, alternative="greater", method="exact")
    assert signed_rank(differences) == pytest.approx(reference)
    # By hand: of the 2³ signs only all plus gives the rank sum 6.
    assert signed_rank(np.array([1.0, 2.0, 3.0])) == pytest.approx(1 / 8)
    assert signed_rank(np.zeros(9)) == 0.5
    assert 0 < signed_rank(np.array([0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0])) < 0.05


def test_keeps_the_best_if_early_ranks_are_final(sweep) -> None:
    recorded = sweep(16, seed=1)
    result = simulate(make_scheduler(SchedulerSpec(name="wilcoxon"), 0), recorded, workers=2)
    assert result.best == min(recorded, key=lambda r: r.value).info.id
    assert result.saved > 0.4
