"""A sweep without training: full recorded curves replayed through a scheduler, by discrete events.

The driver and this simulator drive the same scheduler object by the same calls, so what is learned
here holds there. Time is the trials' own recorded seconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.schedulers.base import Action, Decision, Outcome, Scheduler, TrialInfo
from trainer.metrics import Evaluation, StepRecord


@dataclass(frozen=True, slots=True)
class Recorded:
    """A trial that was run to its end: all its records and its objective (lower is better)."""

    info: TrialInfo
    steps: tuple[StepRecord, ...]
    evaluations: tuple[Evaluation, ...]
    value: float | None


@dataclass(slots=True)
class SimulatedTrial:
    """What became of a trial. `state` is COMPLETED, PRUNED or FAILED; `ends` counts end states."""

    recorded: Recorded
    at: int = 0
    """Steps done."""
    state: str = "PENDING"
    reason: str = ""
    ends: int = 0

    @property
    def samples(self) -> int:
        return self.recorded.steps[self.at - 1].samples if self.at else 0


@dataclass(slots=True)
class SimulatedSweep:
    """The result: trials by id, all decisions in order, and the wall time in seconds."""

    trials: dict[str, SimulatedTrial]
    decisions: list[Decision] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def samples(self) -> int:
        return sum(t.samples for t in self.trials.values())

    @property
    def saved(self) -> float:
        """Fraction of all samples that was not trained."""
        full = sum(t.recorded.steps[-1].samples for t in self.trials.values())
        return 1.0 - self.samples / full

    @property
    def best(self) -> str | None:
        """The completed trial with the lowest objective."""
        done = [
            (t.recorded.value, i)
            for i, t in self.trials.items()
            if t.state == "COMPLETED" and t.recorded.value is not None
        ]
        return min(done)[1] if done else None


def simulate(
    scheduler: Scheduler,
    recorded: Sequence[Recorded],
    *,
    workers: int,
    act: bool = True,
    batch_seconds: float = 1.0,
) -> SimulatedSweep:
    """Run the recorded trials, started in the given order, on `workers` slots.

    A trial reports at every `batch_seconds` of its own time and at every rung, where it waits for
    the decision. `act=False` is shadow mode: decisions are recorded only.
    """
    sweep = SimulatedSweep({r.info.id: SimulatedTrial(r) for r in recorded})
    waiting = [r.info.id for r in recorded][::-1]
    running: list[tuple[float, int, str]] = []
    turn = 0

    def start(trial_id: str, now: float) -> None:
        nonlocal turn
        trial = sweep.trials[trial_id]
        trial.state = "RUNNING"
        turn += 1
        upto = _next_report(scheduler, trial, batch_seconds)
        seconds = sum(s.seconds for s in trial.recorded.steps[trial.at : upto])
        heapq.heappush(running, (now + seconds, turn, trial_id))

    def end(trial: SimulatedTrial, state: str, reason: str) -> None:
        trial.state, trial.reason = state, reason
        trial.ends += 1
        value = trial.recorded.value if state == "COMPLETED" else None
        for decision in scheduler.completed(trial.recorded.info.id, Outcome(state, reason, value)):
            carry_out(decision)

    def carry_out(decision: Decision) -> None:
        sweep.decisions.append(decision)
        if not act:
            return
        trial = sweep.trials[decision.trial_id]
        if decision.action is Action.STOP:
            end(trial, "PRUNED", decision.code)
        elif decision.action is Action.PAUSE:
            trial.state = "PAUSED"

    while True:
        while len(running) < workers:
            back = scheduler.next(len(waiting))
            if back is not None:
                sweep.decisions.append(back)
                start(back.trial_id, sweep.seconds)
            elif waiting:
                trial_id = waiting.pop()
                scheduler.add(sweep.trials[trial_id].recorded.info)
                start(trial_id, sweep.seconds)
            else:
                break
        if not running:
            break
        sweep.seconds, _, trial_id = heapq.heappop(running)
        trial = sweep.trials[trial_id]
        _report(scheduler, trial, batch_seconds, carry_out)
        if trial.state != "RUNNING":
            continue
        if trial.at == len(trial.recorded.steps):
            end(trial, "COMPLETED", "completed")
        else:
            start(trial_id, sweep.seconds)
    for decision in scheduler.finish():
        carry_out(decision)
    return sweep


def _next_report(scheduler: Scheduler, trial: SimulatedTrial, batch_seconds: float) -> int:
    """Number of steps done when the trial reports next."""
    steps = trial.recorded.steps
    done = trial.samples
    rung = next((r for r in scheduler.rungs(trial.recorded.info.total_samples) if r > done), None)
    at, seconds = trial.at, 0.0
    while at < len(steps):
        seconds += steps[at].seconds
        at += 1
        if seconds >= batch_seconds or (rung is not None and steps[at - 1].samples >= rung):
            break
    return at


def _report(scheduler, trial, batch_seconds, carry_out) -> None:  # type: ignore[no-untyped-def]
    before = trial.samples
    upto = _next_report(scheduler, trial, batch_seconds)
    steps = trial.recorded.steps[trial.at : upto]
    trial.at = upto
    evaluations = [e for e in trial.recorded.evaluations if before < e.samples <= trial.samples]
    decision = scheduler.observe(trial.recorded.info.id, steps, evaluations)
    if decision is not None:
        carry_out(decision)
