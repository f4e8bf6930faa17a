"""Which moves are legal, told state by state, independently of the tables in the code."""

from __future__ import annotations

from itertools import product

import pytest

from orchestrator.errors import InvalidTransition
from orchestrator.states import SWEEP_MOVES, TRIAL_MOVES, check_sweep_move, check_trial_move
from winnow.types import SweepState, TrialState

LEGAL_TRIAL_MOVES = {
    "PENDING": {"RUNNING", "PAUSED", "COMPLETED", "PRUNED", "FAILED", "CANCELED"},
    "RUNNING": {"PENDING", "PAUSED", "COMPLETED", "PRUNED", "FAILED", "CANCELED"},
    "PAUSED": {"RUNNING", "PENDING", "PRUNED", "CANCELED"},
    "COMPLETED": set(),
    "PRUNED": {"PENDING"},
    "FAILED": {"PENDING"},
    "CANCELED": {"PENDING"},
}
LEGAL_SWEEP_MOVES = {
    "QUEUED": {"RUNNING", "PAUSED", "CANCELED"},
    "RUNNING": {"PAUSED", "COMPLETED", "FAILED", "CANCELED"},
    "PAUSED": {"QUEUED", "CANCELED"},
    "COMPLETED": {"QUEUED"},
    "FAILED": {"QUEUED"},
    "CANCELED": {"QUEUED"},
}


@pytest.mark.parametrize(("current", "target"), list(product(TrialState, TrialState)))
def test_a_trial_makes_exactly_its_legal_moves(current: TrialState, target: TrialState):
    if target.value in LEGAL_TRIAL_MOVES[current.value]:
        check_trial_move("abc-1", current, target)
    else:
        with pytest.raises(InvalidTransition, match=f"Trial abc-1 is {current} and can't become"):
            check_trial_move("abc-1", current, target)


@pytest.mark.parametrize(("current", "target"), list(product(SweepState, SweepState)))
def test_a_sweep_makes_exactly_its_legal_moves(current: SweepState, target: SweepState):
    if target.value in LEGAL_SWEEP_MOVES[current.value]:
        check_sweep_move("abc", current, target)
    else:
        with pytest.raises(InvalidTransition, match=f"Sweep abc is {current} and can't become"):
            check_sweep_move("abc", current, target)


@pytest.mark.parametrize("moves", [SWEEP_MOVES, TRIAL_MOVES], ids=["sweep", "trial"])
def test_from_an_end_state_there_is_only_the_way_back_to_waiting(moves: dict):
    for state, targets in moves.items():
        if state.ended:
            assert targets <= {SweepState.QUEUED, TrialState.PENDING}


def test_the_refusal_of_an_ended_trial_says_that_it_has_ended():
    with pytest.raises(InvalidTransition, match="it has ended"):
        check_trial_move("abc-1", TrialState.PRUNED, TrialState.RUNNING)
