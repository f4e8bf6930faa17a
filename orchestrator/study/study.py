"""One sweep while it runs: what to start next, and what a report means.

A `Study` joins the sampler, the scheduler and the store. It knows neither Ray nor SQL: the driver
asks it for attempts to run and hands it their reports, and every answer is in the database before
it is given. It holds nothing that the database does not; a new one made from a sweep's rows goes
on where the old one was.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

from orchestrator.errors import Conflict
from orchestrator.live_trial import Control, LiveTrial
from orchestrator.plan import benchmarks
from orchestrator.schedulers.base import Action, Decision
from orchestrator.store import Desk, DriverTransaction, Lease, Store
from orchestrator.study.disk import Disk
from orchestrator.study.failures import Verdict, after_failure
from orchestrator.study.ledger import Attempt, Change, Ledger
from orchestrator.study.reuse import Reuse
from orchestrator.study.slots import Slots
from orchestrator.study.spending import Purse
from orchestrator.study.wishes import Wishes
from trainer.config import ANYWHERE, Roots
from trainer.metrics import Batch, Failure
from winnow.types import SweepState, TrialState

log = logging.getLogger(__name__)

Closing = Literal["no", "cancel", "fail", "pause", "budget", "shutdown"]


class Study:
    """Drives one sweep. Not thread-safe: one caller at a time.

    Its writes wait for the database if that is away; `patience` is how many seconds, None for
    ever. Raises LeaseLost when another driver has the sweep.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        home: Path,
        *,
        checkpoint_seconds: float,
        slots: int | None = None,
        patience: float | None = None,
        roots: Roots = ANYWHERE,
    ) -> None:
        self._ledger = Ledger(
            store,
            lease,
            home,
            checkpoint_seconds=checkpoint_seconds,
            patience=patience,
            roots=roots,
        )
        self.spec = self._ledger.spec
        self._slots = Slots(self._ledger, slots)
        self._exhausted = False
        self._closing: Closing = "no"
        self._message = ""
        """Why the sweep is closing, for its readers."""
        self._asked: list[tuple[str, Control]] = []
        """Attempts that are to yield, not told to the driver yet."""
        self.finished = False
        self._wishes = Wishes(self._ledger, self)
        self._purse = Purse(self._ledger)
        self._reuse = Reuse(self._ledger)
        self._disk = Disk(self._ledger)
        for trial, decision in self._ledger.rebuild():
            self._carry_out(trial, decision)
        for trial in list(self._ledger.trials.values()):
            if trial.kind == "baseline":
                self._look_for_objective(trial)
        self._disk.tidy(now=True, everything=True)

    @property
    def database_is_away(self) -> bool:
        """Whether the database did not answer when it was last asked."""
        return self._ledger.writer.away

    @property
    def slots(self) -> int | None:
        """How many trials the cluster grants it at once; None where nobody has said."""
        return self._slots.granted

    # --- what the driver calls ---------------------------------------------------------------

    def next(self) -> Attempt | None:
        """An attempt to start in a free slot; None if there is nothing to start now.

        Order: the model before training, then interrupted trials, trials that the scheduler calls
        back, new ones. When nothing is left, ends the sweep and sets `finished`.
        """
        if self._closing != "no":
            self._close_if_idle()
            return None
        if self.finished or self._slots.full():
            return None
        # Asked again at the end: only then is it known that no new trials will come.
        back, new = self._called_back, self._proposed
        for choose in (self._baseline, self._interrupted, back, new, back):
            attempt = choose()
            if attempt is not None:
                return attempt
        if not self._ledger.running():
            return self._wind_up()
        return None

    def report(self, attempt_id: str, batch: Batch) -> Control:
        """Store what an attempt did and decide what it does next."""
        trial = self._ledger.live(attempt_id)
        if trial is None:
            log.warning("attempt %s reports, but it isn't the live one of its trial", attempt_id)
            return "stop"
        trial.take(batch)
        self._ledger.prices.learn(
            (c.bytes, c.seconds) for c in batch.checkpoints if c.kind == "state"
        )
        decision, acts = self._judge(trial, batch)
        if decision is not None and acts and decision.action in (Action.PAUSE, Action.STOP):
            self._intend(trial, decision)
        verdict = self._end_of(trial, batch)
        if decision is not None:
            self._ledger.account.touch()
        news = self._ledger.account.news()
        completed = verdict is not None and verdict.state is TrialState.COMPLETED
        value = self._ledger.objectives.value(trial) if completed else None

        def write(tx: DriverTransaction) -> None:
            tx.record(trial.id, trial.attempt, batch)
            if decision is not None:
                tx.decide(decision, acted=acts)
            if news is not None:
                tx.keep_scheduler_summary(news)

        end = None if verdict is None else self._ledger.ending_attempt(trial, verdict, value)
        settled = self._wishes.settled_by(trial) if verdict is not None else None
        try:
            self._ledger.commit(Change(write), end, settled)
        except Conflict as error:
            return self._refuse(trial, error)
        if verdict is not None:
            self.trial_ended(trial)
            return "stop"
        return trial.intent[0] if trial.intent else "go"

    def lost(self, attempt_id: str, message: str) -> None:
        """The attempt's process is gone without a report."""
        self.report(
            attempt_id,
            Batch(status="failed", notes={"infrastructure": True, "message": message}),
        )

    def drain_commands(self) -> list[tuple[str, Control]]:
        """Look at the desk: carry out what users asked for, keep within the slots and the budget.

        Returns the attempts that are to yield, and how.
        """
        ledger = self._ledger
        asked, self._asked = self._asked, []
        if (news := ledger.account.news()) is not None:
            ledger.commit(Change(lambda tx: tx.keep_scheduler_summary(news)))
        desk: Desk = ledger.writer.read(lambda: ledger.store.desk(ledger.lease.sweep_id))
        if desk.slots is not None:
            self._slots.granted = desk.slots
        asked += self._wishes.carry_out(desk.commands)
        asked += self._keep_within_slots()
        if self._closing == "no" and (reason := self._purse.look()) is not None:
            asked += self.close("budget", reason)
        asked += self._asked
        self._asked = []
        self._wishes.explain_waiting(self._waiting_for())
        self._disk.tidy()
        self._close_if_idle()
        return asked

    def shut_down(self) -> list[tuple[str, Control]]:
        """Leave the sweep as it is for a later driver: running trials checkpoint and yield."""
        return self.close("shutdown", "winnow was stopped")

    # --- what wishes do to the whole sweep ---------------------------------------------------

    def close(self, how: Closing, message: str) -> list[tuple[str, Control]]:
        """End, pause or leave the sweep as soon as its attempts have yielded; these."""
        self._closing, self._message = how, message
        asked: list[tuple[str, Control]] = []
        keep = self._ledger.best_unfinished() if how == "budget" else None
        for trial in self._ledger.running():
            if how in ("shutdown", "pause"):
                reason = "stopped" if how == "shutdown" else "paused"
                control, text = self.pause_control(trial, message)
                intent = (control, TrialState.PENDING, reason, text)
            else:
                reason = {"cancel": "user", "fail": "sweep", "budget": "budget"}[how]
                control = "pause" if trial is keep else "stop"
                intent = (control, TrialState.CANCELED, reason, message)
            if trial.intent is None or not trial.intent[1].ended:
                trial.intent = intent
            asked.append((trial.attempt_id, trial.intent[0]))
        self._close_if_idle()
        return asked

    def reopen(self) -> None:
        """There is more to do, after all."""
        self._exhausted = False

    # --- choosing what runs ------------------------------------------------------------------

    def _baseline(self) -> Attempt | None:
        if any(t.kind == "baseline" for t in self._ledger.trials.values()):
            return None
        trial = self._ledger.new("baseline", {})
        return self._ledger.start(trial, self._ledger.adding(trial))

    def _interrupted(self) -> Attempt | None:
        waiting = self._ledger.of(TrialState.PENDING)
        if not waiting:
            return None
        return self._ledger.start(min(waiting, key=lambda t: (not t.pinned, t.number)))

    def _called_back(self) -> Attempt | None:
        ledger = self._ledger
        if not any(t.state is TrialState.PAUSED or t.pausing for t in ledger.trials.values()):
            return None
        waiting = 0 if self._exhausted else max(0, ledger.planned - len(ledger.searched()))
        decision = ledger.scheduler.next(waiting)
        if decision is None:
            return None
        trial = ledger.trials[decision.trial_id]
        deciding = ledger.deciding(decision, acted=True)
        if trial.state is TrialState.RUNNING:
            # It was set aside a moment ago and has not yielded yet: it starts again when it has.
            ledger.commit(deciding)
            trial.intent = ("pause", TrialState.PENDING, "resumed", decision.reason)
            return None
        if trial.waits_for_user or trial.state.ended:
            ledger.commit(deciding)  # somebody was faster; the scheduler may have it its way later
            return None
        return ledger.start(trial, deciding)

    def _proposed(self) -> Attempt | None:
        ledger = self._ledger
        while not self._exhausted and len(ledger.searched()) < ledger.planned:
            if (why := self._purse.no_more_trials()) is not None:
                self._exhausted, self._message = True, why
                break
            params = ledger.proposer.ask(len(ledger.searched()) + 1, ledger.history())
            if params is None:
                self._exhausted = True
                break
            trial = ledger.new("search", params)
            if not self._reuse.take_over(trial):
                return ledger.start(trial, ledger.adding(trial))
            self._tell_scheduler(trial)
        return None

    def _wind_up(self) -> Attempt | None:
        """Nothing runs and nothing is left to start: let go of paused trials, report the winner."""
        ledger = self._ledger
        for decision in ledger.scheduler.finish():
            self._end_waiting(decision)
        for trial in ledger.of(TrialState.PAUSED):
            if not trial.waits_for_user:  # the scheduler has forgotten it: not to be lost
                self._end(trial, TrialState.PRUNED, "unfinished", "the sweep ended first")
        if held := [str(t.number) for t in ledger.of(TrialState.PAUSED)]:
            which = f"trial {held[0]} is" if len(held) == 1 else f"trials {', '.join(held)} are"
            self._closing, self._message = "pause", f"{which} paused by a user; resume or stop"
            self._close_if_idle()
            return None
        best = ledger.best()
        if best is not None and self._to_report(best):
            export = ledger.writer.read(lambda: ledger.store.get_trial(best.id)).checkpoint
            if export is not None:
                trial = ledger.new("report", {"trial": best.id}, model=export)
                return ledger.start(trial, ledger.adding(trial))
        searched = ledger.searched()
        if best is None and searched and all(t.state is TrialState.FAILED for t in searched):
            message = f"every trial failed; the first one: {searched[0].message}"
            self._finish(SweepState.FAILED, message)
        else:
            ended = any(t.state is TrialState.COMPLETED for t in searched)
            unmeasured = f"no trial has a value of {self.spec.objective.metric}"
            self._finish(
                SweepState.COMPLETED,
                unmeasured if best is None and ended else self._message or None,
            )
        return None

    def _to_report(self, best: LiveTrial) -> bool:
        """Whether the winner is to be measured once more, on what no other trial was."""
        reports = [t for t in self._ledger.trials.values() if t.kind == "report"]
        if any(t.params.get("trial") == best.id for t in reports):
            return False
        benchmarked = any(benchmarks(self.spec).values())
        return bool(self.spec.data.test) or (benchmarked and self.spec.evaluation.trials != "all")

    # --- keeping within what is granted ------------------------------------------------------

    def _waiting_for(self) -> str:
        """What a trial that could run waits for, as a sentence."""
        return "the sweep is paused" if self._closing == "pause" else self._slots.waiting_for()

    def _keep_within_slots(self) -> list[tuple[str, Control]]:
        """Preempt what there is no slot for any more."""
        if self._closing != "no":
            return []
        if self.slots == 0:
            return self.close("shutdown", "its slots went to other sweeps")
        asked: list[tuple[str, Control]] = []
        for trial, why in self._slots.to_yield():
            control, text = self.pause_control(trial, why)
            trial.intent = (control, TrialState.PENDING, "preempted", text)
            asked.append((trial.attempt_id, control))
        return asked

    # --- judging and ending ------------------------------------------------------------------

    def _judge(self, trial: LiveTrial, batch: Batch) -> tuple[Decision | None, bool]:
        """What the scheduler says of a report, and whether it is to be acted on."""
        if trial.kind != "search" or not (batch.steps or batch.evaluations):
            return None, False
        decision = self._ledger.scheduler.observe(trial.id, batch.steps, batch.evaluations)
        leaving = trial.intent is not None and trial.intent[1] is not TrialState.PENDING
        acts = (
            decision is not None
            and self.spec.scheduler.mode == "act"
            and batch.status != "completed"
            and not leaving
        )
        return decision, acts

    def _intend(self, trial: LiveTrial, decision: Decision) -> None:
        if decision.action is Action.PAUSE:
            control, reason = self.pause_control(trial, decision.reason)
            trial.intent = (control, TrialState.PAUSED, decision.code, reason)
        else:
            trial.intent = ("stop", TrialState.PRUNED, decision.code, decision.reason)

    def pause_control(self, trial: LiveTrial, message: str) -> tuple[Control, str]:
        """How a trial is to yield so that it can go on, and the message that tells it: without a
        checkpoint where training the same steps again is cheaper."""
        dropped = self._ledger.prices.reason_to_drop(trial.unsaved)
        return ("pause", message) if dropped is None else ("stop", f"{message}; {dropped}")

    def _end_of(self, trial: LiveTrial, batch: Batch) -> Verdict | None:
        """What a report takes its trial to; None while it runs on."""
        if batch.status == "running":
            return None
        if batch.status == "completed":
            missing = f"{self.spec.objective.metric} was not measured, or not finite"
            unmeasured = self._ledger.objectives.value(trial) is None and trial.kind == "search"
            return Verdict(TrialState.COMPLETED, None, missing if unmeasured else None)
        if batch.status == "yielded":
            if trial.intent is None:
                unasked = {"infrastructure": True, "message": "it yielded without being asked"}
                return after_failure(trial, replace(batch, notes=unasked), None)
            _, state, reason, message = trial.intent
            return Verdict(state, reason, message)
        verdict = after_failure(trial, batch, self._ledger.resumed_from.get(trial.id))
        if verdict.state is TrialState.FAILED and batch.failure and batch.failure.detail:
            log.warning("trial %s: %s\n%s", trial.id, verdict.message, batch.failure.detail)
        return verdict

    def _refuse(self, trial: LiveTrial, error: Conflict) -> Control:
        """A report contradicts what is stored: a step that went backwards, say. The trial fails;
        nothing of the report is kept."""
        log.error("trial %s: a report was refused: %s", trial.id, error)
        failure = Failure("error", f"it reported what contradicts its earlier reports: {error}")
        verdict = Verdict(TrialState.FAILED, "error", failure.message)
        ending = self._ledger.ending_attempt(trial, verdict)
        self._ledger.commit(ending, self._wishes.settled_by(trial))
        self.trial_ended(trial)
        return "stop"

    def trial_ended(self, trial: LiveTrial) -> None:
        """An attempt has ended, or a trial that had none: learn from it."""
        if trial.state.ended:
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
        objectives = self._ledger.objectives
        for name, metric in objectives.metrics:
            there = baseline.figures(metric)
            if not there or baseline.measured(metric) is not None:
                continue
            field = "metric" if name == objectives.name else "also"
            fault = f"objective.{field}: {name} isn't there; measured: {', '.join(there)}"
            self._asked += self.close("fail", fault)
            return

    def _tell_scheduler(self, trial: LiveTrial) -> None:
        self._ledger.account.touch()
        outcome = self._ledger.objectives.outcome(trial)
        for decision in self._ledger.scheduler.completed(trial.id, outcome):
            self._end_waiting(decision)

    def _end_waiting(self, decision: Decision) -> None:
        """Carry out a decision about a trial that is not running."""
        trial = self._ledger.trials[decision.trial_id]
        stops = decision.action is Action.STOP and trial.state is TrialState.PAUSED
        acts = stops and self.spec.scheduler.mode == "act" and not trial.waits_for_user
        deciding = self._ledger.deciding(decision, acted=acts)
        if not acts:
            self._ledger.commit(deciding)
            return
        ending = self._ledger.ending(trial, TrialState.PRUNED, decision.code, decision.reason)
        self._ledger.commit(deciding, ending, self._wishes.settled_by(trial))
        self.trial_ended(trial)

    def _end(self, trial: LiveTrial, state: TrialState, reason: str, message: str) -> None:
        """End a trial that isn't running."""
        ending = self._ledger.ending(trial, state, reason, message)
        self._ledger.commit(ending, self._wishes.settled_by(trial))
        self.trial_ended(trial)

    def _carry_out(self, trial: LiveTrial, decision: Decision) -> None:
        """Do what was decided about a trial before its driver could do it."""
        ledger = self._ledger
        if decision.action is Action.STOP:
            self._end(trial, TrialState.PRUNED, decision.code, decision.reason)
        elif decision.action is Action.PAUSE and trial.state is TrialState.PENDING:
            ledger.commit(ledger.setting_aside(trial, decision.code, decision.reason))
        elif decision.action is Action.RESUME and trial.state is TrialState.PAUSED:
            ledger.commit(ledger.calling_back(trial, "resumed", decision.reason))

    # --- closing -----------------------------------------------------------------------------

    def _close_if_idle(self) -> None:
        if self.finished or self._closing == "no" or self._ledger.running():
            return
        if self._closing == "shutdown":
            self._wishes.explain_waiting(self._waiting_for(), now=True)
            self.finished = True
        elif self._closing == "pause":
            self._pause_sweep()
        elif self._closing == "fail":
            self._finish(SweepState.FAILED, self._message)
        elif self._closing == "cancel":
            self._finish(SweepState.CANCELED, self._message)
        else:
            self._end_for_budget()

    def _pause_sweep(self) -> None:
        sweep = self._ledger.lease.sweep_id
        self._wishes.explain_waiting(self._waiting_for(), now=True)

        def pause(tx: DriverTransaction) -> None:
            tx.move_sweep(SweepState.PAUSED, self._message)
            self._wishes.finish_of_sweep(tx, "pause", "paused")

        log.info("sweep %s is paused: %s", sweep, self._message)
        self._ledger.commit(Change(pause))
        self.finished = True

    def _end_for_budget(self) -> None:
        for trial in self._ledger.of(TrialState.PENDING, TrialState.PAUSED):
            ending = self._ledger.ending(trial, TrialState.CANCELED, "budget", self._message)
            self._ledger.commit(ending, self._wishes.settled_by(trial))
        self._finish(SweepState.COMPLETED, self._message, budget=True)

    def _finish(self, state: SweepState, message: str | None, *, budget: bool = False) -> None:
        news = self._ledger.account.news(last=True)
        spending = self._purse.account()

        def end(tx: DriverTransaction) -> None:
            if news is not None:
                tx.keep_scheduler_summary(news)
            if spending is not None:
                tx.set_plan(account=spending)
            if budget:
                tx.tell_of_budget(message or "")
            tx.end_sweep(state, message)

        self._ledger.commit(Change(end))
        self.finished = True
        for trial in self._ledger.trials.values():
            if not trial.state.ended:
                trial.state = TrialState.CANCELED
        self._disk.tidy(now=True)
