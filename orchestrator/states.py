"""States of sweeps and trials, and the moves between them that are legal. Pure.

    sweep   QUEUED → RUNNING → COMPLETED | FAILED | CANCELED
            RUNNING ⇄ PAUSED; QUEUED and PAUSED can be CANCELED

    trial   PENDING → RUNNING → COMPLETED | PRUNED | FAILED | CANCELED
            RUNNING → PENDING   its workers were lost; it will run again from its last checkpoint
            RUNNING ⇄ PAUSED    it yielded its workers and keeps a checkpoint

End states are final.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.errors import InvalidTransition
from winnow.types import SweepState, TrialState

SWEEP_MOVES: Mapping[SweepState, frozenset[SweepState]] = {
    SweepState.QUEUED: frozenset({SweepState.RUNNING, SweepState.CANCELED}),
    SweepState.RUNNING: frozenset(
        {SweepState.PAUSED, SweepState.COMPLETED, SweepState.FAILED, SweepState.CANCELED}
    ),
    SweepState.PAUSED: frozenset({SweepState.RUNNING, SweepState.CANCELED}),
    SweepState.COMPLETED: frozenset(),
    SweepState.FAILED: frozenset(),
    SweepState.CANCELED: frozenset(),
}

TRIAL_MOVES: Mapping[TrialState, frozenset[TrialState]] = {
    TrialState.PENDING: frozenset(
        {TrialState.RUNNING, TrialState.PRUNED, TrialState.FAILED, TrialState.CANCELED}
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
    TrialState.PAUSED: frozenset({TrialState.RUNNING, TrialState.PRUNED, TrialState.CANCELED}),
    TrialState.COMPLETED: frozenset(),
    TrialState.PRUNED: frozenset(),
    TrialState.FAILED: frozenset(),
    TrialState.CANCELED: frozenset(),
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
    return "end states are final" if ended else ""
