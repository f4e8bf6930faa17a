"""What is needed stays, whatever the sweep looks like; everything else goes."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.housekeeping import Kept, Saved, to_delete
from winnow.spec import Checkpoints
from winnow.types import TrialState

COMPLETED, PRUNED, RUNNING = TrialState.COMPLETED, TrialState.PRUNED, TrialState.RUNNING
WAITING = {TrialState.PENDING, TrialState.RUNNING, TrialState.PAUSED}


def trial(number: int, state: TrialState, *saved: Saved, **more: Any) -> Kept:
    return Kept(f"t{number}", number, state, saved, **more)


def state(path: str, step: int, attempt: int = 1, damaged: bool = False) -> Saved:
    return Saved(path, "state", attempt, step, damaged)


def model(path: str, attempt: int = 1) -> Saved:
    return Saved(path, "export", attempt, 100)


def gone(*trials: Kept, **policy: Any) -> set[str]:
    return {path for _, path in to_delete(trials, Checkpoints(**policy))}


def test_the_models_of_the_best_stay_and_of_pinned_and_of_needed_ones() -> None:
    trials = [
        trial(0, COMPLETED, model("/0"), value=3.0),
        trial(1, COMPLETED, model("/1"), value=1.0),
        trial(2, COMPLETED, model("/2"), value=1.0),
        trial(3, COMPLETED, model("/3"), value=9.0, pinned=True),
        trial(4, COMPLETED, model("/4"), value=8.0, needed=True),
        trial(5, COMPLETED, model("/5"), value=float("nan")),
        trial(6, COMPLETED, model("/6")),
    ]
    assert gone(*trials, keep_best=1) == {"/0", "/2", "/5", "/6"}
    assert gone(*trials, keep_best=2) == {"/0", "/5", "/6"}
    assert gone(*trials, keep_best=3) == {"/5", "/6"}


def test_a_trial_that_goes_on_keeps_two_whole_states_over_all_its_attempts() -> None:
    states = [
        state("/a1/step-5", 5, attempt=1),
        state("/a1/step-9", 9, attempt=1),
        state("/a2/step-10", 10, attempt=2),
        state("/a2/step-12", 12, attempt=2, damaged=True),
        state("/a3/step-11", 11, attempt=3),
    ]
    for one in WAITING:
        assert gone(trial(0, one, *states)) == {"/a1/step-5", "/a1/step-9", "/a2/step-12"}


def test_what_was_stopped_can_be_revived_if_it_is_to_be() -> None:
    stopped = trial(0, PRUNED, state("/5", 5), state("/6", 6), state("/7", 7))
    assert gone(stopped) == {"/5"}
    assert gone(stopped, revivable=False) == {"/5", "/6", "/7"}
    assert gone(trial(0, COMPLETED, state("/7", 7), model("/m"), value=1.0)) == {"/7"}


def test_a_model_that_two_trials_name_stays_while_one_needs_it() -> None:
    """The second took over the first one's result."""
    first = trial(0, COMPLETED, model("/m"), value=2.0)
    second = trial(1, COMPLETED, model("/m/"), value=2.0)
    best = trial(2, COMPLETED, model("/best"), value=1.0)
    assert gone(first, second, best, keep_best=2) == set()
    assert gone(first, second, best, keep_best=1) == {"/m", "/m/"}


def test_a_folder_stays_while_something_in_it_is_needed() -> None:
    whole = trial(0, PRUNED, state("/t/a1", 1))
    inside = trial(1, RUNNING, state("/t/a1/step-3", 3))
    assert gone(whole, inside, revivable=False) == set()
    assert gone(whole, trial(1, RUNNING, state("/t/a12", 3)), revivable=False) == {"/t/a1"}


SAVED = st.builds(
    Saved,
    path=st.sampled_from([f"{root}/{n}" for root in ("/x", "s3://b/y") for n in range(12)]),
    kind=st.sampled_from(["state", "export"]),
    attempt=st.integers(1, 3),
    step=st.integers(0, 20),
    damaged=st.booleans(),
)
KEPT = st.builds(
    Kept,
    trial_id=st.uuids().map(str),
    number=st.integers(0, 50),
    state=st.sampled_from(list(TrialState)),
    saved=st.lists(SAVED, max_size=6).map(tuple),
    value=st.none() | st.floats(allow_nan=True),
    pinned=st.booleans(),
    needed=st.booleans(),
)
TRIALS = st.lists(KEPT, max_size=8, unique_by=lambda one: one.trial_id)
POLICIES = st.builds(Checkpoints, keep_best=st.integers(1, 4), revivable=st.booleans())


def needed(trials: list[Kept], policy: Checkpoints) -> set[str]:
    """The rule once more, in other words."""
    paths: set[str] = set()
    for one in trials:
        better = [
            other
            for other in trials
            if other.state is COMPLETED
            and other.value is not None
            and one.value is not None
            and (other.value, other.number, other.trial_id) < (one.value, one.number, one.trial_id)
        ]
        is_best = (
            one.state is COMPLETED
            and one.value is not None
            and one.value == one.value
            and len(better) < policy.keep_best
        )
        whole = [saved for saved in one.saved if not saved.damaged]
        models = [s for s in whole if s.kind == "export"]
        if models and (is_best or one.pinned or one.needed or one.state is RUNNING):
            paths.add(max(models, key=lambda s: (s.attempt, s.step)).path)
        resumable = one.state in WAITING or (
            policy.revivable and one.state.ended and one.state is not COMPLETED
        )
        if resumable:
            states = [s for s in whole if s.kind == "state"]
            states.sort(key=lambda s: (s.attempt, s.step))
            paths |= {s.path for s in states[-2:]}
    return paths


def same_age(trials: list[Kept]) -> bool:
    """Whether two checkpoints of a trial can't be told by age: there either may stay."""
    return any(
        len({(s.kind, s.attempt, s.step) for s in one.saved}) < len(one.saved) for one in trials
    )


@given(trials=TRIALS.filter(lambda trials: not same_age(trials)), policy=POLICIES)
@settings(max_examples=400, deadline=None)
def test_nothing_needed_goes_and_nothing_else_stays(
    trials: list[Kept], policy: Checkpoints
) -> None:
    everything = {(one.trial_id, saved.path) for one in trials for saved in one.saved}
    wanted = needed(trials, policy)
    expected = {(trial_id, path) for trial_id, path in everything if path not in wanted}
    assert set(to_delete(trials, policy)) == expected


@given(trials=TRIALS, policy=POLICIES)
@settings(max_examples=200, deadline=None)
def test_doing_it_twice_changes_nothing_more(trials: list[Kept], policy: Checkpoints) -> None:
    deleted = {path for _, path in to_delete(trials, policy)}
    left = [
        Kept(
            one.trial_id,
            one.number,
            one.state,
            tuple(saved for saved in one.saved if saved.path not in deleted),
            one.value,
            one.pinned,
            one.needed,
        )
        for one in trials
    ]
    assert to_delete(left, policy) == []


@given(trials=TRIALS, policy=POLICIES)
@settings(max_examples=200, deadline=None)
def test_a_more_generous_policy_never_deletes_more(trials: list[Kept], policy: Checkpoints) -> None:
    generous = Checkpoints(keep_best=policy.keep_best + 1, revivable=True)
    assert set(to_delete(trials, generous)) <= set(to_delete(trials, policy))
