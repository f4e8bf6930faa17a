"""What users ask of a running sweep, carried out.

A wish takes effect in one transaction with the word that it was carried out. One that has to wait
for a trial to yield stays open until then, so a driver that dies in between leaves it to the next.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from orchestrator.live_trial import Control, LiveTrial
from orchestrator.search import merged
from orchestrator.store import Command, DriverTransaction
from orchestrator.study.ledger import Change, Ledger, resumed
from winnow.spec import Budget, Space
from winnow.types import SweepState, TrialState

if TYPE_CHECKING:
    from orchestrator.study.study import Study

Asked = list[tuple[str, Control]]
EXPLAIN_SECONDS = 1.0


class Wishes:
    """Carries out commands on the trials of a ledger."""

    def __init__(self, ledger: Ledger, study: Study) -> None:
        self._ledger = ledger
        self._study = study
        self._open: dict[int, tuple[Command, str]] = {}
        """Wishes whose trial, or whose sweep, has yet to yield, with the result they will have."""
        self._explained = 0.0
        self._reopened = False

    def carry_out(self, commands: Sequence[Command]) -> Asked:
        """Do what is asked; the attempts that are to yield for it."""
        asked: Asked = []
        for command in commands:
            if command.id in self._open or self._study.finished:
                continue
            try:
                if command.trial_id is None:
                    asked += self._of_sweep(command)
                elif (trial := self._ledger.trials.get(command.trial_id)) is not None:
                    asked += self._of_trial(command, trial)
                else:
                    self._done(command, "there is no such trial")
            except (ValidationError, ValueError) as error:
                self._done(command, f"refused: {_first_line(error)}")
        return asked

    def settled_by(self, trial: LiveTrial) -> Change | None:
        """The wishes that waited for the trial to yield are fulfilled by that."""
        found = [(c, result) for c, result in self._open.values() if c.trial_id == trial.id]
        if not found:
            return None
        return Change(
            lambda tx: [tx.finish_command(c.id, result) for c, result in found],
            lambda: [self._open.pop(c.id) for c, _ in found],
        )

    def finish_of_sweep(self, tx: DriverTransaction, kind: str, result: str) -> None:
        """The sweep as a whole is what was asked for."""
        for command, _ in self._open.values():
            if command.trial_id is None and command.kind == kind:
                tx.finish_command(command.id, result)

    def explain_waiting(self, waiting: str, *, now: bool = False) -> None:
        """Say why each waiting trial waits: `waiting` is what holds for those that could run. Looks
        once a second at most, unless told to look now."""
        if not now and time.monotonic() - self._explained < EXPLAIN_SECONDS:
            return
        self._explained = time.monotonic()
        reasons: dict[str, str | None] = {}
        for trial in self._ledger.of(TrialState.PENDING, TrialState.PAUSED):
            if trial.state is TrialState.PENDING:
                reasons[trial.id] = waiting
            elif trial.waits_for_user:
                reasons[trial.id] = f"{trial.message}; it waits to be resumed"
            else:
                reasons[trial.id] = "the scheduler set it aside; it may call it back"
        self._ledger.explain(reasons)

    # --- of one trial ------------------------------------------------------------------------

    def _of_trial(self, command: Command, trial: LiveTrial) -> Asked:
        match command.kind:
            case "stop":
                return self._stop(command, trial)
            case "pause":
                return self._pause(command, trial)
            case "resume":
                self._resume(command, trial)
            case "revive":
                self._revive(command, trial)
            case "pin":
                self._pin(command, trial)
            case "unpin":
                self._ledger.commit(
                    self._ledger.pinning(trial, False), self._finishing(command, "unpinned")
                )
            case "clone":
                wanted = trial.params | (command.payload.get("params") or {})
                self._add(command, [self._in_force(wanted)], parent=trial.id)
            case _:
                self._done(command, f"{command.kind} is not for a trial")
        return []

    def _stop(self, command: Command, trial: LiveTrial) -> Asked:
        message = f"stopped by {command.issued_by}"
        if trial.state is TrialState.RUNNING:
            trial.intent = ("stop", TrialState.CANCELED, "user", message)
            self._open[command.id] = (command, "stopped")
            return [(trial.attempt_id, "stop")]
        if trial.state.ended:
            self._done(command, "the trial had ended already")
            return []
        ending = self._ledger.ending(trial, TrialState.CANCELED, "user", message)
        settled = self.settled_by(trial)
        self._ledger.commit(ending, self._finishing(command, "stopped"), settled)
        self._study.trial_ended(trial)
        return []

    def _pause(self, command: Command, trial: LiveTrial) -> Asked:
        message = f"paused by {command.issued_by}"
        if trial.state is TrialState.RUNNING:
            control, text = self._study.pause_control(trial, message)
            if trial.intent is not None and trial.intent[1].ended:
                self._done(command, "it is about to end")
                return []
            trial.intent = (control, TrialState.PAUSED, "user", text)
            self._open[command.id] = (command, "paused")
            return [(trial.attempt_id, control)]
        if trial.state is TrialState.PENDING:
            aside = self._ledger.setting_aside(trial, "user", message)
            self._ledger.commit(aside, self._finishing(command, "paused"))
        else:
            self._done(command, f"it is {trial.state} already")
        return []

    def _resume(self, command: Command, trial: LiveTrial) -> None:
        if trial.state is TrialState.RUNNING and trial.pausing:
            text = f"resumed by {command.issued_by}"
            trial.intent = ("pause", TrialState.PENDING, "resumed", text)
            self._ledger.commit(
                self._told_scheduler(trial, command, "resumed"),
                self._finishing(command, "it goes on once it has yielded"),
            )
        elif trial.state is TrialState.PAUSED:
            self._call_back(command, trial, "resumed")
        else:
            self._done(command, f"it is {trial.state}, not PAUSED")

    def _revive(self, command: Command, trial: LiveTrial) -> None:
        if not trial.state.ended or trial.state is TrialState.COMPLETED:
            self._done(command, f"it is {trial.state}")
        else:
            self._call_back(command, trial, "revived", Change(lambda tx: tx.reopen()))

    def _pin(self, command: Command, trial: LiveTrial) -> None:
        ledger = self._ledger
        back: list[Change] = []
        if trial.state is TrialState.PAUSED and not trial.waits_for_user:
            message = f"pinned by {command.issued_by}"
            back = [
                ledger.calling_back(trial, "pinned", message),
                self._told_scheduler(trial, command, "pinned"),
            ]
        elif trial.intent is not None and trial.intent[1] in (TrialState.PAUSED, TrialState.PRUNED):
            message = f"pinned by {command.issued_by}"
            if trial.intent[2] != "user":
                trial.intent = ("pause", TrialState.PENDING, "pinned", message)
                back = [self._told_scheduler(trial, command, "pinned")]
        ledger.commit(ledger.pinning(trial, True), *back, self._finishing(command, "pinned"))

    def _call_back(self, command: Command, trial: LiveTrial, how: str, *also: Change) -> None:
        message = f"{how} by {command.issued_by}"
        self._ledger.commit(
            self._ledger.calling_back(trial, how, message),
            self._told_scheduler(trial, command, how),
            self._ledger.planning(self._planned()),
            *also,
            self._finishing(command, how),
        )
        self._study.reopen()

    def _told_scheduler(self, trial: LiveTrial, command: Command, how: str) -> Change:
        """The scheduler learns it as a decision of its own, and so does its successor."""
        decision = resumed(trial.id, trial.samples, command.issued_by, how)
        scheduler = self._ledger.scheduler
        known = trial.kind == "search"
        return Change(
            lambda tx: tx.decide(decision, acted=True) if known else None,
            lambda: scheduler.replay(decision) if known else None,
        )

    def _in_force(self, params: dict[str, Any]) -> dict[str, Any]:
        """Without the parameters whose condition the others leave out."""
        rules = self._ledger.spec.rules
        chosen: dict[str, Any] = {}
        for name in rules.order:
            if name in params and rules.is_active(name, chosen):
                chosen[name] = params[name]
        return {k: v for k, v in params.items() if k in chosen or k not in rules.domains}

    # --- of the sweep ------------------------------------------------------------------------

    def _of_sweep(self, command: Command) -> Asked:
        ledger, by, payload = self._ledger, command.issued_by, command.payload
        match command.kind:
            case "cancel":
                self._open[command.id] = (command, "canceled")
                return self._study.close("cancel", f"canceled by {by}")
            case "pause":
                self._open[command.id] = (command, "paused")
                return self._study.close("pause", f"paused by {by}")
            case "resume":
                ledger.commit(
                    Change(lambda tx: tx.move_sweep(SweepState.QUEUED)),
                    self._finishing(command, "it waits for its slots"),
                )
            case "add":
                found = payload.get("configurations") or [payload.get("params") or {}]
                self._add(command, found, parent=None)
            case "extend":
                self._extend(command, int(payload.get("trials") or 0))
            case "narrow":
                space = merged(ledger.space, Space.model_validate(payload.get("space") or {}))
                as_json = space.model_dump(mode="json", exclude_none=True)
                ledger.commit(
                    Change(lambda tx: tx.set_plan(space=as_json), lambda: ledger.use_space(space)),
                    self._finishing(command, "new trials come from the narrower space"),
                )
                self._study.reopen()
            case "set":
                self._set(command)
            case _:
                self._done(command, f"{command.kind} is not for a sweep")
        return []

    def _add(
        self, command: Command, configurations: Sequence[dict[str, Any]], parent: str | None
    ) -> None:
        """Each configuration as a trial of its own, beyond those that were planned."""
        ledger = self._ledger
        changes: list[Change] = []
        for offset, params in enumerate(configurations):
            trial = ledger.new("search", dict(params), parent=parent, offset=offset)
            changes.append(ledger.adding(trial))
        first = len(ledger.trials)
        last = first + len(changes) - 1
        which = f"trial {first}" if first == last else f"trials {first} to {last}"
        ledger.commit(
            *changes,
            ledger.planning(self._planned() + len(changes)),
            Change(lambda tx: tx.reopen()),
            self._finishing(command, f"it is {which}" if first == last else f"they are {which}"),
        )
        self._study.reopen()

    def _extend(self, command: Command, more: int) -> None:
        if self._ledger.spec.search.sampler == "grid":
            raise ValueError("a grid has no further configurations; add some, or clone a trial")
        if more < 1:
            raise ValueError(f"trials: give a number above 0, got {more}")
        planned = self._planned() + more
        self._ledger.commit(
            self._ledger.planning(planned),
            Change(lambda tx: tx.reopen()),
            self._finishing(command, f"{planned} trials are planned"),
        )
        self._study.reopen()

    def _set(self, command: Command) -> None:
        ledger = self._ledger
        columns = {
            name: command.payload[name]
            for name in ("max_concurrent", "priority", "weight", "budget")
            if name in command.payload
        }
        if "budget" in columns:
            given = Budget.model_validate(columns["budget"] or {})
            columns["budget"] = given.model_dump(mode="json", exclude_none=True) or None

        def remember() -> None:
            ledger.max_concurrent = columns.get("max_concurrent", ledger.max_concurrent)
            if "budget" in columns:
                ledger.budget = Budget.model_validate(columns["budget"] or {})
                self._study.reopen()

        ledger.commit(
            Change(lambda tx: tx.set_plan(**columns), remember),
            self._finishing(command, _in_words(columns)),
        )

    # --- parts -------------------------------------------------------------------------------

    def _planned(self) -> int:
        """Trials that are planned before anything is added. Of a sweep that has ended it is those
        that it had: who canceled it wants no more of the others."""
        ledger = self._ledger
        if not ledger.rows.state.ended or self._reopened:
            return ledger.planned
        self._reopened = True
        return len(ledger.searched())

    def _finishing(self, command: Command, result: str) -> Change:
        return Change(lambda tx: tx.finish_command(command.id, result))

    def _done(self, command: Command, result: str) -> None:
        self._ledger.commit(self._finishing(command, result))


def _in_words(columns: dict[str, Any]) -> str:
    """What was set, as a person would say it."""
    parts: list[str] = []
    for name, value in columns.items():
        if name == "max_concurrent":
            parts.append("as many trials at once as fit" if value is None else _at_once(value))
        elif name == "budget":
            limits = [f"{k.replace('_', ' ')} {v:g}" for k, v in (value or {}).items()]
            parts.append(f"budget: {', '.join(limits)}" if limits else "no budget")
        else:
            parts.append(f"{name} {value:g}")
    return ", ".join(parts) or "nothing to set"


def _at_once(trials: int) -> str:
    return "one trial at a time" if trials == 1 else f"at most {trials} trials at once"


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"])
        text = str(found["msg"]).removeprefix("Value error, ")
        return f"{where}: {text}" if where else text
    return str(error).splitlines()[0]
