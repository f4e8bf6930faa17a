from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence

import pytest

from orchestrator.search import Proposer, SearchSpace, Told, make_proposer
from orchestrator.search.samplers import RandomProposer
from winnow.spec import Search, Space
from winnow.types import TrialState

GRID = Space.model_validate(
    {
        "learning_rate": {"choice": [1e-5, 1e-4, 1e-3]},
        "effective_batch_size": {"choice": [4, 16, 64, 240]},
        "schedule": "linear",
    }
)
RATES = Space.model_validate(
    {
        "learning_rate": {"log_uniform": [1e-6, 1e-1]},
        "effective_batch_size": {"choice": [4, 16, 64]},
    }
)
SAMPLERS = ("random", "grid", "tpe")


def proposer(sampler: str, space: Space = GRID, trials: int = 32, seed: int = 0) -> Proposer:
    return make_proposer(
        space, Search.model_validate({"sampler": sampler, "trials": trials, "seed": seed})
    )


def badness(params: dict) -> float:
    """Best at a rate of 1e-3."""
    return (math.log10(params["learning_rate"]) + 3) ** 2


def run(ask: Proposer, trials: int) -> list[Told]:
    history: list[Told] = []
    for number in range(trials):
        params = ask.ask(number, history)
        if params is None:
            break
        history.append(Told(number, params, TrialState.COMPLETED, value=badness(params)))
    return history


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_countable_space_is_tried_once_each_and_then_used_up(sampler: str) -> None:
    history = run(proposer(sampler), 20)
    assert len(history) == 12
    assert (
        len({(t.params["learning_rate"], t.params["effective_batch_size"]) for t in history}) == 12
    )
    assert all(t.params["schedule"] == "linear" for t in history)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_rebuilt_proposer_goes_on_with_the_same_suggestion(sampler: str) -> None:
    space = GRID if sampler == "grid" else RATES
    history = run(proposer(sampler, space), 12)
    for cut in range(len(history)):
        rebuilt = proposer(sampler, space)
        assert rebuilt.ask(cut, history[:cut][::-1]) == history[cut].params


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_another_seed_goes_another_way(sampler: str) -> None:
    one, two = (run(proposer(sampler, seed=seed), 5) for seed in (0, 1))
    assert [t.params for t in one] != [t.params for t in two]


def test_the_first_third_of_a_grid_covers_it() -> None:
    large = Space.model_validate(
        {
            "learning_rate": {"choice": [10.0**-n for n in range(2, 8)]},
            "effective_batch_size": {"choice": [4, 8, 16, 32, 64, 128]},
        }
    )
    first = run(proposer("grid", large), 18)
    assert len({t.params["learning_rate"] for t in first}) == 6
    assert len({t.params["effective_batch_size"] for t in first}) == 6


def test_a_space_with_one_configuration_is_tried_once() -> None:
    for sampler in SAMPLERS:
        single = Space.model_validate({"learning_rate": 1e-4})
        assert [t.params for t in run(proposer(sampler, single), 3)] == [{"learning_rate": 1e-4}]


def test_tpe_finds_the_good_rates_that_random_only_brushes() -> None:
    def late_mean(sampler: str) -> float:
        found = [run(proposer(sampler, RATES, 40, seed), 40)[20:] for seed in range(3)]
        values = [t.value or 0.0 for history in found for t in history]
        return sum(values) / len(values)

    assert late_mean("tpe") < 0.5 * late_mean("random")


def drawn(count: int, low: float, high: float) -> list[dict]:
    space = SearchSpace.of(Space.model_validate({"learning_rate": {"log_uniform": [low, high]}}))
    ask = RandomProposer(space, 7)
    return [{**(ask.ask(n, []) or {}), "effective_batch_size": 16} for n in range(count)]


def suggestions(history: list[Told]) -> list[float]:
    ask = proposer("tpe", RATES, 24)
    found = [ask.ask(number, history) for number in range(100, 120)]
    return [math.log10(p["learning_rate"]) for p in found if p is not None]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def test_diverged_trials_teach_tpe_to_keep_away_however_well_they_began() -> None:
    good = [
        Told(n, p, TrialState.PRUNED, reason="asha", held_out=1.0 + 0.01 * n, rung=0)
        for n, p in enumerate(drawn(15, 1e-6, 1e-3))
    ]
    bad = [
        Told(50 + n, p, TrialState.PRUNED, reason="diverged", held_out=0.1, rung=2)
        for n, p in enumerate(drawn(3, 1e-2, 2e-2))
    ]
    assert mean([s > -3 for s in suggestions(good + bad)]) <= 0.2


def test_pruned_paused_and_running_trials_teach_by_their_held_out_loss() -> None:
    """Under halving most trials never complete; what they showed must not be lost."""
    for state in (TrialState.PRUNED, TrialState.PAUSED, TrialState.RUNNING):
        history = [
            Told(n, p, state, reason="asha", held_out=badness(p), rung=0)
            for n, p in enumerate(drawn(16, 1e-6, 1e-1))
        ]
        near = [abs(s + 3) < 1 for s in suggestions(history)]
        assert mean(near) > 0.6, state


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (TrialState.FAILED, "infrastructure"),
        (TrialState.CANCELED, "user"),
        (TrialState.PRUNED, "user"),
        (TrialState.FAILED, "oom"),
    ],
)
def test_what_says_nothing_about_quality_changes_nothing(state: TrialState, reason: str) -> None:
    good = run(proposer("tpe", RATES, 24), 12)
    silent = [
        Told(50 + n, p, state, reason, held_out=0.0, rung=2)
        for n, p in enumerate(drawn(12, 1e-6, 1e-5))
    ]
    assert suggestions(good + silent) == suggestions(good)


def test_trials_that_run_at_the_same_time_spread_out() -> None:
    done = run(proposer("tpe", RATES, 24), 12)
    ask = proposer("tpe", RATES, 24)
    history = list(done)
    for number in range(12, 18):
        params = ask.ask(number, history)
        assert params is not None
        history.append(Told(number, params, TrialState.RUNNING))
    rates = [t.params["learning_rate"] for t in history[12:]]
    assert len(set(rates)) == 6


def test_a_history_from_an_older_space_is_no_obstacle() -> None:
    old = [
        Told(n, {"learning_rate": 5.0, "beta": n}, TrialState.COMPLETED, value=0.0)
        for n in range(20)
    ]
    assert proposer("tpe", RATES).ask(20, old) is not None


def test_optuna_is_not_loaded_until_tpe_needs_it() -> None:
    code = (
        "import sys, orchestrator.search as s, winnow.spec as w;"
        "space = w.Space.model_validate({'learning_rate': {'choice': [1e-4, 1e-3]}});"
        "s.make_proposer(space, w.Search(sampler='grid')).ask(0, []);"
        "sys.exit('optuna' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_tpe_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    run(proposer("tpe", RATES, 24), 12)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
