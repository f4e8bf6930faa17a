from __future__ import annotations

import math
import random
from typing import Any

import pytest

from orchestrator.schedulers import Action, Decision, Outcome, Scheduler, TrialInfo, make_scheduler
from orchestrator.schedulers.simulate import simulate
from trainer.metrics import Evaluation
from winnow.spec import SchedulerSpec

TOTAL = 800  # rungs at 100, 200 and 400 samples


def start(params: list[dict[str, Any]]) -> Scheduler:
    scheduler = make_scheduler(SchedulerSpec(name="rate-batch-curve"), 0)
    for number, own in enumerate(params):
        scheduler.add(TrialInfo(f"t{number}", number, own, TOTAL))
    return scheduler


def reach(scheduler: Scheduler, number: int, loss: float | None, samples: int = 100) -> Decision:
    evaluation = Evaluation(samples // 10, samples, "eval", "main", loss, 1000)
    decision = scheduler.observe(f"t{number}", [], [evaluation])
    assert decision is not None
    return decision


def rates(*exponents: float) -> list[dict[str, Any]]:
    return [{"learning_rate": 10**e, "effective_batch_size": 16} for e in exponents]


VALLEY = [-6.0, -5.6, -5.2, -4.8, -4.4, -4.0, -3.6, -3.2, -2.8]
"""Rates of which the middle one is the best."""


def height(exponent: float) -> float:
    return 2.0 + (exponent + 4.4) ** 2


def test_a_trial_ranks_by_its_place_on_the_surface_not_by_its_own_loss() -> None:
    def last(exponent: float, loss: float) -> Decision:
        scheduler = start(rates(*VALLEY, exponent))
        for number, rate in enumerate(VALLEY):
            reach(scheduler, number, height(rate))
        return reach(scheduler, 9, loss)

    unlucky = last(-4.4, 6.0)  # at the best rate, with the worst loss of all
    assert unlucky.action is Action.CONTINUE
    assert unlucky.evidence["predicted"] < -0.5
    lucky = last(-6.0, 1.0)  # at the lowest rate, with the best loss of all
    assert lucky.action is Action.PAUSE
    assert lucky.evidence["predicted"] > 0


def test_the_reason_says_what_it_looked_at() -> None:
    scheduler = start(rates(*VALLEY))
    for number, exponent in enumerate(VALLEY[:-1]):
        reach(scheduler, number, height(exponent))
    decision = reach(scheduler, 8, 2.0)
    predicted = decision.evidence["predicted"]
    assert decision.reason == (
        f"predicted score {predicted:+.2f} from rate and batch size alone (lower is better; "
        f"held-out loss 2 at 100 samples) ranks {decision.evidence['rank']} of 9; the best 4 go on"
    )
    assert decision.code == "rate-batch-curve"
    assert decision.evidence["known"] == 9


def test_the_best_rate_may_move_with_the_batch_size() -> None:
    rng = random.Random(1)
    params: list[dict[str, Any]] = []
    losses: list[float] = []
    for _ in range(40):
        batch = rng.choice([8, 64, 512])
        rate = rng.uniform(-6, -2)
        best = -5 + math.log(batch / 8) / math.log(8)  # -5, -4, -3
        params.append({"learning_rate": 10**rate, "effective_batch_size": batch})
        losses.append(2 + (rate - best) ** 2)
    at_large = [{"learning_rate": 10**e, "effective_batch_size": 512} for e in (-3, -5)]
    scheduler = start(params + at_large)
    for number, loss in enumerate(losses):
        reach(scheduler, number, loss)
    right, wrong = (reach(scheduler, 40 + n, 3.0) for n in range(2))
    assert right.evidence["rank"] < 10
    assert wrong.evidence["rank"] > 30


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"learning_rate": 1e-4, "effective_batch_size": 8},
        {"learning_rate": "auto", "effective_batch_size": True},
        {"learning_rate": 0.0, "effective_batch_size": -1},
    ],
)
def test_where_neither_varies_held_out_loss_decides_as_in_asha(params: dict[str, Any]) -> None:
    losses = [2.4, 2.1, 2.6, 2.2, 2.3, 2.5]
    mine = start([params] * 6)
    asha = make_scheduler(SchedulerSpec(name="asha"), 0)
    for number in range(6):
        asha.add(TrialInfo(f"t{number}", number, params, TOTAL))
    for number, loss in enumerate(losses):
        ours, theirs = (reach(s, number, loss) for s in (mine, asha))
        assert (ours.action, ours.evidence["rank"]) == (theirs.action, theirs.evidence["rank"])


def test_a_trial_without_a_rate_is_judged_by_the_rest() -> None:
    scheduler = start([*rates(*VALLEY), {"effective_batch_size": 16}])
    for number, exponent in enumerate(VALLEY):
        reach(scheduler, number, height(exponent))
    decision = reach(scheduler, 9, 9.0)
    assert math.isfinite(decision.evidence["predicted"])


def test_a_loss_that_is_not_finite_ranks_last_wherever_it_stands() -> None:
    scheduler = start(rates(*VALLEY, -4.4))
    for number, exponent in enumerate(VALLEY):
        reach(scheduler, number, height(exponent))
    assert reach(scheduler, 9, None).evidence["rank"] == 10


def test_diverged_trials_bend_the_surface() -> None:
    exponents = [-6.0, -5.5, -5.0, -4.5, -4.0, -3.5, -3.0, -2.5]

    def predicted_at_high_rate(diverged: bool) -> float:
        scheduler = start([*rates(*exponents), *rates(-3.2)])
        for number in range(5):
            reach(scheduler, number, 3.0 - 0.2 * number)  # the higher the better, so far
        for number in range(5, 8):
            if diverged:
                scheduler.completed(f"t{number}", Outcome("PRUNED", "diverged", None))
        return reach(scheduler, 8, 2.5).evidence["predicted"]

    assert predicted_at_high_rate(diverged=False) < 0
    assert predicted_at_high_rate(diverged=True) > 0


def test_the_objective_of_completed_trials_outweighs_their_early_loss() -> None:
    exponents = [-6.0, -5.5, -5.0, -4.5, -4.0, -3.5, -3.0, -2.5]

    def predicted_at_high_rate(completed: bool) -> float:
        scheduler = start([*rates(*exponents), *rates(-2.6)])
        for n in range(8):
            reach(scheduler, n, 2.0 + 0.1 * n)  # early the low rates are ahead
        for n in range(8 if completed else 0):
            scheduler.completed(f"t{n}", Outcome("COMPLETED", "completed", 2.0 - 0.1 * n))
        return reach(scheduler, 8, 2.5).evidence["predicted"]

    assert predicted_at_high_rate(completed=False) > 0.5
    assert predicted_at_high_rate(completed=True) < -0.5


def test_finds_the_valley_in_a_sweep_whose_early_losses_are_noise(trial) -> None:
    kept: dict[str, int] = {"asha": 0, "rate-batch-curve": 0}
    for seed in range(6):
        rng = random.Random(seed)
        recorded = []
        for number in range(24):
            exponent = rng.uniform(-6, -3)
            final = 2.0 + 0.3 * (exponent + 4.5) ** 2
            recorded.append(
                trial(number, final=final, rate=10**exponent, crossing=rng.gauss(0, 1), seed=seed)
            )
        best = sorted(recorded, key=lambda r: r.value)[:3]
        for name in kept:
            result = simulate(
                make_scheduler(SchedulerSpec.model_validate({"name": name}), 0), recorded, workers=2
            )
            kept[name] += result.best in {r.info.id for r in best}
    assert kept["rate-batch-curve"] >= 5
    assert kept["rate-batch-curve"] > kept["asha"]
