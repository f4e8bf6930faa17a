from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.schedulers import Action, Decision, Scheduler, TrialInfo, make_scheduler
from orchestrator.schedulers.hyperband import deal
from orchestrator.schedulers.simulate import simulate
from trainer.metrics import Evaluation
from winnow.spec import SchedulerSpec

TOTAL = 800  # rungs at 100, 200 and 400 samples
BRACKET = deal(2, 3)  # of trial 0, 1, 2, …


def start(trials: int) -> Scheduler:
    scheduler = make_scheduler(SchedulerSpec(name="hyperband"), 0)
    for number in range(trials):
        scheduler.add(TrialInfo(f"t{number}", number, {}, TOTAL))
    return scheduler


def reach(scheduler: Scheduler, number: int, loss: float, samples: int = 100) -> Decision | None:
    evaluation = Evaluation(samples // 10, samples, "eval", "main", loss, 1000)
    return scheduler.observe(f"t{number}", [], [evaluation])


def members(bracket: int, count: int) -> list[int]:
    return [n for n in range(len(BRACKET)) if BRACKET[n] == bracket][:count]


@pytest.mark.parametrize(
    ("eta", "rungs", "sizes"),
    [
        (2, 3, [8, 6, 4, 4]),  # ⌈4/4·8⌉, ⌈4/3·4⌉, ⌈4/2·2⌉, ⌈4/1·1⌉
        (3, 4, [81, 34, 15, 8, 5]),  # the paper's table 1, R = 81
        (2, 0, [1]),
    ],
)
def test_brackets_have_hyperbands_sizes(eta: int, rungs: int, sizes: list[int]) -> None:
    counts = Counter(deal(eta, rungs))
    assert [counts[b] for b in range(rungs + 1)] == sizes


def test_a_short_sweep_is_dealt_in_proportion_too() -> None:
    counts = Counter(BRACKET[:11])
    assert [counts[b] for b in range(4)] == [4, 3, 2, 2]


def test_a_bracket_takes_no_notice_of_the_rungs_before_its_own() -> None:
    scheduler = start(len(BRACKET))
    for bracket in range(4):
        number = members(bracket, 1)[0]
        judged = [reach(scheduler, number, 2.0, samples) for samples in (100, 200, 400)]
        assert [d is not None for d in judged[:bracket]] == [False] * bracket
        if bracket < 3:
            first = judged[bracket]
            assert first is not None
            assert first.action is Action.PAUSE  # the first of its bracket there
            assert first.evidence["bracket"] == bracket
            assert f"in bracket {bracket} " in first.reason
        else:
            assert judged == [None] * 3


def test_trials_compete_within_their_bracket_only() -> None:
    scheduler = start(len(BRACKET))
    ones, twos = members(0, 2), members(1, 2)
    reach(scheduler, ones[0], 1.0, samples=200)
    reach(scheduler, twos[0], 3.0, samples=200)
    better = reach(scheduler, twos[1], 2.0, samples=200)  # best of its bracket, not of all
    assert better is not None
    assert better.action is Action.CONTINUE
    assert (better.evidence["rank"], better.evidence["peers"]) == (1, 2)
    worse = reach(scheduler, ones[1], 2.5, samples=200)
    assert worse is not None
    assert worse.action is Action.PAUSE
    back = scheduler.next(5)
    assert back is not None
    assert back.trial_id == f"t{ones[0]}"


def test_a_slow_starter_in_a_late_bracket_survives_where_asha_ends_it(trial) -> None:
    late = members(3, 1)[0]
    recorded = [
        trial(n, final=1.0 if n == late else 2.0, crossing=3.0 if n == late else 0.0)
        for n in range(11)
    ]
    best = {
        name: simulate(make_scheduler(SchedulerSpec(name=name), 0), recorded, workers=2).best
        for name in ("asha", "hyperband")
    }
    assert best["hyperband"] == f"t{late}"
    assert best["asha"] != f"t{late}"
