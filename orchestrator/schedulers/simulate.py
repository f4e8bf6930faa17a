"""A sweep without training: full recorded curves replayed through a scheduler, by discrete events.

The driver and this simulator drive the same scheduler object by the same calls, so what is learned
here holds there. Time is the trials' own recorded seconds, on `workers` slots: a step takes what it
took, an evaluation that the scheduler asked for takes what it took, and a pause and a resume take
what the caller says. So what a scheduler saves is net of what it costs.

A trial is evaluated at the scheduler's rungs only, and at its end. Where nothing was recorded
exactly at a rung, the trial is judged at the first recorded evaluation after it, having trained up
to there. Test evaluations are never shown to the scheduler and cost nothing.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from orchestrator.schedulers.base import Action, Decision, Outcome, Scheduler, TrialInfo
from trainer.metrics import Evaluation, StepRecord


@dataclass(frozen=True, slots=True)
class Recorded:
    """A trial that was run to its end: all its records and its objective (lower is better).

    `value` is None if it failed or diverged: it then ends as FAILED when its records end. `also`
    holds its further objectives, lower is better each.
    """

    info: TrialInfo
    steps: tuple[StepRecord, ...]
    evaluations: tuple[Evaluation, ...]
    value: float | None
    also: tuple[float | None, ...] = ()


@dataclass(slots=True)
class SimulatedTrial:
    """What became of a trial. `state` is COMPLETED, PRUNED or FAILED; `ends` counts end states.

    Seconds are those of its worker: training, evaluating, and pausing or resuming.
    """

    recorded: Recorded
    at: int = 0
    """Steps done."""
    state: str = "PENDING"
    reason: str = ""
    ends: int = 0
    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    switch_seconds: float = 0.0
    pauses: int = 0
    resumes: int = 0

    @property
    def samples(self) -> int:
        return self.recorded.steps[self.at - 1].samples if self.at else 0

    @property
    def seconds(self) -> float:
        """All seconds that the trial held a worker."""
        return self.train_seconds + self.evaluation_seconds + self.switch_seconds


@dataclass(slots=True)
class SimulatedSweep:
    """The result: trials by id, all decisions in order, and the wall time in seconds."""

    trials: dict[str, SimulatedTrial]
    decisions: list[Decision] = field(default_factory=list)
    seconds: float = 0.0
    full_seconds: float = 0.0
    """What the sweep takes when every trial runs to its end, with its last evaluation only."""

    @property
    def samples(self) -> int:
        return sum(t.samples for t in self.trials.values())

    @property
    def saved(self) -> float:
        """Fraction of all samples that was not trained."""
        full = sum(t.recorded.steps[-1].samples for t in self.trials.values())
        return 1.0 - self.samples / full

    @property
    def compute(self) -> float:
        """Worker seconds that were spent, as a fraction of `full_seconds`. Above 1 is possible:
        evaluations at rungs, pauses and resumes count."""
        spent = sum(t.seconds for t in self.trials.values())
        return spent / self.full_seconds if self.full_seconds > 0 else 1.0

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
    pause_seconds: float = 0.0,
    resume_seconds: float = 0.0,
) -> SimulatedSweep:
    """Run the recorded trials, started in the given order, on `workers` slots.

    A trial reports at every `batch_seconds` of its own time and at every rung, where it waits for
    the decision. `act=False` is shadow mode: decisions are recorded only. A pause holds its worker
    for `pause_seconds` (a checkpoint), a resume for `resume_seconds`.
    """
    return _Simulation(
        scheduler, recorded, workers, act, batch_seconds, pause_seconds, resume_seconds
    ).run()


def full_seconds(recorded: Recorded) -> float:
    """Worker seconds of a trial that runs to its end and is evaluated there only."""
    last = recorded.steps[-1].samples if recorded.steps else 0
    return math.fsum(s.seconds for s in recorded.steps) + math.fsum(
        e.seconds for e in recorded.evaluations if e.split != "test" and e.samples >= last
    )


class _Timeline:
    """A recorded trial laid out in time, for one scheduler's rungs.

    `ends[i]` are the training seconds of the first i steps. `shown` maps a number of steps to the
    evaluations made right after them; at those the trial reports and waits.
    """

    __slots__ = ("_stops", "ends", "shown", "steps")

    def __init__(self, recorded: Recorded, rungs: Sequence[int]) -> None:
        self.steps = recorded.steps
        self.ends = [0.0, *accumulate(s.seconds for s in recorded.steps)]
        samples = [s.samples for s in recorded.steps]
        held = sorted({e.samples for e in recorded.evaluations if e.split == "eval"})
        last = samples[-1] if samples else 0
        wanted = {
            held[k]
            for r in rungs
            if r <= last and (k := bisect_left(held, r)) < len(held) and held[k] < last
        }
        self.shown: dict[int, list[Evaluation]] = {}
        for e in recorded.evaluations:
            ending = e.samples >= last and e.split != "test"
            if ending or (e.samples in wanted and e.split == "eval"):
                done = min(len(samples), bisect_left(samples, e.samples) + 1)
                self.shown.setdefault(done, []).append(e)
        self._stops = sorted(
            {bisect_left(samples, r) + 1 for r in rungs if r <= last} | set(self.shown)
        )

    def next_report(self, done: int, batch_seconds: float) -> int:
        """Number of steps done when a trial with `done` steps behind it reports next."""
        ends = self.ends
        upto = bisect_left(ends, ends[done] + batch_seconds * (1 - 1e-12), done + 1)
        upto = min(upto, len(ends) - 1)
        k = bisect_right(self._stops, done)
        return min(upto, self._stops[k]) if k < len(self._stops) else upto

    def evaluation_seconds(self, before: int, after: int) -> float:
        shown = self.shown
        return sum(e.seconds for at, es in shown.items() if before < at <= after for e in es)


class _Simulation:
    """The state of one replay: who runs until when, who waits."""

    def __init__(
        self,
        scheduler: Scheduler,
        recorded: Sequence[Recorded],
        workers: int,
        act: bool,
        batch_seconds: float,
        pause_seconds: float,
        resume_seconds: float,
    ) -> None:
        self.scheduler = scheduler
        self.workers = workers
        self.act = act
        self.batch_seconds = batch_seconds
        self.pause_seconds = pause_seconds
        self.resume_seconds = resume_seconds
        self.sweep = SimulatedSweep({r.info.id: SimulatedTrial(r) for r in recorded})
        totals = {r.info.total_samples for r in recorded}
        rungs = {total: scheduler.rungs(total) for total in totals}
        self.timelines = {r.info.id: _Timeline(r, rungs[r.info.total_samples]) for r in recorded}
        self.sweep.full_seconds = math.fsum(full_seconds(r) for r in recorded)
        self.waiting = [r.info.id for r in recorded][::-1]
        self.busy: list[tuple[float, int, str]] = []
        """Worker slots in use: until when, in which turn, and the trial that reports then, or ''
        for a slot that is free from then on."""
        self.turn = 0

    def run(self) -> SimulatedSweep:
        sweep = self.sweep
        while True:
            self._fill()
            if not self.busy:
                break
            sweep.seconds, _, trial_id = heapq.heappop(self.busy)
            if trial_id:
                self._report(trial_id)
        for decision in self.scheduler.finish():
            self._carry_out(decision)
        return sweep

    def _fill(self) -> None:
        """Give every free slot to a trial that is called back, else to a new one."""
        while len(self.busy) < self.workers:
            back = self.scheduler.next(len(self.waiting))
            if back is not None:
                self.sweep.decisions.append(back)
                trial = self.sweep.trials[back.trial_id]
                trial.resumes += 1
                trial.switch_seconds += self.resume_seconds
                self._go_on(back.trial_id, self.resume_seconds)
            elif self.waiting:
                trial_id = self.waiting.pop()
                info = self.sweep.trials[trial_id].recorded.info
                self.scheduler.add(replace(info, planned=len(self.sweep.trials)))
                self._go_on(trial_id, 0.0)
            else:
                return

    def _go_on(self, trial_id: str, delay: float) -> None:
        """Let the trial run until its next report."""
        trial, timeline = self.sweep.trials[trial_id], self.timelines[trial_id]
        trial.state = "RUNNING"
        upto = timeline.next_report(trial.at, self.batch_seconds)
        seconds = timeline.ends[upto] - timeline.ends[trial.at]
        seconds += timeline.evaluation_seconds(trial.at, upto)
        self._hold(delay + seconds, trial_id)

    def _hold(self, seconds: float, trial_id: str) -> None:
        self.turn += 1
        heapq.heappush(self.busy, (self.sweep.seconds + seconds, self.turn, trial_id))

    def _report(self, trial_id: str) -> None:
        trial, timeline = self.sweep.trials[trial_id], self.timelines[trial_id]
        before = trial.at
        trial.at = upto = timeline.next_report(before, self.batch_seconds)
        trial.train_seconds += timeline.ends[upto] - timeline.ends[before]
        trial.evaluation_seconds += timeline.evaluation_seconds(before, upto)
        evaluations = timeline.shown.get(upto, ())
        decision = self.scheduler.observe(trial_id, timeline.steps[before:upto], evaluations)
        if decision is not None:
            self._carry_out(decision)
        if trial.state == "PAUSED":
            if self.pause_seconds:
                self._hold(self.pause_seconds, "")
        elif trial.state == "RUNNING":
            if upto < len(timeline.steps):
                self._go_on(trial_id, 0.0)
            elif trial.recorded.value is None:
                self._end(trial, "FAILED", "failed")
            else:
                self._end(trial, "COMPLETED", "completed")

    def _end(self, trial: SimulatedTrial, state: str, reason: str) -> None:
        trial.state, trial.reason = state, reason
        trial.ends += 1
        recorded = trial.recorded
        outcome = Outcome(state, reason, None)
        if state == "COMPLETED":
            outcome = Outcome(state, reason, recorded.value, recorded.also)
        for decision in self.scheduler.completed(recorded.info.id, outcome):
            self._carry_out(decision)

    def _carry_out(self, decision: Decision) -> None:
        self.sweep.decisions.append(decision)
        if not self.act:
            return
        trial = self.sweep.trials[decision.trial_id]
        if decision.action is Action.STOP:
            self._end(trial, "PRUNED", decision.code)
        elif decision.action is Action.PAUSE:
            trial.state = "PAUSED"
            trial.pauses += 1
            trial.switch_seconds += self.pause_seconds
