"""Which configuration to try next: random, grid and TPE behind one ask.

A proposer keeps nothing. What it answers follows from the seed, the trial's number and the history
it is handed, so after a crash a new one, given the same rows, proposes the same configuration.
No configuration is proposed twice; when a countable space has been used up, the answer is None.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.search.space import SearchSpace, rng, shuffled
from winnow.spec import Scalar, Search, Space
from winnow.types import TrialState

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

REDRAWS = 20
"""How often a draw that was tried before is drawn again before the space is walked instead."""

TEACHES_NOTHING = frozenset({"infrastructure", "user", "canceled", "budget"})
"""Reasons of an end state that say nothing about the configuration."""


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of one trial, as a proposer sees it.

    `value` is the objective (lower is better) of a completed trial. `held_out` is the last
    held-out loss measured so far and `rung` the index of the rung it belongs to; both None before
    the first.
    """

    number: int
    params: dict[str, Any]
    state: TrialState
    reason: str | None = None
    value: float | None = None
    held_out: float | None = None
    rung: int | None = None


class Proposer(Protocol):
    """A source of configurations."""

    def ask(self, number: int, history: Sequence[Told]) -> dict[str, Any] | None:
        """The configuration for trial `number`, fixed parameters included, or None if there is no
        new one left. `history`: every trial created so far, in any order and any state."""
        ...


def make_proposer(
    space: Space,
    search: Search,
    constraints: Sequence[str] = (),
    in_force: Mapping[str, Scalar] | None = None,
) -> Proposer:
    """The proposer that a sweep asks for.

    Args:
        space: the sweep's, or what is left of it.
        search: the sampler, its seed and the number of trials.
        constraints: expressions that every configuration meets.
        in_force: values of parameters that the space doesn't set (`SweepSpec.in_force`).
    """
    inside = SearchSpace.of(space, constraints, in_force)
    match search.sampler:
        case "grid":
            return GridProposer(inside, search.seed)
        case "random":
            return RandomProposer(inside, search.seed)
        case "tpe":
            return TPEProposer(inside, search.seed, trials=search.trials or 0)


class GridProposer:
    """Every combination once, in a seeded shuffled order, so that early trials cover the space."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space = space
        self._seed = seed

    def ask(self, number: int, history: Sequence[Told]) -> dict[str, Any] | None:
        return _first_untried(self._space, self._seed, _tried(self._space, history))


class RandomProposer:
    """Independent draws; each trial number has its own random numbers."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space = space
        self._seed = seed

    def ask(self, number: int, history: Sequence[Told]) -> dict[str, Any] | None:
        tried = _tried(self._space, history)
        for redraw in range(REDRAWS):
            params = self._space.draw(rng(self._seed, "random", number, redraw))
            if params is not None and self._space.key(params) not in tried:
                return params
        return _first_untried(self._space, self._seed, tried)


class TPEProposer:
    """Tree-structured Parzen estimator (Bergstra et al. 2011) as Optuna implements it.

    The study lives in memory and is rebuilt from the history at each ask. What each end teaches:

    - completed: its value;
    - has a held-out loss but no value (pruned, paused or still training): Optuna's PRUNED with that
      loss at its rung, which TPE ranks after all completed ones, deeper rungs first;
    - diverged: PRUNED without a loss, the worst rank there is;
    - running without a loss yet: RUNNING, which the constant liar counts as bad, so that parallel
      trials spread out;
    - out of memory, or failed otherwise: FAIL, which counts for nothing but is not tried again;
    - infrastructure, user, canceled, budget: nothing.

    The first max(8, trials // 3) that teach something are drawn at random.

    Where parameters have conditions, those that occur together are modelled together (Optuna's
    `group`), and only active ones are asked for. A suggestion that a constraint forbids is made
    again, with the forbidden ones counted as bad: Optuna's own constraints are for what is known
    only after a trial has run.
    """

    def __init__(self, space: SearchSpace, seed: int, *, trials: int) -> None:
        self._space = space
        self._seed = seed
        self._startup = max(8, trials // 3)
        self._random = RandomProposer(space, seed)

    def ask(self, number: int, history: Sequence[Told]) -> dict[str, Any] | None:
        if not any(True for t in history if _teaches(t)) or not self._space.distributions():
            return self._random.ask(number, history)
        past = _frozen_trials(self._space, history)
        if sum(t.state.is_finished() and t.state.name != "FAIL" for t in past) < self._startup:
            return self._random.ask(number, history)
        tried = _tried(self._space, history)
        for params in self._suggestions(past, number):
            if self._space.allows(params) and self._space.key(params) not in tried:
                return params
        return self._random.ask(number, history)

    def _suggestions(self, past: list[FrozenTrial], number: int) -> Iterator[dict[str, Any]]:
        """Suggestions from the same past; those that weren't taken count as running, and so as
        bad."""
        import optuna

        grouped = bool(self._space.rules.when)
        # One line a trial on stderr is Optuna's default, and so is a note on each new argument.
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            study = optuna.create_study(
                storage=optuna.storages.InMemoryStorage(), direction="minimize"
            )
            study.add_trials(past)
            for redraw in range(REDRAWS):
                seed = rng(self._seed, "tpe", number, redraw).getrandbits(32)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    study.sampler = optuna.samplers.TPESampler(
                        n_startup_trials=0,
                        multivariate=True,
                        group=grouped,
                        constant_liar=True,
                        seed=seed,
                    )
                    if grouped:
                        params = self._space.suggest(study.ask())
                    else:
                        trial = study.ask(fixed_distributions=self._space.distributions())
                        params = self._space.from_optuna(trial.params)
                yield params
        finally:
            optuna.logging.set_verbosity(verbosity)


def _teaches(told: Told) -> bool:
    if told.state.ended:
        return told.state is not TrialState.CANCELED and told.reason not in TEACHES_NOTHING
    return True  # One that waits for another attempt is still on its way.


def _frozen_trials(space: SearchSpace, history: Sequence[Told]) -> list[FrozenTrial]:
    from optuna.trial import create_trial

    distributions = space.distributions()
    found: list[FrozenTrial] = []
    for told in sorted(history, key=lambda t: t.number):
        if not _teaches(told) or not space.contains(told.params):
            continue
        state, value, intermediate = _lesson(told)
        params = space.to_optuna(told.params)
        found.append(
            create_trial(
                state=state,
                value=value,
                params=params,
                distributions={name: distributions[name] for name in params},
                intermediate_values=intermediate,
            )
        )
    return found


def _lesson(told: Told) -> tuple[Any, float | None, dict[int, float]]:
    """Optuna's (state, value, intermediate values) for a trial that teaches something."""
    from optuna.trial import TrialState as Optuna

    if told.reason == "diverged":
        return Optuna.PRUNED, None, {}
    if told.state is TrialState.FAILED:
        return Optuna.FAIL, None, {}
    if told.state is TrialState.COMPLETED:
        if told.value is None or not math.isfinite(told.value):
            return Optuna.FAIL, None, {}
        return Optuna.COMPLETE, told.value, {}
    if told.held_out is not None and math.isfinite(told.held_out):
        return Optuna.PRUNED, None, {told.rung or 0: told.held_out}
    if told.state is TrialState.PRUNED:
        return Optuna.PRUNED, None, {}
    return Optuna.RUNNING, None, {}


def _tried(space: SearchSpace, history: Sequence[Told]) -> set[tuple[object, ...]]:
    return {space.key(told.params) for told in history}


def _first_untried(
    space: SearchSpace, seed: int, tried: set[tuple[object, ...]]
) -> dict[str, Any] | None:
    """The first configuration in shuffled order that is not in `tried`; None if there is none, or
    if the space can't be walked."""
    if space.size is None:
        return None
    # Among len(tried) + 1 distinct configurations at least one is new.
    for position in range(min(space.size, len(tried) + 1)):
        params = space.at(shuffled(position, space.size, seed))
        if space.key(params) not in tried:
            return params
    return None
