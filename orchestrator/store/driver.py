"""What a sweep's driver writes. Every transaction starts by checking its lease.

`Store.guarded(lease)` opens one; all that is done in its block becomes durable in one commit, or
not at all. A method that raises leaves nothing behind once the block is left by its exception.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.engine import Row
from sqlalchemy.exc import IntegrityError

from orchestrator.errors import Conflict, InvalidTransition, NotFound
from orchestrator.redaction import clean_values
from orchestrator.schedulers.base import Decision
from orchestrator.store import commands, decisions, leases, metrics, pieces
from orchestrator.store import sweeps as sweep_rows
from orchestrator.store import trials as trial_rows
from orchestrator.store.clock import now
from orchestrator.store.database import WriteSession
from orchestrator.store.records import Lease
from orchestrator.store.schema import attempts, checkpoints, trials
from orchestrator.store.schema import metrics as metrics_table
from trainer.metrics import Batch
from winnow.types import SweepState, TrialKind, TrialState

_NEW_TRIAL = insert(trials)
_CHANGED = update(trials).where(trials.c.id == bindparam("of"))
"""Built once: that takes longer than what they do."""


class DriverTransaction:
    """One transaction of the driver that holds `lease`. Raises LeaseLost if it holds it no more."""

    def __init__(self, session: WriteSession, lease: Lease) -> None:
        self._session = session
        self._lease = lease
        self._sweep_id = lease.sweep_id
        self._revision = leases.guard(session, lease)

    @property
    def revision(self) -> int:
        """The sweep's revision once this is committed: one more than before."""
        return self._revision

    def add_trial(
        self,
        number: int,
        kind: TrialKind,
        params: dict[str, Any],
        config: dict[str, Any],
        total_samples: int,
        *,
        parent: str | None = None,
        fingerprint: str | None = None,
    ) -> str:
        """A new PENDING trial. Returns its id. Conflict if the number is taken."""
        trial_id = f"{self._sweep_id}-{number}"
        row: dict[str, Any] = {
            "id": trial_id,
            "sweep_id": self._sweep_id,
            "number": number,
            "kind": kind,
            "state": TrialState.PENDING,
            "params": params,
            "config": config,
            "version": self._revision,
            "attempt": 0,
            "step": 0,
            "total_steps": 0,
            "samples": 0,
            "total_samples": total_samples,
            "seconds": 0.0,
            "parent": parent,
            "fingerprint": fingerprint,
        }
        try:
            self._session.execute(_NEW_TRIAL, [row])
        except IntegrityError as error:
            raise Conflict(f"Sweep {self._sweep_id} already has a trial {number}.") from error
        self._session.emit(
            self._sweep_id,
            "trial.created",
            {"number": number, "kind": kind, "params": params, "total_samples": total_samples}
            | ({} if parent is None else {"parent": parent}),
            trial_id,
        )
        return trial_id

    def configure(self, trial_id: str, config: dict[str, Any]) -> None:
        """Replace the configuration of a trial that isn't running: a smaller cap, say."""
        row = self._row(trial_id)
        if row.state == TrialState.RUNNING:
            raise Conflict(f"Trial {trial_id} is RUNNING; its configuration can't change now.")
        self._set(trial_id, config=config)

    def pin(self, trial_id: str, pinned: bool) -> None:
        """Whether a scheduler may end the trial."""
        self._set(trial_id, pinned=pinned)

    def wait_for(self, reasons: Mapping[str, str | None]) -> None:
        """Say why trials wait, by id; None where there is nothing to say any more."""
        for trial_id, reason in reasons.items():
            self._set(trial_id, why_pending=reason)

    def reuse(
        self, trial_id: str, source_id: str, value: float | None, also: Mapping[str, float | None]
    ) -> None:
        """A PENDING trial takes over the result of a completed one: its points, its evaluations
        and its export, in an attempt that trained nothing."""
        row = self._row(trial_id)
        source = trial_rows.row_of(self._session, source_id)
        if source.state != TrialState.COMPLETED:
            raise Conflict(f"Trial {source_id} is {source.state}; only a completed one is reused.")
        trial_rows.open_attempt(self._session, row, self._lease.epoch, None, first_step=1)
        metrics.copy(self._session, source_id, trial_id)
        trial_rows.close_attempt(
            self._session, row, TrialState.COMPLETED, "reused", f"as trial {source_id}", attempt=1
        )
        copied = ("step", "total_steps", "samples", "loss", "grad_norm", "eval_loss", "exact_match")
        trial_rows.move(
            self._session,
            row,
            TrialState.COMPLETED,
            self._revision,
            reason="reused",
            message=f"Trial {source_id} had the same configuration, data and model.",
            columns={name: getattr(source, name) for name in copied}
            | {
                "attempt": 1,
                "reused_from": source_id,
                "value": metrics.finite_or_none(value),
                "also": dict(also) or None,
                "checkpoint": source.checkpoint,
                "started_at": now(),
            },
        )

    def set_aside(self, trial_id: str, reason: str, message: str) -> None:
        """A trial that waits to run is to wait for a call: PENDING → PAUSED."""
        self._move(trial_id, TrialState.PAUSED, reason, message)

    def call_back(self, trial_id: str, reason: str, message: str) -> None:
        """A PAUSED, PRUNED, FAILED or CANCELED trial is to run again: → PENDING."""
        self._move(trial_id, TrialState.PENDING, reason, message)

    def note_damaged(self, trial_id: str, paths: Sequence[str]) -> None:
        """Checkpoints can't be read: never resume from them again."""
        self._mark(trial_id, paths, damaged=True)

    def note_deleted(self, trial_id: str, paths: Sequence[str]) -> None:
        """Checkpoints that are deleted next: nothing may need them from here on."""
        self._mark(trial_id, paths, deleted=True)
        row = self._row(trial_id)
        if row.checkpoint in paths:
            self._set(trial_id, checkpoint=None)

    def start_attempt(self, trial_id: str, resume: str | None) -> int:
        """The trial becomes RUNNING with its next attempt. Returns the attempt's number, from 1.

        `resume` is the path of the `state` checkpoint it goes on from; what earlier attempts did
        beyond it is superseded (everything, if None), and the trial's progress is set back to it.
        """
        row = self._row(trial_id)
        if row.state == TrialState.RUNNING:
            raise InvalidTransition(
                f"Trial {trial_id}", "RUNNING", "RUNNING", f"attempt {row.attempt} is still live"
            )
        checkpoint = None if resume is None else self._checkpoint(trial_id, resume)
        step = 0 if checkpoint is None else checkpoint.step
        attempt = trial_rows.open_attempt(
            self._session, row, self._lease.epoch, resume, first_step=step + 1
        )
        # Everything goes if nothing is resumed, the evaluation before the first step included.
        if attempt > 1:
            beyond = -1 if checkpoint is None else step
            metrics.supersede_beyond(self._session, trial_id, attempt, beyond)
        at = self._session.first(
            select(metrics_table).where(
                metrics_table.c.trial_id == trial_id,
                metrics_table.c.step == step,
                ~metrics_table.c.superseded,
            )
        )
        scores = metrics.latest_scores(self._session, trial_id)
        trial_rows.move(
            self._session,
            row,
            TrialState.RUNNING,
            self._revision,
            columns={
                "attempt": attempt,
                "rewound": self._revision,
                "step": step,
                "samples": 0 if checkpoint is None else checkpoint.samples,
                "loss": None if at is None else at.loss,
                "grad_norm": None if at is None else at.grad_norm,
                "eval_loss": scores.loss,
                "exact_match": scores.exact_match,
                "value": None,
                "also": None,
                "checkpoint": None,
                "started_at": func.coalesce(trials.c.started_at, now()),
            },
        )
        self._session.emit(
            self._sweep_id,
            "attempt.started",
            {"number": row.number, "attempt": attempt, "step": step, "resumed_from": resume},
            trial_id,
        )
        return attempt

    def record(self, trial_id: str, attempt: int, batch: Batch) -> None:
        """Store what a live attempt reported, and the trial's progress with it.

        Conflict if the attempt isn't the live one, or has reported one of the points before.
        """
        row = self._live(trial_id, attempt)
        rewound: dict[str, Any] = {}
        if batch.steps and batch.steps[0].step <= row.step:
            # It went on from an older checkpoint than it was given (a damaged one, say).
            metrics.supersede_beyond(self._session, trial_id, attempt, batch.steps[0].step - 1)
            rewound = {"rewound": self._revision}
        metrics.insert_steps(self._session, trial_id, attempt, batch.steps)
        if batch.steps and pieces.due(row.step, batch.steps[-1].step):
            pieces.seal(self._session, trial_id)
        metrics.insert_evaluations(self._session, trial_id, attempt, batch.evaluations)
        metrics.insert_checkpoints(self._session, trial_id, attempt, batch.checkpoints)
        progress = self._progress(row, batch)
        self._session.execute(
            _CHANGED, {"of": trial_id, "version": self._revision, **rewound, **progress}
        )
        self._keep_notes(row, batch)
        self._tell(row, attempt, batch)

    def decide(self, decision: Decision, acted: bool) -> int:
        """Store a scheduler's decision. Returns its id. To act on it, end the attempt too."""
        row = self._row(decision.trial_id)
        return decisions.add(self._session, self._sweep_id, row.number, decision, acted)

    def end_attempt(
        self,
        trial_id: str,
        attempt: int,
        state: TrialState,
        reason: str | None = None,
        message: str | None = None,
        value: float | None = None,
        also: Mapping[str, float | None] | None = None,
    ) -> None:
        """Close a live attempt and move its trial: to an end state, PAUSED, or PENDING (run again).

        `value` is the objective as it was measured (not negated), `also` the further ones by
        metric. Conflict if the attempt isn't the live one.
        """
        further = {name: metrics.finite_or_none(v) for name, v in (also or {}).items()}
        row = self._live(trial_id, attempt)
        trial_rows.close_attempt(self._session, row, state, reason, message)
        if state.ended or state is TrialState.PAUSED:
            pieces.seal(self._session, trial_id, done=True)
        trial_rows.move(
            self._session,
            row,
            state,
            self._revision,
            reason=reason,
            message=message,
            columns={"value": metrics.finite_or_none(value), "also": further or None},
        )

    def end_trial(
        self, trial_id: str, state: TrialState, reason: str | None, message: str | None
    ) -> None:
        """End a trial that has no live attempt: a paused or a waiting one."""
        row = self._row(trial_id)
        if row.state == TrialState.RUNNING:
            raise InvalidTransition(
                f"Trial {trial_id}", "RUNNING", state, f"end its attempt {row.attempt} instead"
            )
        if not state.ended:
            raise InvalidTransition(f"Trial {trial_id}", row.state, state, "that ends nothing")
        trial_rows.move(self._session, row, state, self._revision, reason=reason, message=message)

    def end_sweep(self, state: SweepState, message: str | None = None) -> None:
        """End the sweep. A FAILED or CANCELED one takes its open trials along, as CANCELED;
        a COMPLETED one must have none. Commands that still wait are closed."""
        row = sweep_rows.row_of(self._session, self._sweep_id)
        if not state.ended:
            raise InvalidTransition(f"Sweep {row.id}", row.state, state, "that ends nothing")
        sweep_rows.move(self._session, row, state, message)
        still_open = select(trials).where(
            trials.c.sweep_id == row.id,
            trials.c.state.in_([s for s in TrialState if not s.ended]),
        )
        why = "user" if state is SweepState.CANCELED else "sweep"
        text = f"The sweep became {state}" + (f": {message}" if message else ".")
        for trial in self._session.rows(still_open.order_by(trials.c.number)):
            if state is SweepState.COMPLETED:
                raise InvalidTransition(
                    f"Sweep {row.id}", row.state, state, f"trial {trial.id} is {trial.state}"
                )
            if trial.state == TrialState.RUNNING:
                trial_rows.close_attempt(self._session, trial, TrialState.CANCELED, why, text)
            trial_rows.move(
                self._session, trial, TrialState.CANCELED, self._revision, reason=why, message=text
            )
        commands.finish_all(self._session, row.id, f"the sweep is {state}")

    def tell_of_budget(self, message: str) -> None:
        """Say that the sweep ends because its budget is used up."""
        self._session.emit(self._sweep_id, "budget.reached", {"message": message})

    def move_sweep(self, state: SweepState, message: str | None = None) -> None:
        """Pause the sweep, or queue it again. To end it, `end_sweep`."""
        if state.ended:
            raise InvalidTransition(f"Sweep {self._sweep_id}", "", state, "use end_sweep")
        row = sweep_rows.row_of(self._session, self._sweep_id)
        if row.state != state:
            sweep_rows.move(self._session, row, state, message)

    def reopen(self) -> None:
        """If the sweep has ended: it has more to do, and waits for a driver again."""
        row = sweep_rows.row_of(self._session, self._sweep_id)
        if SweepState(row.state).ended:
            sweep_rows.move(self._session, row, SweepState.QUEUED, None)

    def set_plan(self, **columns: Any) -> None:
        """Change what may change while a sweep runs: planned, space, priority, weight,
        max_concurrent, budget, and the account of what was spent."""
        allowed = {
            "planned",
            "space",
            "priority",
            "weight",
            "max_concurrent",
            "budget",
            "account",
        }
        if unknown := set(columns) - allowed:
            raise ValueError(f"a sweep's {', '.join(sorted(unknown))} can't change")
        sweep_rows.keep(self._session, self._sweep_id, **columns)

    def keep_prior(self, prior: dict[str, Any]) -> None:
        """Keep what the scheduler starts from, for every later driver of this sweep."""
        sweep_rows.keep(self._session, self._sweep_id, prior=prior)

    def keep_scheduler_summary(self, summary: dict[str, Any]) -> None:
        """Replace the scheduler's account of its evidence."""
        sweep_rows.keep(self._session, self._sweep_id, scheduler_summary=summary)

    def finish_command(self, command_id: int, result: str) -> None:
        """Say what became of a command, together with its effect."""
        commands.finish(self._session, command_id, result)

    # --- parts ------------------------------------------------------------------------------

    def _row(self, trial_id: str) -> Row[Any]:
        return trial_rows.row_of(self._session, trial_id, self._sweep_id)

    def _set(self, trial_id: str, **columns: Any) -> None:
        self._row(trial_id)
        self._session.execute(
            update(trials).where(trials.c.id == trial_id).values(version=self._revision, **columns)
        )

    def _move(self, trial_id: str, state: TrialState, reason: str, message: str) -> None:
        row = self._row(trial_id)
        if row.state == TrialState.RUNNING:
            raise InvalidTransition(
                f"Trial {trial_id}", "RUNNING", state, f"end its attempt {row.attempt} instead"
            )
        trial_rows.move(self._session, row, state, self._revision, reason=reason, message=message)

    def _mark(self, trial_id: str, paths: Sequence[str], **columns: bool) -> None:
        self._row(trial_id)
        self._session.execute(
            update(checkpoints)
            .where(checkpoints.c.trial_id == trial_id, checkpoints.c.path.in_(paths))
            .values(**columns)
        )

    def _live(self, trial_id: str, attempt: int) -> Row[Any]:
        row = self._row(trial_id)
        if row.state != TrialState.RUNNING or row.attempt != attempt:
            raise Conflict(
                f"Attempt {attempt} of trial {trial_id} isn't live: "
                f"the trial is {row.state} with attempt {row.attempt}."
            )
        return row

    def _checkpoint(self, trial_id: str, path: str) -> Row[Any]:
        row = self._session.first(
            select(checkpoints).where(
                checkpoints.c.trial_id == trial_id,
                checkpoints.c.path == path,
                checkpoints.c.kind == "state",
                ~checkpoints.c.superseded,
                ~checkpoints.c.deleted,
            )
        )
        if row is None:
            raise NotFound(f"checkpoint of trial {trial_id} to resume from", path)
        return row

    def _progress(self, row: Row[Any], batch: Batch) -> dict[str, Any]:
        """The trial's columns that a batch moves on."""
        progress: dict[str, Any] = {
            "seconds": row.seconds
            + sum(s.seconds for s in batch.steps)
            + sum(e.seconds for e in batch.evaluations)
            + sum(c.seconds for c in batch.checkpoints)
        }
        if batch.total_steps:
            progress["total_steps"] = batch.total_steps
        if batch.total_samples:
            progress["total_samples"] = batch.total_samples
        if batch.steps:
            last = batch.steps[-1]
            progress |= {
                "step": last.step,
                "samples": last.samples,
                "loss": metrics.finite_or_none(last.loss),
                "grad_norm": metrics.finite_or_none(last.grad_norm),
            }
        if any(e.split == "eval" for e in batch.evaluations):
            scores = metrics.latest_scores(self._session, row.id)
            progress |= {"eval_loss": scores.loss, "exact_match": scores.exact_match}
        for checkpoint in batch.checkpoints:
            if checkpoint.kind == "export":
                progress["checkpoint"] = checkpoint.path
        return progress

    def _keep_notes(self, row: Row[Any], batch: Batch) -> None:
        if not batch.notes and batch.failure is None:
            return
        this = (attempts.c.trial_id == row.id, attempts.c.attempt == row.attempt)
        columns: dict[str, Any] = {}
        if batch.notes:
            known = self._session.scalar(select(attempts.c.notes).where(*this)) or {}
            columns["notes"] = known | clean_values(batch.notes)
        if batch.failure is not None:
            columns["detail"] = trial_rows.printable(batch.failure.detail)
        self._session.execute(update(attempts).where(*this).values(**columns))

    def _tell(self, row: Row[Any], attempt: int, batch: Batch) -> None:
        for e in batch.evaluations:
            self._session.emit(
                self._sweep_id,
                "evaluation",
                {
                    "number": row.number,
                    "step": e.step,
                    "samples": e.samples,
                    "split": e.split,
                    "dataset": e.dataset,
                    "loss": metrics.finite_or_none(e.loss),
                    "exact_match": metrics.finite_or_none(e.exact_match),
                    "scores": {k: v for k, v in e.scores.items() if math.isfinite(v)},
                },
                row.id,
            )
        for c in batch.checkpoints:
            self._session.emit(
                self._sweep_id,
                "checkpoint",
                {
                    "number": row.number,
                    "attempt": attempt,
                    "step": c.step,
                    "kind": c.kind,
                    "path": c.path,
                },
                row.id,
            )
