"""Scoring a rule on hand-made sweeps, where the right answer can be seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.early import Contender, evaluate
from benchmarks.early.contest import leave_out
from benchmarks.early.evaluation import BUDGETS, replay
from benchmarks.early.frontier import RANDOM, at_budget, frontier, hull
from benchmarks.early.sweeps import REGRET_CAP

NAMES = "abcdefgh"
HONEST = {name: (1.0 + k, 1.01 + k) for k, name in enumerate(NAMES)}
"""Held-out losses have their final order from the start."""


def reversed_early(sweep):
    """What looks worst early ends best."""
    return sweep(HONEST, early={name: 20.0 - k for k, name in enumerate(NAMES)})


def test_halving_keeps_the_best_where_early_ranks_are_final(sweep) -> None:
    (row,) = evaluate(Contender.of("asha", eta=4), [sweep(HONEST)], draws=1, workers=2)
    assert row.selected == "a"
    assert row.kept == row.kept_run == (True, True, True)
    assert row.regret == 0
    assert row.compute < 0.5
    assert row.random_regret > 0
    assert not row.lost
    assert sum(row.gone.values()) == 7


def test_halving_loses_the_best_where_early_ranks_are_reversed(sweep) -> None:
    (row,) = evaluate(Contender.of("asha", eta=4), [reversed_early(sweep)], draws=1, workers=8)
    assert row.selected == "h"
    assert row.regret == pytest.approx(REGRET_CAP)
    assert row.kept == (False, False, False)
    assert row.lost


def test_running_everything_equals_random_at_its_own_compute(sweep) -> None:
    rows = evaluate(Contender.of("none", rungs=()), [reversed_early(sweep)], draws=3, workers=2)
    for row in rows:
        assert row.compute == pytest.approx(1.0)
        assert row.regret == row.random_regret == 0
        assert row.kept_run == (True, True, True)
        assert row.gone == {}


def test_pauses_and_audits_are_paid_for(sweep) -> None:
    plain, dear, audited = (
        evaluate(Contender.of("asha", audit=audit), [sweep(HONEST)], 1, 2, switch=switch)[0]
        for audit, switch in ((0.0, 0.0), (0.0, 0.05), (0.5, 0.0))
    )
    assert plain.compute < audited.compute
    assert plain.training == dear.training
    _, result = replay(Contender.of("asha"), sweep(HONEST), 0, 2)
    switches = sum(t.pauses + t.resumes for t in result.trials.values())
    assert switches > sum(t.pauses for t in result.trials.values()) > 0
    assert dear.compute - plain.compute == pytest.approx(0.05 * switches / len(NAMES))


def test_fewer_trials_cost_a_share_of_the_whole_sweep(sweep) -> None:
    contender = Contender("half", Contender.of("none", rungs=()).spec, share=0.5)
    (row,) = evaluate(contender, [sweep(HONEST)], draws=1, workers=2)
    assert row.compute == pytest.approx(0.5)
    assert row.trials == 8


def test_exchanged_norms_change_the_papers_rule_and_not_halving_on_the_metric(sweep) -> None:
    norms = {name: 10.0 ** (k - 4) for k, name in enumerate(NAMES)}
    telling = sweep(HONEST, norm=norms, early=dict.fromkeys(NAMES, 30.0))
    fields = {"first_rung": 0.3, "keep": 0.25, "rungs": ()}
    for name, settings, differs in (("paper-sign", fields, True), ("asha", {}, False)):
        plain = Contender.of(name, **settings)
        control = Contender("control", plain.spec, show="exchanged")
        own, other = ([r.selected for r in evaluate(c, [telling], 6, 8)] for c in (plain, control))
        assert (own != other) is differs


def test_lower_hull_drops_what_a_mix_of_two_settings_beats() -> None:
    points = [(0.2, 1.0), (0.4, 0.9), (0.6, 0.2), (0.8, 0.3), (1.0, 0.1)]
    assert hull(points) == [(0.2, 1.0), (0.6, 0.2), (1.0, 0.1)]
    assert at_budget(points, 0.4) == pytest.approx(0.6)
    assert at_budget(points, 0.1) is None
    assert at_budget(points, 1.0) == 0.1


def test_more_compute_never_costs_regret_on_the_frontier() -> None:
    """A rule whose dearest setting is worse than a cheap one: the cheap one can be had for more."""
    assert at_budget([(0.3, 0.2), (1.0, 0.5)], 1.0) == 0.2


def test_the_frontier_table_says_where_ours_is_beaten(sweep) -> None:
    names = "abcdefghijkl"
    honest = sweep({name: (1.0 + k, 1.01 + k) for k, name in enumerate(names)})
    everything = evaluate(Contender.of("none", rungs=()), [honest], 2, 4)
    asha = evaluate(Contender.of("asha"), [honest], 2, 4)
    chance = evaluate(Contender.of("random"), [honest], 2, 4)
    table = frontier([*asha, *chance], everything, "asha")
    last = BUDGETS.index(1.0)
    assert table["regret"][RANDOM][last] == table["regret"]["asha"][last] == 0
    reached = [k for k, v in enumerate(table["regret"]["asha"]) if v is not None]
    assert reached
    assert all(table["asha_at_or_below_all"][k] for k in reached)
    assert table["asha_at_or_below_all"][0] is None  # Nobody gets to a rung for a tenth.
    other = frontier([*asha, *chance], everything, "random")
    assert False in other["random_at_or_below_all"]


def test_a_prior_is_learned_without_the_sweep_or_without_its_family(sweep) -> None:
    """Of sweeps a and b of one family and c of another."""
    made = {
        name: replace(
            sweep({f"{name}{k}": (float(k),) for k in range(3)}), name=name, family=family
        )
        for name, family in (("a", "x"), ("b", "x"), ("c", "y"))
    }
    sweeps = list(made.values())

    def learner(recorded):
        return sorted(trials[0].info.id[0] for trials in recorded)

    for by, expected in (("sweep", ["b", "c"]), ("family", ["c"])):
        prior_for = leave_out(sweeps, by, learner=learner)
        assert prior_for is not None
        assert prior_for(made["a"]) == expected
        assert prior_for(made["c"]) == ["a", "b"]
    assert leave_out(sweeps, "nothing", learner=learner) is None


def test_a_prior_reaches_the_scheduler_of_its_sweep(sweep) -> None:
    asked: list[str] = []

    def prior_for(held_out):
        asked.append(held_out.name)

    evaluate(Contender.of("asha", prior_for=prior_for), [sweep(HONEST)], 2, 2)
    assert asked == ["hand", "hand"]
