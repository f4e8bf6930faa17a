"""States of sweeps and trials, and the moves between them that are legal. Pure.

    sweep   QUEUED → RUNNING → COMPLETED | FAILED | CANCELED
            QUEUED | RUNNING → PAUSED → QUEUED; QUEUED and PAUSED can be CANCELED
            an ended one → QUEUED       a user has given it more to do

    trial   PENDING → RUNNING → COMPLETED | PRUNED | FAILED | CANCELED
            PENDING → COMPLETED         it took over an identical trial's result
            RUNNING → PENDING           its workers were lost or preempted; it will run again
            RUNNING | PENDING → PAUSED  it waits to be called back; PAUSED → RUNNING | PENDING
            PRUNED | FAILED | CANCELED → PENDING    a user has revived it

End states are final but for what a user asks for.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.errors import InvalidTransition
from winnow.types import SweepState, TrialState

_ENDED_SWEEP = frozenset({SweepState.QUEUED})
_REVIVED = frozenset({TrialState.PENDING})

SWEEP_MOVES: Mapping[SweepState, frozenset[SweepState]] = {
    SweepState.QUEUED: frozenset({SweepState.RUNNING, SweepState.PAUSED, SweepState.CANCELED}),
    SweepState.RUNNING: frozenset(
        {SweepState.PAUSED, SweepState.COMPLETED, SweepState.FAILED, SweepState.CANCELED}
    ),
    SweepState.PAUSED: frozenset({SweepState.QUEUED, SweepState.CANCELED}),
    SweepState.COMPLETED: _ENDED_SWEEP,
    SweepState.FAILED: _ENDED_SWEEP,
    SweepState.CANCELED: _ENDED_SWEEP,
}

TRIAL_MOVES: Mapping[TrialState, frozenset[TrialState]] = {
    TrialState.PENDING: frozenset(
        {
            TrialState.RUNNING,
            TrialState.PAUSED,
            TrialState.COMPLETED,
            TrialState.PRUNED,
            TrialState.FAILED,
            TrialState.CANCELED,
        }
    ),
    TrialState.RUNNING: frozenset(
        {
            TrialState.PENDING,
            TrialState.PAUSED,
            TrialState.COMPLETED,
            TrialState.PRUNED,
            TrialState.FAILED,
            TrialState.CANCELED,
        }
    ),
    TrialState.PAUSED: frozenset(
        {TrialState.RUNNING, TrialState.PENDING, TrialState.PRUNED, TrialState.CANCELED}
    ),
    TrialState.COMPLETED: frozenset(),
    TrialState.PRUNED: _REVIVED,
    TrialState.FAILED: _REVIVED,
    TrialState.CANCELED: _REVIVED,
}


def check_sweep_move(sweep_id: str, current: SweepState, target: SweepState) -> None:
    """Raise InvalidTransition unless a sweep may go from `current` to `target`."""
    if target not in SWEEP_MOVES[current]:
        raise InvalidTransition(f"Sweep {sweep_id}", current, target, _why(current.ended))


def check_trial_move(trial_id: str, current: TrialState, target: TrialState) -> None:
    """Raise InvalidTransition unless a trial may go from `current` to `target`."""
    if target not in TRIAL_MOVES[current]:
        raise InvalidTransition(f"Trial {trial_id}", current, target, _why(current.ended))


def _why(ended: bool) -> str:
    return "it has ended" if ended else ""
