from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.turnaround import BenchmarkFailed, check_same_work, cold_starts, turnarounds
from benchmarks.turnaround_ours import Timekeeper
from benchmarks.workload import Marks, Workload, read_marks, write_marks
from trainer.metrics import Batch, Failure, StepRecord


def mark(trial: int, group: int, handed: float, first: float, last: float) -> Marks:
    return Marks(trial, group, handed, first, last, [4.0, 3.0])


TWO_GROUPS = [
    mark(0, 0, handed=0.0, first=8.0, last=9.0),
    mark(1, 0, handed=9.0, first=9.5, last=10.0),
    mark(2, 1, handed=20.0, first=27.0, last=28.0),
    mark(3, 1, handed=28.0, first=28.25, last=29.0),
]


def test_our_turnaround_counts_only_trials_that_follow_on_the_same_workers() -> None:
    assert turnarounds(TWO_GROUPS, within_groups=True) == [0.5, 0.25]


def test_the_peers_turnaround_counts_every_trial_after_the_first() -> None:
    assert turnarounds(TWO_GROUPS, within_groups=False) == [0.5, 17.0, 0.25]


def test_a_cold_start_is_the_first_trial_of_each_group() -> None:
    assert cold_starts(TWO_GROUPS) == [8.0, 7.0]


def test_sides_that_trained_alike_may_be_compared() -> None:
    check_same_work(TWO_GROUPS, TWO_GROUPS[:2])


@pytest.mark.parametrize(
    ("losses", "complaint"),
    [
        ([4.0, 3.1], "trial 1, step 2: our loss is 3.0, the peer's 3.1"),
        ([4.0, None], "trial 1, step 2"),
        ([4.0], "trial 1 did not run the same steps"),
    ],
)
def test_sides_that_trained_differently_are_refused(
    losses: list[float | None], complaint: str
) -> None:
    peer = [TWO_GROUPS[0], replace(TWO_GROUPS[1], losses=losses)]
    with pytest.raises(BenchmarkFailed, match=complaint):
        check_same_work(TWO_GROUPS, peer)


def test_marks_are_read_back_in_the_order_in_which_trials_started(tmp_path: Path) -> None:
    file = tmp_path / "marks.jsonl"
    assert read_marks(file) == []
    for marks in reversed(TWO_GROUPS):
        write_marks(file, marks)
    assert read_marks(file) == TWO_GROUPS


# --- our side's clock -------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def step(number: int, seconds: float) -> StepRecord:
    return StepRecord(number, number, number, 2.0, 1.0, 1e-3, seconds, 0, 1)


def timekeeper(tmp_path: Path, trials: int = 1) -> tuple[Timekeeper, Clock, Path]:
    clock, file = Clock(), tmp_path / "marks.jsonl"
    return Timekeeper(Workload(tmp_path, 2), range(trials), file, clock), clock, file


def test_our_first_step_is_timed_late_and_our_last_step_never(tmp_path: Path) -> None:
    keeper, clock, file = timekeeper(tmp_path)
    clock.now = 100.0
    assignment = keeper.next()
    assert assignment is not None
    clock.now = 105.0  # the first step's report arrives
    keeper.report(assignment.attempt_id, Batch("running", (step(1, 0.25),)))
    clock.now = 107.0  # the second one took half a second, but its report comes two later
    keeper.report(assignment.attempt_id, Batch("running", (step(2, 0.5),)))
    clock.now = 108.0
    keeper.report(assignment.attempt_id, Batch("completed"))
    (marks,) = read_marks(file)
    assert (marks.handed, marks.first_step, marks.last_step) == (100.0, 105.0, 105.5)


def test_trials_follow_one_another_in_one_slot(tmp_path: Path) -> None:
    keeper, _, _ = timekeeper(tmp_path, trials=2)
    first = keeper.next()
    assert first is not None
    assert keeper.next() is None
    assert not keeper.finished
    keeper.report(first.attempt_id, Batch("completed", (step(1, 0.1),)))
    second = keeper.next()
    assert second is not None
    assert second.config != first.config
    keeper.report(second.attempt_id, Batch("completed", (step(1, 0.1),)))
    assert keeper.finished


@pytest.mark.parametrize(
    ("batch", "complaint"),
    [
        (Batch("failed", failure=Failure("data", "train.jsonl is empty")), "train.jsonl is empty"),
        (Batch("completed", (step(1, 0.1), step(2, 0.1))), "several steps"),
    ],
)
def test_a_trial_that_cannot_be_timed_ends_the_benchmark_with_its_reason(
    tmp_path: Path, batch: Batch, complaint: str
) -> None:
    keeper, _, file = timekeeper(tmp_path, trials=2)
    assignment = keeper.next()
    assert assignment is not None
    assert keeper.report(assignment.attempt_id, batch) == "stop"
    assert complaint in keeper.error
    assert keeper.finished
    assert read_marks(file) == []
