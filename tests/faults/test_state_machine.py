"""Any sequence of drivers and users against the store, compared with a model in plain Python.

The model knows what a sweep and its trials are, and which requests must be refused with what. Each
example has a sweep of its own; in the end the oracle looks at the whole database.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.errors import Conflict, InvalidTransition, LeaseLost
from orchestrator.store import Lease, Store
from orchestrator.store.driver import DriverTransaction
from tests.faults.oracle import Evidence, judge
from tests.fixtures.studies import FACTS, spec
from trainer.metrics import Batch, CheckpointRecord, StepRecord
from winnow.types import SweepState, TrialState

PENDING, RUNNING, PAUSED = TrialState.PENDING, TrialState.RUNNING, TrialState.PAUSED
ENDS = (TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED, TrialState.CANCELED)
AFTER_ATTEMPT = (*ENDS, PENDING, PAUSED)


@dataclass
class ModelTrial:
    """What a trial should be. `points`: step → attempt that counts; `saved`: path → step."""

    state: TrialState = PENDING
    attempt: int = 0
    step: int = 0
    points: dict[int, int] = field(default_factory=dict)
    saved: dict[str, int] = field(default_factory=dict)
    ends: int = 0


class Machine(RuleBasedStateMachine):
    """One sweep, drivers that come and go, and users."""

    store: Store

    @initialize(begun=st.booleans())
    def submit(self, begun: bool) -> None:
        self.sweep = self.store.create_sweep(spec(), 3, "model", FACTS).id
        self.state = SweepState.QUEUED
        self.trials: list[ModelTrial] = []
        self.holder: Lease | None = None
        self.stale: list[Lease] = []
        self.epoch = 0
        if begun:  # most rules need a trial that runs
            self.a_driver_comes()
            for number in range(2):
                self.it_adds_a_trial(again=False)
                self._start(number, None)

    # --- drivers -----------------------------------------------------------------------------

    @rule()
    def a_driver_comes(self) -> None:
        lease = self.store.acquire_lease(self.sweep, "a driver", 600)
        free = self.holder is None and self.state in (SweepState.QUEUED, SweepState.RUNNING)
        assert (lease is not None) == free
        if lease is None:
            return
        self.epoch += 1
        assert lease.epoch == self.epoch
        self.holder, self.state = lease, SweepState.RUNNING
        for trial in self.trials:
            if trial.state is RUNNING:
                trial.state = PENDING

    @rule(expired=st.booleans())
    def the_driver_goes(self, expired: bool) -> None:
        if self.holder is None:
            assert not self.store.expire_lease(self.sweep, self.epoch)
            return
        if expired:
            assert self.store.expire_lease(self.sweep, self.epoch)
        else:
            assert self.store.release(self.holder)
        self.stale.append(self.holder)
        self.holder = None

    @precondition(lambda self: self.holder is not None)
    @rule()
    def it_renews(self) -> None:
        assert self.store.renew(self.holder, 600)  # type: ignore[arg-type]

    @precondition(lambda self: bool(self.stale))
    @rule(data=st.data())
    def one_that_was_replaced_writes(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.stale))
        assert not self.store.renew(lease, 600)
        for write in (
            lambda: self.store.add_trial(lease, 99, "search", {}, {}, 10),
            lambda: self.store.end_sweep(lease, SweepState.FAILED),
            lambda: self.store.keep_scheduler_summary(lease, {}),
        ):
            with pytest.raises(LeaseLost):
                write()

    @precondition(lambda self: self.holder is not None and bool(self.stale))
    @rule(data=st.data())
    def a_driver_long_gone_is_proved_dead(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.stale))
        assert not self.store.expire_lease(self.sweep, lease.epoch)

    # --- trials ------------------------------------------------------------------------------

    @precondition(lambda self: self.holder is not None and len(self.trials) < 4)
    @rule(again=st.booleans())
    def it_adds_a_trial(self, again: bool) -> None:
        number = len(self.trials)
        if again and number:
            with pytest.raises(Conflict):
                self._add(number - 1)
        if self.state.ended:
            return
        assert self._add(number) == f"{self.sweep}-{number}"
        self.trials.append(ModelTrial())

    @precondition(lambda self: self.holder is not None and bool(self.trials))
    @rule(data=st.data())
    def it_starts_an_attempt(self, data: st.DataObject) -> None:
        number, trial = self._pick(data)
        path = data.draw(st.sampled_from([None, *trial.saved]))
        lease = self._lease()
        if trial.state not in (PENDING, PAUSED):
            with pytest.raises(InvalidTransition):
                self.store.start_attempt(lease, self._id(number), path)
            return
        self._start(number, path)

    @precondition(lambda self: self.holder is not None and bool(self.trials))
    @rule(data=st.data(), beyond=st.integers(0, 3))
    def it_loses_its_workers_beyond_a_checkpoint(self, data: st.DataObject, beyond: int) -> None:
        """The next attempt goes on at the checkpoint, and computes what came after it again."""
        number, trial = self._pick(data)
        if trial.state is not RUNNING:
            return
        id, lease = self._id(number), self._lease()
        saving = self._batch(number, trial, 2, True)
        path = saving.checkpoints[0].path
        if path in trial.saved:
            return
        self.store.record(lease, id, trial.attempt, saving)
        trial.points |= {record.step: trial.attempt for record in saving.steps}
        trial.step += 2
        trial.saved[path] = trial.step
        self.store.record(lease, id, trial.attempt, self._batch(number, trial, beyond, False))
        self.store.end_attempt(lease, id, trial.attempt, PENDING, "infrastructure")
        self._start(number, path)
        again = self._batch(number, trial, 1, False)
        self.store.record(lease, id, trial.attempt, again)
        trial.points[again.steps[0].step] = trial.attempt
        trial.step += 1

    @precondition(lambda self: self.holder is not None and bool(self.trials))
    @rule(data=st.data(), steps=st.integers(0, 3), saves=st.booleans(), late=st.booleans())
    def it_records(self, data: st.DataObject, steps: int, saves: bool, late: bool) -> None:
        number, trial = self._pick(data)
        attempt = trial.attempt - late
        batch = self._batch(number, trial, steps, saves)
        write = lambda: self.store.record(self._lease(), self._id(number), attempt, batch)  # noqa: E731
        if late or trial.state is not RUNNING:
            with pytest.raises(Conflict):
                write()
            return
        path = batch.checkpoints[0].path if batch.checkpoints else None
        if path in trial.saved:
            return
        write()
        for record in batch.steps:
            trial.points[record.step] = attempt
        trial.step += len(batch.steps)
        if path is not None:
            trial.saved[path] = trial.step

    @precondition(lambda self: self.holder is not None and bool(self.trials))
    @rule(data=st.data())
    def it_records_the_same_steps_twice(self, data: st.DataObject) -> None:
        number, trial = self._pick(data)
        mine = [s for s, a in trial.points.items() if a == trial.attempt]
        if trial.state is RUNNING and mine:
            batch = Batch(status="running", steps=(_step(mine[-1]),))
            with pytest.raises(Conflict):
                self.store.record(self._lease(), self._id(number), trial.attempt, batch)

    @precondition(lambda self: self.holder is not None and bool(self.trials))
    @rule(data=st.data(), state=st.sampled_from(AFTER_ATTEMPT))
    def it_ends_an_attempt(self, data: st.DataObject, state: TrialState) -> None:
        number, trial = self._pick(data)
        write = lambda: self.store.end_attempt(  # noqa: E731
            self._lease(), self._id(number), trial.attempt, state, "why"
        )
        if trial.state is not RUNNING:
            with pytest.raises(Conflict):
                write()
            return
        write()
        self._move(trial, state)

    @precondition(lambda self: self.holder is not None and bool(self.trials))
    @rule(data=st.data(), state=st.sampled_from(ENDS))
    def it_ends_a_trial(self, data: st.DataObject, state: TrialState) -> None:
        number, trial = self._pick(data)
        legal = (trial.state is PENDING) or (
            trial.state is PAUSED and state in (TrialState.PRUNED, TrialState.CANCELED)
        )
        write = lambda: self.store.end_trial(self._lease(), self._id(number), state, "why")  # noqa: E731
        if not legal:
            with pytest.raises(Conflict):
                write()
            return
        write()
        self._move(trial, state)

    @precondition(lambda self: self.holder is not None and bool(self.trials))
    @rule(data=st.data())
    def it_does_half_and_fails(self, data: st.DataObject) -> None:
        """A transaction that raises leaves nothing behind."""
        number, trial = self._pick(data)
        before = self.store.last_event_id()

        def half(tx: DriverTransaction) -> None:
            if trial.state is RUNNING:
                tx.record(self._id(number), trial.attempt, self._batch(number, trial, 2, False))
                tx.end_attempt(self._id(number), trial.attempt, TrialState.FAILED)
            else:
                tx.add_trial(77, "search", {}, {}, 10)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            self.store.write(self._lease(), half)
        assert self.store.last_event_id() == before

    @precondition(lambda self: self.holder is not None)
    @precondition(lambda self: len(self.trials) > 2)  # not so soon
    @rule(state=st.sampled_from((SweepState.COMPLETED, SweepState.FAILED, SweepState.CANCELED)))
    def it_ends_the_sweep(self, state: SweepState) -> None:
        open_trials = [t for t in self.trials if not t.state.ended]
        legal = self.state is SweepState.RUNNING and not (
            state is SweepState.COMPLETED and open_trials
        )
        if not legal:
            with pytest.raises(InvalidTransition):
                self.store.end_sweep(self._lease(), state)
            return
        self.store.end_sweep(self._lease(), state)
        self.state = state
        for trial in open_trials:
            self._move(trial, TrialState.CANCELED)

    # --- users -------------------------------------------------------------------------------

    @rule()
    def a_user_cancels(self) -> None:
        if self.state.ended:
            with pytest.raises(Conflict):
                self.store.add_command(self.sweep, None, "cancel", "a user")
            return
        one = self.store.add_command(self.sweep, None, "cancel", "a user")
        assert self.store.add_command(self.sweep, None, "cancel", "a user").id == one.id

    @precondition(lambda self: self.state is not SweepState.QUEUED)
    @rule()
    def a_user_cancels_what_has_begun_as_if_it_had_not(self) -> None:
        assert not self.store.cancel_queued(self.sweep)

    @precondition(lambda self: bool(self.trials))
    @rule(data=st.data())
    def a_user_stops_a_trial(self, data: st.DataObject) -> None:
        number, trial = self._pick(data)
        if trial.state.ended:
            with pytest.raises(Conflict):
                self.store.add_command(self.sweep, self._id(number), "stop", "a user")
        else:
            self.store.add_command(self.sweep, self._id(number), "stop", "a user")

    @rule()
    def the_driver_answers(self) -> None:
        for command in self.store.pending_commands(self.sweep):
            self.store.finish_command(command.id, "done")
        assert self.store.pending_commands(self.sweep) == []

    # --- what must hold ----------------------------------------------------------------------

    @invariant()
    def the_rows_are_as_the_model_says(self) -> None:
        if not hasattr(self, "sweep"):
            return
        rows = self.store.sweep_rows(self.sweep)
        assert rows.state is self.state
        assert [(t.state, t.attempt, t.step) for t in rows.trials] == [
            (t.state, t.attempt, t.step) for t in self.trials
        ]
        for row, trial in zip(rows.trials, self.trials, strict=True):
            assert [s.step for s in row.steps] == sorted(trial.points)
            assert {c.path: c.step for c in row.checkpoints} == trial.saved
        held = [d.sweep_id for d in self.store.live_drivers()]
        assert (self.sweep in held) == (self.holder is not None)

    def teardown(self) -> None:
        """Leave no open commands and no lease behind, for the oracle."""
        if hasattr(self, "sweep") and self.holder is not None:
            self.store.release(self.holder)

    # --- parts -------------------------------------------------------------------------------

    def _lease(self) -> Lease:
        assert self.holder is not None
        return self.holder

    def _id(self, number: int) -> str:
        return f"{self.sweep}-{number}"

    def _pick(self, data: st.DataObject) -> tuple[int, ModelTrial]:
        number = data.draw(st.integers(0, len(self.trials) - 1))
        return number, self.trials[number]

    def _add(self, number: int) -> str:
        return self.store.add_trial(self._lease(), number, "search", {"n": number}, {}, 100)

    def _start(self, number: int, path: str | None) -> None:
        trial = self.trials[number]
        trial.attempt += 1
        assert self.store.start_attempt(self._lease(), self._id(number), path) == trial.attempt
        trial.state = RUNNING
        trial.step = trial.saved[path] if path else 0
        trial.points = {s: a for s, a in trial.points.items() if s <= trial.step}
        trial.saved = {p: s for p, s in trial.saved.items() if s <= trial.step}

    def _batch(self, number: int, trial: ModelTrial, steps: int, saves: bool) -> Batch:
        records = tuple(_step(trial.step + 1 + n) for n in range(steps))
        last = trial.step + steps
        path = f"/t{number}/attempt-{trial.attempt}/step-{last}"
        saved = (CheckpointRecord(last, 10 * last, "state", path, 1, 0.0),) if saves else ()
        return Batch(status="running", steps=records, checkpoints=saved)

    def _move(self, trial: ModelTrial, state: TrialState) -> None:
        trial.ends += state.ended
        trial.state = state


def _step(number: int) -> StepRecord:
    return StepRecord(number, 10 * number, 100 * number, 1.0, 0.5, 1e-3, 0.01, 1, 10)


def test_no_sequence_of_drivers_and_users_breaks_the_store(migrated_url: str) -> None:
    store = Store(migrated_url)
    examples = 40 if migrated_url.startswith("sqlite") else 20
    kind: Any = type("OnThisDatabase", (Machine,), {"store": store})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_state_machine_as_test(
            kind,
            settings=settings(
                max_examples=examples,
                stateful_step_count=30,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
    store.close()
    assert [str(v) for v in judge(Evidence(migrated_url, finished=False))] == []
