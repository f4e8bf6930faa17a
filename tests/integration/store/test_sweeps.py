"""Sweeps and their summaries."""

from __future__ import annotations

import math
import re

import pytest

from orchestrator.errors import NotFound
from orchestrator.store import Store
from tests.integration.store.reports import Running, begin, evaluation, steps
from trainer.metrics import Batch, Evaluation
from winnow.types import Scores, SweepState, TrialKind, TrialState


def run(
    running: Running,
    number: int,
    last_step: int,
    state: TrialState,
    value: float | None = None,
    *,
    kind: TrialKind = "search",
    evaluations: tuple[Evaluation, ...] = (),
) -> str:
    trial_id, attempt = running.started(number, kind=kind, total_samples=1000)
    batch = Batch("running", steps=steps(1, last_step).steps, evaluations=evaluations)
    running.store.record(running.lease, trial_id, attempt, batch)
    running.store.end_attempt(running.lease, trial_id, attempt, state, value=value)
    return trial_id


def test_a_new_sweep_waits_and_keeps_what_was_written(store: Store):
    spec = {"zeta": 1, "alpha": {"nested": [1, 2.5, None, "ä"]}}
    sweep = store.create_sweep(spec, planned=16, name="granite", facts={"train_samples": 9})
    assert re.fullmatch("[a-z][a-z0-9]{9}", sweep.id)
    assert (sweep.state, sweep.name, sweep.spec) == (SweepState.QUEUED, "granite", spec)
    assert list(sweep.spec) == ["zeta", "alpha"], "in the order it was written in"
    assert (sweep.summary.planned, sweep.summary.trials) == (16, 0)
    assert store.get_sweep(sweep.id) == sweep
    assert store.sweep_rows(sweep.id).facts == {"train_samples": 9}


def test_a_summary_counts_search_trials_and_the_samples_they_were_spared(running: Running):
    run(running, 0, 100, TrialState.COMPLETED, 1.5)
    run(running, 1, 10, TrialState.PRUNED)
    run(running, 2, 20, TrialState.PRUNED)
    running.started(3)
    run(running, 4, 2, TrialState.COMPLETED, kind="baseline")
    summary = running.store.get_sweep(running.sweep_id).summary
    assert (summary.trials, summary.planned) == (4, 8)
    assert summary.by_state == {"COMPLETED": 1, "PRUNED": 2, "RUNNING": 1}
    assert summary.samples_trained == 1000 + 100 + 200
    assert summary.samples_full == 4 * 1000
    assert summary.seconds == pytest.approx((100 + 10 + 20 + 2) * 0.5)


@pytest.mark.parametrize(("mode", "best"), [("min", 1), ("max", 2)])
def test_the_best_trial_is_a_completed_one_by_the_objectives_mode(
    store: Store, mode: str, best: int
):
    running = begin(store, {"objective": {"mode": mode}})
    values = [
        (0, TrialState.COMPLETED, 0.5),
        (1, TrialState.COMPLETED, 0.25),
        (2, TrialState.COMPLETED, 0.75),
        (3, TrialState.COMPLETED, 0.75 if mode == "max" else 0.25),  # a tie: the first one counts
        (4, TrialState.PRUNED, 0.01 if mode == "min" else 0.99),
        (5, TrialState.COMPLETED, None),
    ]
    ids = [run(running, number, 1, state, value) for number, state, value in values]
    summary = store.get_sweep(running.sweep_id).summary
    assert (summary.best_trial, summary.best_value) == (ids[best], values[best][2])


def test_with_several_objectives_the_front_is_named_best_by_the_first_one_first(store: Store):
    also = [{"metric": "general/loss", "mode": "min"}, {"metric": "judge/score", "mode": "max"}]
    running = begin(store, {"objective": {"metric": "eval/loss", "mode": "min", "also": also}})
    figures = [
        (TrialState.COMPLETED, 2.0, {"general/loss": 1.0, "judge/score": 5.0}),
        (TrialState.COMPLETED, 1.0, {"general/loss": 2.0, "judge/score": 5.0}),
        (TrialState.COMPLETED, 2.0, {"general/loss": 2.0, "judge/score": 5.0}),  # beaten by both
        (TrialState.COMPLETED, 3.0, {"general/loss": 3.0, "judge/score": 6.0}),
        (TrialState.COMPLETED, 0.5, {"general/loss": None, "judge/score": 9.0}),  # not measured
        (TrialState.PRUNED, 0.1, {"general/loss": 0.1, "judge/score": 9.9}),
    ]
    ids = []
    for number, (state, value, further) in enumerate(figures):
        trial_id, attempt = running.started(number)
        store.end_attempt(running.lease, trial_id, attempt, state, value=value, also=further)
        ids.append(trial_id)
    assert store.get_sweep(running.sweep_id).summary.front == [ids[1], ids[0], ids[3]]
    assert store.list_sweeps().items[0].summary.front == [ids[1], ids[0], ids[3]]
    assert store.get_trial(ids[3]).also == {"general/loss": 3.0, "judge/score": 6.0}


def test_a_figure_that_was_not_finite_is_null(running: Running):
    trial_id, attempt = running.started(0)
    also = {"general/loss": math.inf, "judge/score": 5.0}
    running.store.end_attempt(
        running.lease, trial_id, attempt, TrialState.COMPLETED, value=1.0, also=also
    )
    assert running.store.get_trial(trial_id).also == {"general/loss": None, "judge/score": 5.0}


def test_a_new_attempt_forgets_the_further_figures_too(running: Running):
    trial_id, attempt = running.started(0)
    running.store.end_attempt(
        running.lease, trial_id, attempt, TrialState.PENDING, also={"general/loss": 1.0}
    )
    running.store.start_attempt(running.lease, trial_id)
    assert running.store.get_trial(trial_id).also == {}


def test_how_many_trials_ran_at_once_is_known_from_their_attempts(running: Running):
    store, lease = running.store, running.lease
    assert store.most_at_once(running.sweep_id) == 0
    running.started(0, kind="baseline")
    first, second = running.started(1), running.started(2)
    store.end_attempt(lease, *first, TrialState.PAUSED)
    third = running.started(3)
    resumed = (first[0], store.start_attempt(lease, first[0]))
    for trial_id, attempt in (second, third, resumed):
        store.end_attempt(lease, trial_id, attempt, TrialState.COMPLETED)
    assert store.most_at_once(running.sweep_id) == 3


def test_earlier_sweeps_are_those_that_completed_before_this_one_began(store: Store):
    def ended(state: SweepState) -> str:
        running = begin(store, {"name": state})
        store.end_sweep(running.lease, state)
        return running.sweep_id

    first = ended(SweepState.COMPLETED)
    ended(SweepState.CANCELED)
    second = ended(SweepState.COMPLETED)
    this = begin(store)
    ended(SweepState.COMPLETED)
    assert [s.id for s in store.finished_before(this.sweep_id)] == [second, first]
    assert [s.id for s in store.finished_before(this.sweep_id, limit=1)] == [second]
    assert store.finished_before(first) == []


def test_scores_before_and_after_are_weighted_over_their_sets(running: Running):
    store = running.store
    run(
        running,
        0,
        0,
        TrialState.COMPLETED,
        kind="baseline",
        evaluations=(
            evaluation(0, 4.0, dataset="a", tokens=100, exact_match=0.0, generated=10),
            evaluation(0, 2.0, dataset="b", tokens=300, exact_match=0.5, generated=30),
            evaluation(0, 5.0, split="test", tokens=10),
        ),
    )
    best = run(
        running,
        1,
        8,
        TrialState.COMPLETED,
        1.0,
        evaluations=(
            evaluation(4, 9.0, dataset="a"),
            evaluation(8, 1.0, dataset="a", tokens=100, exact_match=1.0, generated=10),
            evaluation(8, 0.5, dataset="b", tokens=300, exact_match=0.6, generated=30),
        ),
    )
    assert store.get_sweep(running.sweep_id).summary.winner == {
        "eval": Scores(loss=(100 * 1.0 + 300 * 0.5) / 400, exact_match=(10 + 18) / 40)
    }
    run(
        running,
        2,
        0,
        TrialState.COMPLETED,
        kind="report",
        evaluations=(evaluation(0, 1.25, split="test", exact_match=0.9, generated=10),),
    )
    summary = store.get_sweep(running.sweep_id).summary
    assert summary.best_trial == best
    assert summary.baseline == {
        "eval": Scores(loss=(100 * 4.0 + 300 * 2.0) / 400, exact_match=15 / 40),
        "test": Scores(loss=5.0, exact_match=None),
    }
    assert summary.winner["test"] == Scores(loss=1.25, exact_match=0.9)


def test_the_mean_over_a_set_that_was_not_finite_is_not_finite_either(running: Running):
    run(
        running,
        0,
        1,
        TrialState.COMPLETED,
        1.0,
        evaluations=(evaluation(1, None, dataset="a"), evaluation(1, 1.0, dataset="b")),
    )
    assert running.store.get_sweep(running.sweep_id).summary.winner == {"eval": Scores()}


def test_sweeps_are_listed_newest_first_page_by_page(store: Store):
    created = [store.create_sweep({}, 1, f"s{n}") for n in range(7)]
    listed, cursor = [], None
    while True:
        page = store.list_sweeps(limit=3, after=cursor)
        assert len(page.items) <= 3
        listed += page.items
        if (cursor := page.next) is None:
            break
    assert sorted(s.id for s in listed) == sorted(s.id for s in created), "each exactly once"
    times = [s.created_at for s in listed]
    assert times == sorted(times, reverse=True)
    assert store.get_sweep(created[3].id) in listed, "with the same summary as alone"


def test_trials_are_listed_by_number_page_by_page_and_by_state(running: Running):
    store = running.store
    for number in range(5):
        running.trial(number)
    store.end_trial(running.lease, f"{running.sweep_id}-3", TrialState.PRUNED, "asha", "why")
    first = store.list_trials(running.sweep_id, limit=3)
    second = store.list_trials(running.sweep_id, limit=3, after=first.next)
    assert [t.number for t in [*first.items, *second.items]] == [0, 1, 2, 3, 4]
    assert second.next is None
    pruned = store.list_trials(running.sweep_id, states=[TrialState.PRUNED]).items
    assert [(t.number, t.reason, t.message) for t in pruned] == [(3, "asha", "why")]
    assert store.list_trials(running.sweep_id, kinds=["report"]).items == []


def test_what_does_not_exist_is_not_found(running: Running):
    store, sweep_id = running.store, running.sweep_id
    asks = [
        lambda: store.get_sweep("nothing"),
        lambda: store.get_trial("nothing-1"),
        lambda: store.list_trials("nothing"),
        lambda: store.trials_changed_since("nothing"),
        lambda: store.curves("nothing"),
        lambda: store.curves(sweep_id, ["nothing-1"]),
        lambda: store.evaluations("nothing"),
        lambda: store.decisions("nothing"),
        lambda: store.decisions(sweep_id, "nothing-1"),
        lambda: store.sweep_rows("nothing"),
        lambda: store.list_sweeps(after="nothing"),
        lambda: store.list_trials(sweep_id, after="nothing"),
        lambda: store.cancel_queued("nothing"),
    ]
    for ask in asks:
        with pytest.raises(NotFound, match="There is no"):
            ask()
