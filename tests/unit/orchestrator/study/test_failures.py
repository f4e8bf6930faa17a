"""What becomes of a trial whose attempt failed, and what a pause costs."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.live_trial import LiveTrial
from orchestrator.raytune.workers import foreign_memory
from orchestrator.study.failures import MAX_LOST, MAX_RETRIES, after_failure
from orchestrator.study.pausing import Prices
from trainer.metrics import Batch, CheckpointRecord, Failure
from winnow.types import TrialState

GIB = 2**30


def trial(**changes: Any) -> LiveTrial:
    return LiveTrial("abc-1", 1, "search", TrialState.RUNNING, {}, {}, 100, **changes)


def failed(code: Any, **notes: Any) -> Batch:
    return Batch(status="failed", failure=Failure(code, "it went wrong"), notes=notes)


LOST = Batch(status="failed", notes={"infrastructure": True, "message": "a worker died"})


def test_lost_machinery_is_tried_again_but_not_for_ever() -> None:
    assert after_failure(trial(), LOST, None).state is TrialState.PENDING
    last = after_failure(trial(lost=MAX_LOST), LOST, None)
    assert (last.state, last.reason) == (TrialState.FAILED, "infrastructure")
    assert f"{MAX_LOST + 1} times without a new checkpoint" in (last.message or "")


def test_a_new_checkpoint_is_progress() -> None:
    one = trial(lost=MAX_LOST)
    saved = CheckpointRecord(5, 40, "state", "/c/step-5", 10, 0.1)
    one.take(Batch(status="running", checkpoints=(saved,)))
    assert after_failure(one, LOST, None).state is TrialState.PENDING


def test_out_of_memory_goes_on_with_half_the_tokens_while_that_can_help() -> None:
    half = after_failure(trial(cap=8192, longest=3000), failed("oom"), None)
    assert (half.state, half.reason, half.cap) == (TrialState.PENDING, "oom", 4096)
    assert after_failure(trial(cap=4096, longest=3000), failed("oom"), None).cap == 3000
    end = after_failure(trial(cap=3000, longest=3000), failed("oom"), None)
    assert (end.state, end.reason) == (TrialState.FAILED, "oom")
    unknown = after_failure(trial(), failed("oom"), None)
    assert unknown.state is TrialState.FAILED


def test_an_unreadable_checkpoint_gives_way_to_the_one_before() -> None:
    back = after_failure(trial(), failed("checkpoint"), "/c/step-5")
    assert (back.state, back.damaged) == (TrialState.PENDING, True)
    never = after_failure(trial(retries=MAX_RETRIES), failed("checkpoint"), "/c/step-5")
    assert never.state is TrialState.FAILED


def test_a_disk_that_is_full_is_the_machinery_s_fault() -> None:
    assert after_failure(trial(), failed("disk"), None).reason == "infrastructure"


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("diverged", TrialState.PRUNED),
        ("error", TrialState.FAILED),
        ("data", TrialState.FAILED),
        ("config", TrialState.FAILED),
    ],
)
def test_what_would_happen_again_ends_the_trial(code: str, state: TrialState) -> None:
    assert after_failure(trial(), failed(code), None).state is state


def test_a_trial_that_was_to_end_ends_as_it_was_to() -> None:
    going = trial(intent=("stop", TrialState.CANCELED, "user", "stopped by alice"))
    verdict = after_failure(going, LOST, None)
    assert (verdict.state, verdict.reason) == (TrialState.CANCELED, "user")


def test_a_large_checkpoint_is_not_written_for_seconds_of_training() -> None:
    prices = Prices.expected(1_000_000_000)
    why = prices.reason_to_drop(unsaved=5.0)
    assert why is not None
    assert "training 5.0 s again is cheaper" in why
    assert prices.reason_to_drop(unsaved=600.0) is None


def test_what_was_written_tells_more_than_what_was_expected() -> None:
    prices = Prices.expected(1_000_000_000)
    prices.learn([(12_000_000_000, 2.0)])
    assert prices.reason_to_drop(unsaved=5.0) is None
    assert prices.reason_to_drop(unsaved=2.5) is not None


def test_a_model_of_unknown_size_is_saved() -> None:
    assert Prices.expected(None).reason_to_drop(unsaved=0.0) is None


def test_a_gpu_counts_as_held_when_it_is_more_than_contexts() -> None:
    total = 80 * GIB
    assert foreign_memory(free=total - 2 * GIB, total=total, own=0) == 0
    assert foreign_memory(free=50 * GIB, total=total, own=0) == 30 * GIB
    assert foreign_memory(free=50 * GIB, total=total, own=29 * GIB) == 0
