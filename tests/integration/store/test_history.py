"""Attempts and checkpoints of a trial, as they are listed and looked up."""

from __future__ import annotations

from tests.integration.store.reports import Running, checkpoint
from trainer.metrics import Batch
from winnow.types import TrialState


def attempt(run: Running, trial: str, *paths: str) -> None:
    """One that writes checkpoints at step 5 and is interrupted."""
    number = run.store.start_attempt(run.lease, trial)
    saved = tuple(checkpoint(5, path) for path in paths)
    run.store.record(run.lease, trial, number, Batch("running", checkpoints=saved))
    run.store.end_attempt(run.lease, trial, number, TrialState.PENDING, "infrastructure")


def test_attempts_come_page_by_page_each_once(running: Running) -> None:
    trial = running.trial()
    for _ in range(5):
        attempt(running, trial)
    seen: list[int] = []
    after: str | None = "0"
    while after is not None:
        page = running.store.history.attempts(trial, int(after), 2)
        seen += [one.attempt for one in page.items]
        after = page.next
    assert seen == [1, 2, 3, 4, 5]


def test_a_checkpoint_that_is_there_is_found_before_a_later_one_that_is_gone(
    running: Running,
) -> None:
    trial = running.trial()
    attempt(running, trial, "/c/1")
    attempt(running, trial, "/c/2")
    find = running.store.history.checkpoint_at
    latest = find(trial, 5, None)
    assert latest is not None
    assert (latest.path, latest.available) == ("/c/2", True)
    with running.store.guarded(running.lease) as tx:
        tx.note_deleted(trial, ["/c/2"])
    left, gone = find(trial, 5, None), find(trial, 5, None, 2)
    assert left is not None
    assert gone is not None
    assert (left.path, left.available, gone.available) == ("/c/1", True, False)


def test_a_damaged_checkpoint_is_found_after_one_that_is_whole(running: Running) -> None:
    trial = running.trial()
    attempt(running, trial, "/c/1")
    attempt(running, trial, "/c/2")
    with running.store.guarded(running.lease) as tx:
        tx.note_damaged(trial, ["/c/2"])
    find = running.store.history.checkpoint_at
    whole, damaged = find(trial, 5, None), find(trial, 5, None, 2)
    assert whole is not None
    assert damaged is not None
    assert (whole.path, whole.available, damaged.available) == ("/c/1", True, False)


def test_a_driver_is_not_given_a_damaged_checkpoint_to_go_on_from(running: Running) -> None:
    trial, number = running.started(0)
    saved = (checkpoint(5, "/c/5"), checkpoint(6, "/c/6"))
    running.store.record(running.lease, trial, number, Batch("running", checkpoints=saved))

    def to_go_on_from() -> list[str]:
        (row,) = running.store.sweep_rows(running.sweep_id).trials
        return [saved.path for saved in row.checkpoints]

    assert to_go_on_from() == ["/c/6", "/c/5"]
    with running.store.guarded(running.lease) as tx:
        tx.note_damaged(trial, ["/c/6"])
    assert to_go_on_from() == ["/c/5"]
