"""What a sweep's trials are judged by: its objective, and further ones beside it. Pure."""

from __future__ import annotations

from orchestrator.live_trial import LiveTrial
from orchestrator.schedulers.base import Outcome
from winnow.objective import Metric, parse_metric
from winnow.spec import Objective


class Objectives:
    """Reads a trial's figures, as measured for the database and lower-is-better for a scheduler."""

    def __init__(self, objective: Objective) -> None:
        self.name = objective.metric
        self.metric = parse_metric(objective.metric)
        self.sign = -1.0 if objective.mode == "max" else 1.0
        self._also = [
            (f.metric, parse_metric(f.metric), -1.0 if f.mode == "max" else 1.0)
            for f in objective.also
        ]

    @property
    def metrics(self) -> list[tuple[str, Metric]]:
        """All of them by name, the one that the winner is chosen by first."""
        return [(self.name, self.metric), *((name, metric) for name, metric, _ in self._also)]

    def value(self, trial: LiveTrial) -> float | None:
        """What the winner is chosen by, as measured; None if it wasn't, or wasn't finite."""
        return trial.measured(self.metric)

    def also(self, trial: LiveTrial) -> dict[str, float | None]:
        """The further objectives by metric, as measured."""
        return {name: trial.measured(metric) for name, metric, _ in self._also}

    def outcome(self, trial: LiveTrial) -> Outcome:
        """How an ended trial ended, for the scheduler: lower is better throughout."""
        value = None if trial.value is None else self.sign * trial.value
        also = tuple(
            None if (figure := trial.also.get(name)) is None else sign * figure
            for name, _, sign in self._also
        )
        return Outcome(str(trial.state), trial.reason or "", value, also)
