"""Made-up sweeps: is what their dials say true of them?"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean, pstdev
from typing import Any

import pytest
from scipy.stats import spearmanr

from benchmarks.early.evaluation import Contender, evaluate
from benchmarks.early.synthetic import BUDGET, World, kind_of, synthetic_sweep, worlds

CALM = World("strong", 0.85, diverging=0.0)


def association(world: World, sweeps: int, of) -> float:
    """Mean rank correlation with the true losses of what `of` reads off a trial."""
    found = []
    for seed in range(sweeps):
        sweep = synthetic_sweep(world, seed)
        trials = [runs[0].recorded for runs in sweep.configs.values()]
        result: Any = spearmanr([of(t) for t in trials], list(sweep.truth.values()))
        found.append(float(result.statistic))
    return fmean(found)


def first_held_out(trial) -> float:
    return trial.evaluations[0].loss


def early_norm(trial) -> float:
    """Mean log norm, less what batch size does to it."""
    steps = [s for s in trial.steps if s.samples <= 0.1 * BUDGET]
    batch = steps[0].batch_samples
    return fmean(math.log(s.grad_norm) for s in steps) - 0.5 * math.log(0.3 + 3 / batch)


@pytest.mark.parametrize(
    ("persistence", "turn", "low", "high"),
    [(0.98, 1.0, 0.8, 1.0), (0.0, 40.0, -0.2, 0.2), (-0.6, 3.0, -0.9, -0.3)],
)
def test_persistence_sets_how_early_ranks_go_with_final_ones(persistence, turn, low, high) -> None:
    world = World("moderate", persistence, turn=turn, structure=False, diverging=0.0)
    assert low < association(world, 6, first_held_out) < high


@pytest.mark.parametrize(("dynamics", "sign"), [(0.7, 1), (-0.7, -1)])
def test_the_norm_says_what_its_dial_says(dynamics, sign) -> None:
    assert sign * association(replace(CALM, dynamics=dynamics), 4, early_norm) > 0.4


def test_a_silent_norm_says_nothing_in_a_sweep_without_structure() -> None:
    assert abs(association(replace(CALM, structure=False), 12, early_norm)) < 0.15


def test_structure_is_a_bowl_in_the_rate() -> None:
    def off_optimum(trial) -> float:
        params = trial.info.params
        shift = 0.2 * math.log2(params["effective_batch_size"] / 16)
        return abs(math.log10(params["learning_rate"]) + 3.7 - shift)

    assert association(CALM, 4, off_optimum) > 0.8
    assert abs(association(replace(CALM, structure=False), 12, off_optimum)) < 0.2


def test_shuffled_labels_leave_no_early_evidence() -> None:
    world = World("shuffled", 0.98, structure=False, shuffled=True, diverging=0.0, dynamics=0.7)
    assert abs(association(world, 14, first_held_out)) < 0.13
    assert abs(association(world, 14, early_norm)) < 0.13


def test_every_run_ends_at_its_truth_up_to_the_known_seed_noise() -> None:
    offs = []
    for seed in range(8):
        sweep = synthetic_sweep(CALM, seed)
        for config, (run,) in sweep.configs.items():
            value, truth = run.recorded.value, sweep.truth[config]
            assert value is not None
            assert truth is not None
            assert run.recorded.evaluations[-1].loss == value
            assert run.recorded.steps[-1].samples == BUDGET
            offs.append((value - truth) / sweep.deviation)
    assert pstdev(offs) == pytest.approx(1.0, abs=0.15)
    assert abs(fmean(offs)) < 0.2


def test_trials_diverge_as_often_as_asked_and_never_the_best() -> None:
    world = replace(CALM, diverging=0.5, structure=False)
    for seed in range(5):
        sweep = synthetic_sweep(world, seed)
        trials = {c: runs[0].recorded for c, runs in sweep.configs.items()}
        failed = [c for c, t in trials.items() if t.value is None]
        blown = [c for c, t in trials.items() if t.value is not None and t.value > 5]
        assert len(failed) + len(blown) == round(0.5 * 26)
        assert all(trials[c].steps[-1].loss is None for c in failed)
        assert sweep.best < 2


def test_a_sweep_depends_on_its_seed_alone() -> None:
    assert synthetic_sweep(CALM, 5) == synthetic_sweep(CALM, 5)
    assert synthetic_sweep(CALM, 5).truth != synthetic_sweep(CALM, 6).truth


def test_there_are_worlds_of_every_kind() -> None:
    kinds = {kind_of(w) for w in worlds()}
    assert {"perfect", "noise", "slow-starters", "shuffled"} <= kinds
    assert len({w.name for w in worlds()}) == len(worlds())


def test_halving_is_right_where_early_ranks_are_final_and_wrong_where_slow_starters_win() -> None:
    asha = Contender.of("asha")
    for name, expected in (("perfect", True), ("slow-starters", False)):
        world = next(w for w in worlds() if w.name == f"{name}-flat")
        rows = [r for s in range(6) for r in evaluate(asha, [synthetic_sweep(world, s)], 1)]
        assert (fmean(r.kept_run[1] for r in rows) > 0.6) is expected
