"""One sweep while it runs: what to start next, and what a report means.

A `Study` joins the sampler, the scheduler and the store. It knows neither Ray nor SQL: the driver
asks it for attempts to run and hands it their reports, and every answer is in the database before
it is given. It holds nothing that the database does not; a new one made from a sweep's rows goes
on where the old one was.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.account import Account
from orchestrator.earlier import settle_prior
from orchestrator.errors import Conflict
from orchestrator.live_trial import Control, LiveTrial
from orchestrator.objectives import Objectives
from orchestrator.plan import benchmarks, total_samples, trial_config
from orchestrator.schedulers import make_scheduler
from orchestrator.schedulers.base import Action, Decision, TrialInfo
from orchestrator.search.samplers import Told, make_proposer
from orchestrator.store import DriverTransaction, Lease, Store, SweepRows
from trainer.config import TrainConfig
from trainer.metrics import Batch
from winnow.spec import SweepSpec
from winnow.types import SweepState, TrialKind, TrialState

log = logging.getLogger(__name__)

MAX_INFRASTRUCTURE_RETRIES = 3
"""Attempts that a trial may lose to the machinery before it counts as failed."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to run now. `config` is a TrainConfig as JSON."""

    id: str
    trial_id: str
    number: int
    config: str
    resume_from: str | None


class Study:
    """Drives one sweep. Not thread-safe: one caller, the driver's loop."""

    def __init__(
        self, store: Store, lease: Lease, home: Path, *, checkpoint_seconds: float
    ) -> None:
        self._store = store
        self._lease = lease
        self._folder = home / "sweeps" / lease.sweep_id
        self._cache = home / "cache" / "tokens"
        self._checkpoint_seconds = checkpoint_seconds
        rows = store.sweep_rows(lease.sweep_id)
        self.spec = SweepSpec.model_validate(rows.spec)
        self._facts = rows.facts
        self._planned = rows.planned
        self._objectives = Objectives(self.spec.objective)
        self._proposer = make_proposer(self.spec.space, self.spec.search)
        prior = settle_prior(store, lease, rows, self.spec)
        self._scheduler = make_scheduler(self.spec.scheduler, self.spec.search.seed, prior)
        self._account = Account(self._scheduler)
        self._trials: dict[str, LiveTrial] = {}
        self._exhausted = False
        self._closing: Literal["no", "cancel", "fail", "shutdown"] = "no"
        self._fault = ""
        """Why the sweep is to fail."""
        self._asked: list[tuple[str, Control]] = []
        """Attempts that are to yield, not told to the driver yet."""
        self.finished = False
        self._rebuild(rows)

    # --- what the driver calls ---------------------------------------------------------------

    def next(self) -> Attempt | None:
        """An attempt to start in a free slot; None if there is nothing to start now.

        Order: the model before training, then interrupted trials, trials that the scheduler calls
        back, new ones. When nothing is left, ends the sweep and sets `finished`.
        """
        if self._closing != "no":
            self._close_if_idle()
            return None
        if not self.finished:
            # Asked again at the end: only then is it known that no new trials will come.
            back, new = self._called_back, self._proposed
            for choose in (self._baseline, self._interrupted, back, new, back):
                trial = choose()
                if trial is not None:
                    return self._start(trial)
            if not self._running():
                return self._wind_up()
        return None

    def report(self, attempt_id: str, batch: Batch) -> Control:
        """Store what an attempt did and decide what it does next."""
        trial = self._by_attempt(attempt_id)
        decision, acts = self._judge(trial, batch)
        if decision is not None and acts and decision.action in (Action.PAUSE, Action.STOP):
            self._intend(trial, decision)
        end = self._end_of(trial, batch)
        if decision is not None:
            self._account.touch()
        news = self._account.news()

        with self._store.guarded(self._lease) as tx:
            tx.record(trial.id, trial.attempt, batch)
            if decision is not None:
                tx.decide(decision, acted=acts)
            if news is not None:
                tx.keep_scheduler_summary(news)
            if end is not None:
                also = self._objectives.also(trial) if batch.status == "completed" else None
                tx.end_attempt(trial.id, trial.attempt, *end, also)
        self._note_checkpoints(trial, batch)
        if end is not None:
            self._ended(trial, *end)
            return "stop"
        return trial.intent[0] if trial.intent else "go"

    def lost(self, attempt_id: str, message: str) -> None:
        """The attempt's process is gone without a report."""
        self.report(
            attempt_id,
            Batch(status="failed", notes={"infrastructure": True, "message": message}),
        )

    def drain_commands(self) -> list[tuple[str, Control]]:
        """Carry out what users asked for; attempts that are to yield, and how."""
        asked, self._asked = self._asked, []
        if (news := self._account.news()) is not None:
            self._store.keep_scheduler_summary(self._lease, news)
        for command in self._store.pending_commands(self._lease.sweep_id):
            if command.kind == "cancel":
                self._closing = "cancel"
                asked += self._ask_all(
                    "stop", TrialState.CANCELED, "user", "the sweep was canceled"
                )
                self._store.finish_command(command.id, "canceling")
                continue
            trial = self._trials.get(command.trial_id or "")
            result = "the trial had ended already"
            if trial is not None and not trial.state.ended:
                asked += self._stop_for_user(trial)
                result = "stopping"
            self._store.finish_command(command.id, result)
        self._close_if_idle()
        return asked

    def shut_down(self) -> list[tuple[str, Control]]:
        """Leave the sweep as it is for a later driver: running trials checkpoint and yield."""
        self._closing = "shutdown"
        asked = self._ask_all("pause", TrialState.PENDING, "infrastructure", "winnow was stopped")
        self._close_if_idle()
        return asked

    # --- choosing what runs ------------------------------------------------------------------

    def _baseline(self) -> LiveTrial | None:
        if self._have("baseline"):
            return None
        return self._add("baseline", {}, model=None)

    def _interrupted(self) -> LiveTrial | None:
        waiting = [t for t in self._trials.values() if t.state is TrialState.PENDING]
        return min(waiting, key=lambda t: t.number, default=None)

    def _called_back(self) -> LiveTrial | None:
        if not any(t.state is TrialState.PAUSED or t.pausing for t in self._trials.values()):
            return None
        waiting = 0 if self._exhausted else max(0, self._planned - self._search_trials())
        decision = self._scheduler.next(waiting)
        if decision is None:
            return None
        self._store.decide(self._lease, decision, acted=True)
        trial = self._trials[decision.trial_id]
        if trial.state is TrialState.RUNNING:
            # It was set aside a moment ago and has not yielded yet: it starts again when it has.
            trial.intent = ("pause", TrialState.PENDING, "resumed", decision.reason)
            return None
        return trial

    def _proposed(self) -> LiveTrial | None:
        number = self._search_trials() + 1
        if self._exhausted or number > self._planned:
            return None
        params = self._proposer.ask(number, self._history())
        if params is None:
            self._exhausted = True
            return None
        return self._add("search", params, model=None)

    def _wind_up(self) -> Attempt | None:
        """Nothing runs and nothing is left to start: let go of paused trials, report the winner."""
        for decision in self._scheduler.finish():
            self._end_waiting(decision)
        left = [t for t in self._trials.values() if t.state is TrialState.PAUSED]
        for trial in left:  # paused for a reason that the scheduler has forgotten: not to be lost
            self._end_trial(trial, TrialState.PRUNED, "unfinished", "the sweep ended first")
        best = self._best()
        if best is not None and self._to_report() and not self._have("report"):
            export = self._store.get_trial(best.id).checkpoint
            if export is not None:
                return self._start(self._add("report", {"trial": best.id}, model=export))
        searched = [t for t in self._trials.values() if t.kind == "search"]
        if best is None and searched and all(t.state is TrialState.FAILED for t in searched):
            message = f"every trial failed; the first one: {searched[0].message}"
            self._finish(SweepState.FAILED, message)
        else:
            ended = any(t.state is TrialState.COMPLETED for t in searched)
            unmeasured = f"no trial has a value of {self.spec.objective.metric}"
            self._finish(SweepState.COMPLETED, unmeasured if best is None and ended else None)
        return None

    def _to_report(self) -> bool:
        """Whether the winner is to be measured once more, on what no other trial was."""
        benchmarked = any(benchmarks(self.spec).values())
        return bool(self.spec.data.test) or (benchmarked and self.spec.evaluation.trials != "all")

    # --- starting and ending -----------------------------------------------------------------

    def _add(self, kind: TrialKind, params: dict[str, Any], model: str | None) -> LiveTrial:
        number = len(self._trials)
        config = trial_config(
            self.spec,
            kind,
            params,
            output_dir=str(self._folder / f"trial-{number}"),
            cache_dir=str(self._cache),
            checkpoint_seconds=self._checkpoint_seconds,
            model=model,
        )
        total = int(config["max_samples"]) if kind != "search" else self._budget(config)
        if kind == "search":
            config["eval_at"] = list(self._scheduler.rungs(total))
        trial_id = self._store.add_trial(self._lease, number, kind, params, config, total)
        trial = LiveTrial(trial_id, number, kind, TrialState.PENDING, params, config, total)
        self._trials[trial_id] = trial
        if kind == "search":
            self._scheduler.add(TrialInfo(trial_id, number, params, total, self._planned))
        return trial

    def _budget(self, config: dict[str, Any]) -> int:
        return total_samples(TrainConfig.model_validate(config), self._facts)

    def _start(self, trial: LiveTrial) -> Attempt:
        number = self._store.start_attempt(self._lease, trial.id, trial.checkpoint)
        trial.attempt, trial.state, trial.intent = number, TrialState.RUNNING, None
        config = dict(trial.config)
        # A folder an attempt, so that a stale writer can't touch what a live one writes.
        config["output_dir"] = str(Path(config["output_dir"]) / f"attempt-{number}")
        text = TrainConfig.model_validate(config).model_dump_json()
        return Attempt(trial.attempt_id, trial.id, number, text, trial.checkpoint)

    def _judge(self, trial: LiveTrial, batch: Batch) -> tuple[Decision | None, bool]:
        """What the scheduler says of a report, and whether it is to be acted on."""
        trial.note(batch.evaluations)
        if trial.kind != "search" or not (batch.steps or batch.evaluations):
            return None, False
        decision = self._scheduler.observe(trial.id, batch.steps, batch.evaluations)
        leaving = trial.intent is not None and trial.intent[1] is not TrialState.PENDING
        acts = (
            decision is not None
            and self.spec.scheduler.mode == "act"
            and batch.status != "completed"
            and not leaving
        )
        return decision, acts

    def _end_of(
        self, trial: LiveTrial, batch: Batch
    ) -> tuple[TrialState, str | None, str | None, float | None] | None:
        """The state that a report ends the attempt in: (state, reason, message, value), or None."""
        if batch.status == "running":
            return None
        if batch.status == "completed":
            value = self._objectives.value(trial)
            missing = f"{self.spec.objective.metric} was not measured, or not finite"
            why = missing if value is None and trial.kind == "search" else None
            return TrialState.COMPLETED, None, why, value
        if batch.status == "yielded":
            if trial.intent is None:
                return TrialState.PENDING, "infrastructure", "yielded without being asked", None
            _, state, reason, message = trial.intent
            return state, reason, message, None
        return self._failed(trial, batch)

    def _failed(self, trial: LiveTrial, batch: Batch) -> tuple[TrialState, str, str, None]:
        if trial.intent is not None and trial.intent[1].ended:
            _, state, reason, message = trial.intent  # it was to end anyway
            return state, reason, message, None
        failure = batch.failure
        message = failure.message if failure else str(batch.notes.get("message", "it failed"))
        if batch.notes.get("infrastructure"):
            trial.lost += 1
            if trial.lost <= MAX_INFRASTRUCTURE_RETRIES:
                return TrialState.PENDING, "infrastructure", message, None
            return TrialState.FAILED, "infrastructure", f"{message} ({trial.lost} times)", None
        code = failure.code if failure else "error"
        if code == "diverged":
            return TrialState.PRUNED, "diverged", message, None
        if failure is not None and failure.detail:
            log.warning("trial %s failed: %s\n%s", trial.id, message, failure.detail)
        return TrialState.FAILED, code, message, None

    def _ended(
        self,
        trial: LiveTrial,
        state: TrialState,
        reason: str | None,
        message: str | None,
        value: float | None,
    ) -> None:
        lost_while_pausing = state is TrialState.PENDING and trial.pausing
        trial.state, trial.reason, trial.message = state, reason, message
        trial.value, trial.intent = value, None
        if state is TrialState.COMPLETED:
            trial.also = self._objectives.also(trial)
        if lost_while_pausing:
            trial.state = TrialState.PAUSED  # PENDING in its row; it waits to be called back
        if state.ended:
            self._drop_state_checkpoints(trial)
            if trial.kind == "search":
                self._tell_scheduler(trial)
            elif trial.kind == "baseline":
                self._look_for_objective(trial)
        self._close_if_idle()

    def _look_for_objective(self, baseline: LiveTrial) -> None:
        """End the sweep at once if its benchmark has run but lacks the figure it is to be judged
        by: only running it tells the names."""
        if baseline.state is not TrialState.COMPLETED or self._closing != "no":
            return
        for name, metric in self._objectives.metrics:
            there = baseline.figures(metric)
            if not there or baseline.measured(metric) is not None:
                continue
            field = "metric" if name == self._objectives.name else "also"
            self._fault = f"objective.{field}: {name} isn't there; measured: {', '.join(there)}"
            self._closing = "fail"
            self._asked += self._ask_all("stop", TrialState.CANCELED, "sweep", self._fault)
            return

    def _tell_scheduler(self, trial: LiveTrial) -> None:
        self._account.touch()
        outcome = self._objectives.outcome(trial)
        for decision in self._scheduler.completed(trial.id, outcome):
            self._end_waiting(decision)

    def _end_waiting(self, decision: Decision) -> None:
        """Carry out a decision about a trial that is not running."""
        trial = self._trials[decision.trial_id]
        stops = decision.action is Action.STOP and trial.state is TrialState.PAUSED
        acts = stops and self.spec.scheduler.mode == "act"
        self._store.decide(self._lease, decision, acted=acts)
        if acts:
            self._end_trial(trial, TrialState.PRUNED, decision.code, decision.reason)

    def _end_trial(self, trial: LiveTrial, state: TrialState, reason: str, message: str) -> None:
        self._store.end_trial(self._lease, trial.id, state, reason, message)
        self._ended(trial, state, reason, message, None)

    def _intend(self, trial: LiveTrial, decision: Decision) -> None:
        if decision.action is Action.PAUSE:
            trial.intent = ("pause", TrialState.PAUSED, decision.code, decision.reason)
        else:
            trial.intent = ("stop", TrialState.PRUNED, decision.code, decision.reason)

    def _stop_for_user(self, trial: LiveTrial) -> list[tuple[str, Control]]:
        message = "stopped on request"
        if trial.state is TrialState.RUNNING:
            trial.intent = ("stop", TrialState.CANCELED, "user", message)
            return [(trial.attempt_id, "stop")]
        self._end_trial(trial, TrialState.CANCELED, "user", message)
        return []

    def _ask_all(
        self, control: Control, state: TrialState, reason: str, message: str
    ) -> list[tuple[str, Control]]:
        asked: list[tuple[str, Control]] = []
        for trial in self._running():
            if trial.intent is None or trial.intent[0] == "pause":
                trial.intent = (control, state, reason, message)
            asked.append((trial.attempt_id, control))
        return asked

    def _close_if_idle(self) -> None:
        if self.finished or self._closing == "no" or self._running():
            return
        if self._closing == "shutdown":
            self.finished = True
            return
        if self._closing == "fail":
            self._finish(SweepState.FAILED, self._fault)
        else:
            self._finish(SweepState.CANCELED, "canceled on request")

    def _finish(self, state: SweepState, message: str | None) -> None:
        news = self._account.news(last=True)

        def end(tx: DriverTransaction) -> None:
            if news is not None:
                tx.keep_scheduler_summary(news)
            tx.end_sweep(state, message)

        self._store.write(self._lease, end)
        self.finished = True

    # --- memory ------------------------------------------------------------------------------

    def _rebuild(self, rows: SweepRows) -> None:
        """Take over from an earlier driver, whose trials the lease has put back to PENDING.

        The order in which the scheduler is fed doesn't matter to it. A decision that comes out of
        this was due when the earlier driver died, and is carried out now.
        """
        for row in rows.trials:
            trial = LiveTrial.of(row)
            self._trials[trial.id] = trial
            if trial.kind == "search":
                self._scheduler.add(
                    TrialInfo(
                        trial.id, trial.number, trial.params, trial.total_samples, self._planned
                    )
                )
        acted: dict[str, Decision] = {}
        for stored in rows.decisions:
            self._scheduler.replay(stored.decision)
            if stored.acted:
                acted[stored.decision.trial_id] = stored.decision
        search = [row for row in rows.trials if row.kind == "search"]
        for row in search:
            if row.state.ended:
                self._tell_scheduler(self._trials[row.id])
        for row in search:
            decision = self._scheduler.observe(row.id, row.steps, row.evaluations)
            if decision is not None and not row.state.ended:
                acts = self.spec.scheduler.mode == "act"
                self._store.decide(self._lease, decision, acted=acts)
                if acts:
                    acted[row.id] = decision
        for trial in self._trials.values():
            if not trial.state.ended and trial.id in acted:
                self._carry_out(trial, acted[trial.id])
            if trial.kind == "baseline":
                self._look_for_objective(trial)

    def _carry_out(self, trial: LiveTrial, decision: Decision) -> None:
        """Do what was decided about a trial before its driver could do it."""
        if decision.action is Action.STOP:
            self._end_trial(trial, TrialState.PRUNED, decision.code, decision.reason)
        elif decision.action is Action.PAUSE:
            trial.state = TrialState.PAUSED  # maybe PENDING in its row; it waits to be called back
        elif decision.action is Action.RESUME:
            trial.state = TrialState.PENDING  # maybe PAUSED in its row; it is to run again

    def _history(self) -> list[Told]:
        """All search trials so far, as the sampler wants them: lower is better."""
        sign = self._objectives.sign
        return [t.told(sign) for t in self._trials.values() if t.kind == "search"]

    def _have(self, kind: TrialKind) -> bool:
        return any(t.kind == kind for t in self._trials.values())

    def _running(self) -> list[LiveTrial]:
        return [t for t in self._trials.values() if t.state is TrialState.RUNNING]

    def _search_trials(self) -> int:
        return sum(t.kind == "search" for t in self._trials.values())

    def _by_attempt(self, attempt_id: str) -> LiveTrial:
        trial = self._trials[attempt_id.rsplit("-a", 1)[0]]
        if trial.attempt_id != attempt_id:
            raise Conflict(f"{attempt_id} reports, but {trial.attempt_id} is the live attempt")
        return trial

    def _best(self) -> LiveTrial | None:
        done = [
            t
            for t in self._trials.values()
            if t.kind == "search" and t.state is TrialState.COMPLETED and t.value is not None
        ]
        sign = self._objectives.sign
        return min(done, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)

    def _note_checkpoints(self, trial: LiveTrial, batch: Batch) -> None:
        for checkpoint in batch.checkpoints:
            if checkpoint.kind == "state":
                trial.checkpoint = checkpoint.path

    def _drop_state_checkpoints(self, trial: LiveTrial) -> None:
        """Free the disk of what an ended trial would have resumed from; exports stay."""
        for folder in (self._folder / f"trial-{trial.number}").glob("attempt-*/checkpoints"):
            shutil.rmtree(folder, ignore_errors=True)
