"""Which checkpoints may be deleted. Pure.

Kept are

- exports (models) of the best k completed trials, of pinned ones, and of those whose result another
  trial has taken over or a running report measures;
- the newest undamaged state and the one before it, of every trial that may run again: one that
  waits, runs or is paused, and, with `revivable`, one that was stopped or has failed.

Everything else goes. A folder that one trial has no use for stays if another needs it, or
something inside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from winnow.spec import Checkpoints
from winnow.types import TrialState

STATES_KEPT = 2
"""A state that turns out to be damaged has one to fall back on."""

_LIVE = frozenset({TrialState.PENDING, TrialState.RUNNING, TrialState.PAUSED})


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint on disk or in a store: a `state` to resume from, or an `export`, a model."""

    path: str
    kind: Literal["state", "export"]
    attempt: int
    step: int
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """One trial and what it has left behind.

    `value` is its objective, lower is better, or None. `needed`: another trial has taken over its
    result, or a report that hasn't ended measures its model.
    """

    trial_id: str
    number: int
    state: TrialState
    saved: tuple[Saved, ...]
    value: float | None = None
    pinned: bool = False
    needed: bool = False


def to_delete(trials: Sequence[Kept], policy: Checkpoints) -> list[tuple[str, str]]:
    """(trial id, path) of each checkpoint that nothing needs any more, in the order of `trials`.

    A path that several trials name is listed for each of them, or for none.
    """
    best = _best(trials, policy.keep_best)
    wanted = {
        _plain(saved.path)
        for trial in trials
        for saved in _needed(trial, policy, best=trial.trial_id in best)
    }
    return [
        (trial.trial_id, saved.path)
        for trial in trials
        for saved in trial.saved
        if not _touches(_plain(saved.path), wanted)
    ]


def _best(trials: Sequence[Kept], k: int) -> set[str]:
    """The k completed trials with the lowest values, the earlier one first where they are equal."""
    ranked = sorted(
        (trial.value, trial.number, trial.trial_id)
        for trial in trials
        if trial.state is TrialState.COMPLETED
        and trial.value is not None
        and not math.isnan(trial.value)
    )
    return {trial_id for _, _, trial_id in ranked[:k]}


def _needed(trial: Kept, policy: Checkpoints, *, best: bool) -> Iterator[Saved]:
    whole = [saved for saved in trial.saved if not saved.damaged]
    newest = sorted(whole, key=lambda saved: (saved.attempt, saved.step), reverse=True)
    exports = [saved for saved in newest if saved.kind == "export"]
    states = [saved for saved in newest if saved.kind == "state"]
    # A running trial's export is that of an end which is being recorded right now.
    if best or trial.pinned or trial.needed or trial.state is TrialState.RUNNING:
        yield from exports[:1]
    stopped = trial.state.ended and trial.state is not TrialState.COMPLETED
    if trial.state in _LIVE or (stopped and policy.revivable):
        yield from states[:STATES_KEPT]


def _touches(path: str, wanted: set[str]) -> bool:
    """Whether deleting `path` would take something wanted with it, or a part of it."""
    if path in wanted or any(other.startswith(path + "/") for other in wanted):
        return True
    return any(path.startswith(other + "/") for other in wanted)


def _plain(path: str) -> str:
    return path.rstrip("/")
