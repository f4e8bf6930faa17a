"""A finished sweep under another scheduler: what it would have saved, and what it would have lost.

The scheduler is the one that a driver would use, fed with the sweep's stored records by the
simulator. Trials start in the order in which they were proposed. What a trial did after the point
at which it was ended early isn't known, so a trial that the replayed rule would let run on past it
is reported as unknown and left out of all shares.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from orchestrator.analysis import expected_best, pareto_front
from orchestrator.errors import Conflict
from orchestrator.hindsight.earlier import prior_for_replay
from orchestrator.hindsight.recorded import StoredTrial, stored_trials
from orchestrator.objectives import Objectives
from orchestrator.schedulers import make_scheduler
from orchestrator.schedulers.base import Action, Decision, Outcome, Scheduler, TrialInfo
from orchestrator.schedulers.simulate import SimulatedSweep, SimulatedTrial, simulate
from orchestrator.store import Store, SweepRows
from trainer.metrics import Evaluation, StepRecord
from winnow.replays import Fate, RandomChoice, Replay, ReplayedTrial
from winnow.spec import SCHEDULER_FIELDS, ReplayRequest, SchedulerSpec, SweepSpec

LEAST_COMPLETED = 2
REPORTS_A_TRIAL = 200
"""A driver hears of a trial every second; in a replay of hours that would only cost time."""


def replay_sweep(store: Store, sweep_id: str, request: ReplayRequest) -> Replay:
    """Replay a stored sweep. Takes seconds.

    Raises NotFound, or Conflict if the sweep has not ended or has too little in it.
    """
    state = store.get_sweep(sweep_id).state
    if not state.ended:
        raise Conflict(
            f"Sweep {sweep_id} is {state}. Only an ended sweep can be replayed: how its trials end "
            "isn't known before."
        )
    rows = store.sweep_rows(sweep_id)
    spec = SweepSpec.model_validate(rows.spec)
    scheduler = with_own_rungs(request.scheduler, spec.scheduler)
    seed = spec.search.seed if request.seed is None else request.seed
    workers = request.workers or spec.resources.max_concurrent or store.most_at_once(sweep_id)
    trials = stored_trials(rows, Objectives(spec.objective))
    completed = sum(t.recorded.value is not None for t in trials)
    if completed < LEAST_COMPLETED:
        raise Conflict(
            f"Sweep {sweep_id} can't be replayed: "
            + (f"only {completed} of its trials" if completed else "none of its trials")
            + " ran to the end with a value, and what a rule loses can't be told from fewer than "
            f"{LEAST_COMPLETED}."
        )
    prior = prior_for_replay(store, rows, scheduler)
    return replay(
        trials,
        make_scheduler(scheduler, seed, prior),
        scheduler,
        sweep=spec,
        sweep_id=sweep_id,
        seed=seed,
        workers=max(1, min(workers, len(trials))),
        pause_seconds=_pause_seconds(rows),
    )


def replay(
    trials: Sequence[StoredTrial],
    scheduler: Scheduler,
    spec: SchedulerSpec,
    *,
    sweep: SweepSpec,
    sweep_id: str,
    seed: int,
    workers: int,
    pause_seconds: float = 0.0,
) -> Replay:
    """Drive a fresh `scheduler`, made from `spec`, by the trials' records. Pure."""
    typical = median(sum(s.seconds for s in t.recorded.steps) for t in trials)
    played = simulate(
        _Truthful(scheduler, trials),
        [t.recorded for t in trials],
        workers=workers,
        batch_seconds=max(1.0, typical / REPORTS_A_TRIAL),
        pause_seconds=pause_seconds,
    )
    fates: dict[str, Fate] = {t.id: _fate(t, played.trials[t.id]) for t in trials}
    cost = _cost(trials, played, fates)
    sign = -1.0 if sweep.objective.mode == "max" else 1.0
    best = _best(trials)
    chosen = _best([t for t in trials if fates[t.id] == "kept"])
    regret = None if chosen is None or best is None else _value(chosen) - _value(best)
    assert best is not None, "the caller counts completed trials"
    front = _front(trials) if sweep.objective.also else []
    resources = sweep.resources
    devices = resources.gpus_per_trial or resources.ranks * resources.cpus_per_worker
    hours = devices / 3600
    fully = [_full_seconds(t) for t in trials]
    return Replay(
        sweep_id=sweep_id,
        scheduler=_as_read(spec),
        seed=seed,
        workers=workers,
        metric=sweep.objective.metric,
        mode=sweep.objective.mode or "min",
        trials=len(trials),
        completed=sum(t.recorded.value is not None for t in trials),
        censored=sum(t.ending == "censored" for t in trials),
        stopped=sum(fate == "stopped" for fate in fates.values()),
        unknown=sum(fate == "unknown" for fate in fates.values()),
        samples_trained=cost.samples,
        samples_full=cost.samples_full,
        seconds=cost.seconds,
        seconds_full=cost.seconds_full,
        saved=1.0 - cost.used,
        saved_at_least=cost.saved_at_least,
        device="GPU" if resources.gpus_per_trial else "CPU",
        device_hours=cost.seconds * hours,
        device_hours_full=cost.seconds_full * hours,
        wall_seconds=played.seconds,
        wall_seconds_full=_makespan(fully, workers),
        best_trial=best.id,
        best_value=sign * _value(best),
        best_kept=regret == 0,
        chosen_trial=None if chosen is None else chosen.id,
        chosen_value=None if chosen is None else sign * _value(chosen),
        regret=regret,
        front=front,
        front_kept=[trial_id for trial_id in front if fates[trial_id] == "kept"],
        random=_random(trials, cost.used, sign, best),
        notes=_notes(trials, fates, spec, sweep),
        outcomes=[_outcome(t, played, fates[t.id], sign) for t in trials],
    )


def with_own_rungs(asked: SchedulerSpec, recorded: SchedulerSpec) -> SchedulerSpec:
    """The scheduler that was asked for, at the sweep's own rungs unless others were given."""
    if "rungs" in asked.model_fields_set or "rungs" not in SCHEDULER_FIELDS[asked.name]:
        return asked
    return asked.model_copy(update={"rungs": recorded.rungs})


class _Truthful:
    """A scheduler that hears how trials really ended: the simulator knows an end without a value
    only as a failure."""

    def __init__(self, scheduler: Scheduler, trials: Sequence[StoredTrial]) -> None:
        self.name = scheduler.name
        self._scheduler = scheduler
        self._trials = {t.id: t for t in trials}

    def rungs(self, total_samples: int) -> tuple[int, ...]:
        return self._scheduler.rungs(total_samples)

    def add(self, trial: TrialInfo) -> None:
        self._scheduler.add(trial)

    def observe(
        self, trial_id: str, steps: Sequence[StepRecord], evaluations: Sequence[Evaluation]
    ) -> Decision | None:
        return self._scheduler.observe(trial_id, steps, evaluations)

    def completed(self, trial_id: str, outcome: Outcome) -> list[Decision]:
        trial = self._trials[trial_id]
        if outcome.state != "PRUNED":  # It came to the end of its records.
            outcome = trial.outcome
            if trial.ending == "censored":
                nothing = (None,) * len(outcome.also)
                outcome = Outcome("CANCELED", "censored", None, nothing)
        return self._scheduler.completed(trial_id, outcome)

    def next(self, waiting: int) -> Decision | None:
        return self._scheduler.next(waiting)

    def finish(self) -> list[Decision]:
        return self._scheduler.finish()

    def pin(self, trial_id: str, pinned: bool) -> None:
        self._scheduler.pin(trial_id, pinned)

    def replay(self, decision: Decision) -> None:
        self._scheduler.replay(decision)


def _fate(trial: StoredTrial, played: SimulatedTrial) -> Fate:
    if played.state in ("PRUNED", "PAUSED"):
        return "stopped"
    if trial.ending == "completed":
        return "kept"
    return "failed" if trial.ending == "failed" else "unknown"


# --- what it costs ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cost:
    """Of the trials whose fate is known; `seconds_unknown` is what the others take, run whole."""

    samples: int
    samples_full: int
    seconds: float
    seconds_full: float
    seconds_unknown: float

    @property
    def used(self) -> float:
        """Share of the full sweep that it takes; of its samples, if nobody told seconds."""
        if self.seconds_full > 0:
            return self.seconds / self.seconds_full
        return self.samples / self.samples_full if self.samples_full else 1.0

    @property
    def saved_at_least(self) -> float:
        """With all of the others run to their end."""
        if not self.seconds_unknown:
            return 1.0 - self.used
        whole = self.seconds_full + self.seconds_unknown
        return (self.seconds_full - self.seconds) / whole


def _cost(trials: Sequence[StoredTrial], played: SimulatedSweep, fates: dict[str, Fate]) -> _Cost:
    known = [t for t in trials if fates[t.id] != "unknown"]
    return _Cost(
        samples=sum(played.trials[t.id].samples for t in known),
        samples_full=sum(_full_samples(t) for t in known),
        # To the microsecond: added up in another order, equal times are not quite equal.
        seconds=round(math.fsum(played.trials[t.id].seconds for t in known), 6),
        seconds_full=round(math.fsum(_full_seconds(t) for t in known), 6),
        seconds_unknown=math.fsum(_full_seconds(t) for t in trials if fates[t.id] == "unknown"),
    )


def _full_samples(trial: StoredTrial) -> int:
    """Samples of the trial run to its end: where it failed, or its budget."""
    last = trial.recorded.steps[-1].samples
    return max(last, trial.recorded.info.total_samples) if trial.ending == "censored" else last


def _full_seconds(trial: StoredTrial) -> float:
    """Worker time of the trial run to its end, measured at its end only; the part that a censored
    trial left out is taken at its own pace."""
    steps = trial.recorded.steps
    last = steps[-1].samples
    trained = math.fsum(s.seconds for s in steps)
    if trial.ending == "censored":
        return trained * _full_samples(trial) / last if last else trained
    return trained + math.fsum(
        e.seconds for e in trial.recorded.evaluations if e.samples >= last and e.split != "test"
    )


def _makespan(seconds: Sequence[float], workers: int) -> float:
    """Wall time of jobs that start in their order, each in the slot that is free first."""
    free = [0.0] * workers
    for job in seconds:
        heapq.heappush(free, heapq.heappop(free) + job)
    return max(free)


def _pause_seconds(rows: SweepRows) -> float:
    """What a checkpoint to resume from took in this sweep, typically; 0 if none was written."""
    taken = [c.seconds for t in rows.trials for c in t.checkpoints]
    return median(taken) if taken else 0.0


# --- what it loses ------------------------------------------------------------------------------


def _value(trial: StoredTrial) -> float:
    assert trial.recorded.value is not None
    return trial.recorded.value


def _best(trials: Sequence[StoredTrial]) -> StoredTrial | None:
    """The one with the lowest value, the first of equal ones."""
    valued = [t for t in trials if t.recorded.value is not None]
    return min(valued, key=_value, default=None)


def _front(trials: Sequence[StoredTrial]) -> list[str]:
    """The completed trials that no other beats in all objectives."""
    return pareto_front(
        {t.id: (t.recorded.value, *t.recorded.also) for t in trials if t.recorded.value is not None}
    )


def _random(
    trials: Sequence[StoredTrial], used: float, sign: float, best: StoredTrial
) -> RandomChoice:
    """Random search among the trials whose end is known, with the same share of the compute."""
    known = [t for t in trials if t.ending != "censored"]
    count = min(float(len(known)), max(1.0, used * len(known)))
    values = [t.recorded.value for t in known]
    expected = expected_best(values, count)
    return RandomChoice(
        trials=count,
        best_kept=count / len(known),
        value=None if expected is None else sign * expected,
        regret=None if expected is None else max(0.0, expected - _value(best)),
    )


def _outcome(trial: StoredTrial, played: SimulatedSweep, fate: Fate, sign: float) -> ReplayedTrial:
    info, value = trial.recorded.info, trial.recorded.value
    ending = next(
        (
            d
            for d in reversed(played.decisions)
            if d.trial_id == info.id and d.action in (Action.STOP, Action.PAUSE)
        ),
        None,
    )
    if fate != "stopped":
        ending = None
    return ReplayedTrial(
        trial_id=info.id,
        number=info.number,
        fate=fate,
        censored=trial.ending == "censored",
        samples=played.trials[info.id].samples,
        recorded_samples=trial.recorded.steps[-1].samples,
        total_samples=info.total_samples,
        value=None if value is None else sign * value,
        rule=None if ending is None else ending.rule,
        reason=None if ending is None else ending.reason,
    )


# --- what has to be known -----------------------------------------------------------------------


def _notes(
    trials: Sequence[StoredTrial],
    fates: dict[str, Fate],
    spec: SchedulerSpec,
    sweep: SweepSpec,
) -> list[str]:
    notes: list[str] = []
    censored = sum(t.ending == "censored" for t in trials)
    unknown = sum(fate == "unknown" for fate in fates.values())
    if censored:
        notes.append(
            f"{censored} of {len(trials)} trials were ended early when the sweep ran, so how they "
            "would have ended isn't known: one of them may have been better than the best that "
            "is, and random picks are made among the others, most of them good ones"
        )
    if unknown:
        notes.append(
            f"{unknown} of them would run on under this rule, past what was recorded: they are "
            "left out of what is saved, and count as run to their end in what is saved at least"
        )
    notes += _unmeasured(trials, spec)
    if sweep.search.sampler == "tpe":
        notes.append(
            "the same configurations in the same order: the sampler (tpe) learns from trials that "
            "ended, and under another rule it might have proposed others"
        )
    return notes


def _unmeasured(trials: Sequence[StoredTrial], spec: SchedulerSpec) -> list[str]:
    """A note for each rung that trials passed without an evaluation that counts for it."""
    if spec.name in ("none", "one-epoch", "paper-sign"):
        return []  # These measure at rungs, but judge at none.
    notes: list[str] = []
    for rung, following in zip(spec.rungs, (*spec.rungs[1:], 1.0), strict=True):
        passed = missing = 0
        for trial in trials:
            total = trial.recorded.info.total_samples
            low, high = (max(1, math.ceil(part * total - 1e-9)) for part in (rung, following))
            if trial.recorded.steps[-1].samples < high:
                continue
            passed += 1
            missing += not any(
                e.split == "eval" and low <= e.samples < high for e in trial.recorded.evaluations
            )
        if missing:
            notes.append(
                f"no held-out loss was measured between {rung:.3g} and {following:.3g} of the "
                f"budget in {missing} of {passed} trials: the rung at {rung:.3g} doesn't judge them"
            )
    return notes


def _as_read(spec: SchedulerSpec) -> dict[str, Any]:
    """The fields that this scheduler reads."""
    return spec.model_dump(mode="json", include={"name", *SCHEDULER_FIELDS[spec.name]})
