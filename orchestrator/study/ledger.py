"""A sweep's trials, in memory and in the database, always the same.

The ledger answers questions about trials and makes changes to them. A `Change` is what a
transaction writes, and what is remembered once that is durable; several are committed together.
Nothing is here that the database doesn't hold: a ledger made from a sweep's rows goes on where the
one before it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.hindsight.earlier import settle_prior
from orchestrator.live_trial import LiveTrial
from orchestrator.objectives import Objectives
from orchestrator.plan import total_samples, trial_config
from orchestrator.schedulers import make_scheduler
from orchestrator.schedulers.base import Action, Decision, TrialInfo
from orchestrator.search import Told, make_proposer, merged
from orchestrator.store import DriverTransaction, Lease, Store
from orchestrator.study.account import Account
from orchestrator.study.failures import Verdict
from orchestrator.study.pausing import Prices
from trainer.config import ANYWHERE, Roots, TrainConfig
from winnow.spec import Budget, Space, SweepSpec
from winnow.types import TrialKind, TrialState


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to run now. `config` is a TrainConfig as JSON."""

    id: str
    trial_id: str
    number: int
    config: str
    resume_from: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """What a transaction writes, and what is to be remembered once it is durable."""

    write: Callable[[DriverTransaction], object]
    then: Callable[[], object] = lambda: None


class Ledger:
    """The trials of the sweep that `lease` is about. One thread."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        home: Path,
        *,
        checkpoint_seconds: float,
        patience: float | None = None,
        roots: Roots = ANYWHERE,
    ) -> None:
        self.store = store
        self._roots = roots
        self.lease = lease
        self.writer = store.writer(lease, patience=patience)
        self.folder = home / "sweeps" / lease.sweep_id
        self._cache = home / "cache" / "tokens"
        self._checkpoint_seconds = checkpoint_seconds
        rows = self.writer.read(lambda: store.sweep_rows(lease.sweep_id))
        self.rows = rows
        self.spec = SweepSpec.model_validate(rows.spec)
        self.facts = rows.facts
        self.planned = rows.planned
        self.budget = Budget.model_validate(rows.budget or {})
        self.max_concurrent = rows.max_concurrent
        self.objectives = Objectives(self.spec.objective)
        left = self.spec.space
        if rows.space is not None:
            left = merged(left, Space.model_validate(rows.space))
        self.use_space(left)
        prior = settle_prior(store, lease, rows, self.spec)
        self.scheduler = make_scheduler(self.spec.scheduler, self.spec.search.seed, prior)
        self.account = Account(self.scheduler)
        self.prices = Prices.expected(_trained_weights(self.spec, rows.facts))
        self.trials: dict[str, LiveTrial] = {}
        self._told: dict[str, Told] = {}
        self.resumed_from: dict[str, str | None] = {}
        """By trial: the checkpoint that its live attempt started from."""

    # --- questions ---------------------------------------------------------------------------

    def of(self, *states: TrialState) -> list[LiveTrial]:
        return [t for t in self.trials.values() if t.state in states]

    def running(self) -> list[LiveTrial]:
        return self.of(TrialState.RUNNING)

    def searched(self) -> list[LiveTrial]:
        return [t for t in self.trials.values() if t.kind == "search"]

    def live(self, attempt_id: str) -> LiveTrial | None:
        """The trial whose live attempt this is; None if it has ended."""
        trial = self.trials[attempt_id.rsplit("-a", 1)[0]]
        running = trial.attempt_id == attempt_id and trial.state is TrialState.RUNNING
        return trial if running else None

    def best(self) -> LiveTrial | None:
        """The completed trial with the best value, the first of equal ones."""
        done = [
            t for t in self.searched() if t.state is TrialState.COMPLETED and t.value is not None
        ]
        sign = self.objectives.sign
        return min(done, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)

    def best_unfinished(self) -> LiveTrial | None:
        """If no trial has completed: the running one with the lowest held-out loss, whose
        checkpoint is all that there is of the sweep."""
        if self.best() is not None:
            return None
        told = {t.id: t.told(1.0).held_out for t in self.running() if t.kind == "search"}
        measured = {i: loss for i, loss in told.items() if loss is not None}
        return self.trials[min(measured, key=lambda i: measured[i])] if measured else None

    def history(self) -> list[Told]:
        """All search trials so far, as the sampler wants them: lower is better."""
        sign = self.objectives.sign
        history: list[Told] = []
        for trial in self.searched():
            told = self._told.get(trial.id) or trial.told(sign)
            if trial.state.ended:
                self._told[trial.id] = told  # for good, unless a user revives it
            history.append(told)
        return history

    def progress(self) -> float:
        """Share of the sweep's expected work that is done, from 0 to 1."""
        done = sum(
            1.0 if t.state.ended else min(1.0, t.samples / max(1, t.total_samples))
            for t in self.searched()
        )
        return min(1.0, done / max(1, self.planned))

    @property
    def store_address(self) -> str | None:
        """Where checkpoints of this sweep are kept, if not in its folder."""
        store = self.spec.checkpoints.store
        return None if store is None else f"{store.rstrip('/')}/{self.lease.sweep_id}"

    # --- changing ----------------------------------------------------------------------------

    def commit(self, *changes: Change | None) -> None:
        """Make changes durable in one transaction, then remember them."""
        made = [change for change in changes if change is not None]
        if made:
            self.writer.write(lambda tx: [change.write(tx) for change in made])
        for change in made:
            change.then()

    def use_space(self, space: Space) -> None:
        """Propose configurations from `space` from now on."""
        self.space = space
        self.proposer = make_proposer(
            space, self.spec.search, self.spec.constraints, self.spec.in_force
        )

    def new(
        self,
        kind: TrialKind,
        params: dict[str, Any],
        *,
        model: str | None = None,
        parent: str | None = None,
        offset: int = 0,
    ) -> LiveTrial:
        """A trial that is not in the database yet: commit `adding(it)`. `offset`: how many others
        are committed before it.

        Raises pydantic.ValidationError if its parameters don't make a configuration.
        """
        number = len(self.trials) + offset
        config = trial_config(
            self.spec,
            kind,
            params,
            output_dir=str(self.folder / f"trial-{number}"),
            cache_dir=str(self._cache),
            checkpoint_seconds=self._checkpoint_seconds,
            model=model,
        )
        total = int(config["max_samples"]) if kind != "search" else self._total(config)
        if kind == "search":
            config["eval_at"] = list(self.scheduler.rungs(total))
        trial_id = f"{self.lease.sweep_id}-{number}"
        return LiveTrial(
            trial_id, number, kind, TrialState.PENDING, params, config, total, parent=parent
        )

    def adding(self, trial: LiveTrial) -> Change:
        def remember() -> None:
            self.trials[trial.id] = trial
            self.introduce(trial)

        return Change(
            lambda tx: tx.add_trial(
                trial.number,
                trial.kind,
                trial.params,
                trial.config,
                trial.total_samples,
                parent=trial.parent,
                fingerprint=trial.fingerprint,
            ),
            remember,
        )

    def introduce(self, trial: LiveTrial) -> None:
        """Tell the scheduler of a search trial."""
        if trial.kind != "search":
            return
        self.scheduler.add(
            TrialInfo(trial.id, trial.number, trial.params, trial.total_samples, self.planned)
        )
        if trial.pinned:
            self.scheduler.pin(trial.id, True)

    def start(self, trial: LiveTrial, *before: Change) -> Attempt:
        """Begin the trial's next attempt; `before` is committed together with that."""
        resume = trial.checkpoint
        numbers: list[int] = []
        begin = Change(lambda tx: numbers.append(tx.start_attempt(trial.id, resume)))
        self.commit(*before, begin)
        trial.attempt, trial.state, trial.intent = numbers[-1], TrialState.RUNNING, None
        trial.reason = trial.message = trial.why_pending = None
        self.resumed_from[trial.id] = resume
        config = dict(trial.config)
        # A folder an attempt, so that a stale writer can't touch what a live one writes.
        attempt = f"attempt-{trial.attempt}"
        config["output_dir"] = str(Path(config["output_dir"]) / attempt)
        if self.spec.checkpoints.store is not None:
            config["store"] = f"{self.store_address}/trial-{trial.number}/{attempt}"
        config |= self._allowed(trial)
        text = TrainConfig.model_validate(config).model_dump_json()
        return Attempt(trial.attempt_id, trial.id, trial.attempt, text, resume)

    def _allowed(self, trial: LiveTrial) -> dict[str, Any]:
        """What the attempt may open and run, as the server's settings and admins have it now."""
        roots = self._roots.model_copy(update={"tasks": self.facts.get("tasks_code")})
        if trial.kind == "report":  # its model is one that this sweep has written
            roots = roots.model_copy(update={"models": None})
        found: dict[str, Any] = {"roots": roots.model_dump(mode="json")}
        spec = self.spec
        if spec.trust_remote_code:
            allowed = self.writer.read(lambda: self.store.code.revisions(spec.model))
            found["trust_remote_code"] = spec.model_revision in allowed
        return found

    def deciding(self, decision: Decision, *, acted: bool) -> Change:
        return Change(lambda tx: tx.decide(decision, acted=acted))

    def ending_attempt(
        self, trial: LiveTrial, verdict: Verdict, value: float | None = None
    ) -> Change:
        """The live attempt ends, and its trial is what the verdict says."""
        completed = verdict.state is TrialState.COMPLETED
        also = self.objectives.also(trial) if completed else {}
        # One that the scheduler had set aside goes on waiting for its call, however it was lost.
        called_later = verdict.state is TrialState.PENDING and trial.pausing
        state = TrialState.PAUSED if called_later else verdict.state
        damaged = self._unreadable(trial) if verdict.damaged else []
        config = trial.config
        if verdict.cap is not None:
            config = config | {"max_tokens_per_microbatch": verdict.cap}

        def write(tx: DriverTransaction) -> None:
            tx.end_attempt(
                trial.id,
                trial.attempt,
                state,
                verdict.reason,
                verdict.message,
                value,
                also or None,
            )
            if damaged:
                tx.note_damaged(trial.id, damaged)
            if verdict.cap is not None:
                tx.configure(trial.id, config)

        def remember() -> None:
            trial.config = config
            trial.checkpoints = [path for path in trial.checkpoints if path not in damaged]
            if verdict.reason == "infrastructure" and verdict.state is TrialState.PENDING:
                trial.lost += 1
            if verdict.reason in ("oom", "checkpoint"):
                trial.retries += 1
            trial.also = also
            self._settle(trial, state, verdict.reason, verdict.message, value)

        return Change(write, remember)

    def ending(self, trial: LiveTrial, state: TrialState, reason: str, message: str) -> Change:
        """A trial that isn't running ends."""
        return Change(
            lambda tx: tx.end_trial(trial.id, state, reason, message),
            lambda: self._settle(trial, state, reason, message, None),
        )

    def setting_aside(self, trial: LiveTrial, reason: str, message: str) -> Change:
        """A trial that waits to run is to wait for a call instead."""
        return Change(
            lambda tx: tx.set_aside(trial.id, reason, message),
            lambda: self._settle(trial, TrialState.PAUSED, reason, message, None),
        )

    def calling_back(self, trial: LiveTrial, reason: str, message: str) -> Change:
        """A paused or ended trial is to run again."""
        return Change(
            lambda tx: tx.call_back(trial.id, reason, message),
            lambda: self._settle(trial, TrialState.PENDING, reason, message, None),
        )

    def pinning(self, trial: LiveTrial, pinned: bool) -> Change:
        def remember() -> None:
            trial.pinned = pinned
            self.scheduler.pin(trial.id, pinned)

        return Change(lambda tx: tx.pin(trial.id, pinned), remember)

    def planning(self, planned: int) -> Change:
        return Change(
            lambda tx: tx.set_plan(planned=planned), lambda: setattr(self, "planned", planned)
        )

    def explain(self, reasons: dict[str, str | None]) -> None:
        """Say why trials wait, where that has changed."""
        news = {i: why for i, why in reasons.items() if self.trials[i].why_pending != why}
        if news:
            self.commit(Change(lambda tx: tx.wait_for(news)))
            for trial_id, why in news.items():
                self.trials[trial_id].why_pending = why

    # --- taking over -------------------------------------------------------------------------

    def rebuild(self) -> list[tuple[LiveTrial, Decision]]:
        """Take over from an earlier driver, whose trials the lease has put back to PENDING.

        The order in which the scheduler is fed doesn't matter to it. Returns the decisions that the
        earlier driver had made, or was due to make, and did not carry out.
        """
        for row in self.rows.trials:
            trial = LiveTrial.of(row)
            self.trials[trial.id] = trial
            self.introduce(trial)
            self.prices.learn((c.bytes, c.seconds) for c in row.checkpoints[:1])
        acted: dict[str, Decision] = {}
        for stored in self.rows.decisions:
            self.scheduler.replay(stored.decision)
            if stored.acted:
                acted[stored.decision.trial_id] = stored.decision
        search = [row for row in self.rows.trials if row.kind == "search"]
        for row in search:
            if row.state.ended:
                self.scheduler.completed(row.id, self.objectives.outcome(self.trials[row.id]))
        acts = self.spec.scheduler.mode == "act"
        for row in search:
            decision = self.scheduler.observe(row.id, row.steps, row.evaluations)
            if decision is not None and not row.state.ended:
                self.commit(self.deciding(decision, acted=acts))
                if acts:
                    acted[row.id] = decision
        return [
            (trial, acted[trial.id])
            for trial in self.trials.values()
            if not trial.state.ended and trial.id in acted and not trial.waits_for_user
        ]

    # --- parts -------------------------------------------------------------------------------

    def _unreadable(self, trial: LiveTrial) -> list[str]:
        """The checkpoint that the live attempt was to start from, and those beside it: the trainer
        falls back on them by itself, so none of them could be read."""
        given = self.resumed_from.get(trial.id)
        if given is None:
            return []
        beside = given.rsplit("/", 1)[0]
        return [path for path in trial.checkpoints if path.rsplit("/", 1)[0] == beside]

    def _settle(
        self,
        trial: LiveTrial,
        state: TrialState,
        reason: str | None,
        message: str | None,
        value: float | None,
    ) -> None:
        self._told.pop(trial.id, None)
        trial.state, trial.reason, trial.message, trial.value = state, reason, message, value
        trial.intent = trial.why_pending = None

    def _total(self, config: dict[str, Any]) -> int:
        return total_samples(TrainConfig.model_validate(config), self.facts)


def resumed(trial_id: str, samples: int, by: str, reason: str) -> Decision:
    """A user calls a trial back, told to the scheduler as if it had done so itself."""
    return Decision(
        trial_id, Action.RESUME, "user", f"{reason} by {by}", "user", samples, {"by": by}
    )


def _trained_weights(spec: SweepSpec, facts: dict[str, Any]) -> int | None:
    """How many weights a checkpoint holds; None if that isn't known: adapters are small."""
    if spec.training.method in ("lora", "qlora"):
        return None
    found = facts.get("parameters")
    return found if isinstance(found, int) else None
