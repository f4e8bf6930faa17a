"""A sweep as its driver would write it, one call a thing that happens. Numbers are synthetic."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.schedulers.base import Action, Decision
from orchestrator.store import Store
from trainer.metrics import Batch, CheckpointRecord, Evaluation, StepRecord
from winnow.types import SweepState, TrialState

BATCH = 16
TOTAL_STEPS = 64
TOTAL_SAMPLES = BATCH * TOTAL_STEPS


def spec(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "model": "models/tiny",
        "recipe": "lab",
        "data": {"train": [{"path": "train.jsonl"}], "eval": [{"path": "e.jsonl", "name": "e"}]},
        "space": {"learning_rate": {"log_uniform": [1e-5, 1e-2]}},
        "search": {"sampler": "tpe", "trials": 16},
        "scheduler": {"name": "dynamics", "mode": "act"},
        "objective": {"metric": "eval/loss", "mode": "min"},
    }


class LiveSweep:
    """Holds the lease of a sweep and reports for its trials."""

    def __init__(self, store: Store, name: str = "demo", planned: int = 4, **changes: Any) -> None:
        self.store = store
        self.id = store.create_sweep(spec(name) | changes, planned, name).id
        lease = store.acquire_lease(self.id, "test", 600)
        assert lease is not None
        self.lease = lease
        self._attempts: dict[str, int] = {}
        self._steps: dict[str, int] = {}

    @property
    def path(self) -> str:
        return f"/sweeps/{self.id}"

    def baseline(self, loss: float, exact_match: float) -> None:
        """The model before training, judged."""
        trial = self.store.add_trial(self.lease, 0, "baseline", {}, {}, 0)
        attempt = self.store.start_attempt(self.lease, trial)
        measured = Evaluation(0, 0, "eval", "e", loss, 500, exact_match, 100)
        self.store.record(self.lease, trial, attempt, Batch("completed", evaluations=(measured,)))
        self.store.end_attempt(self.lease, trial, attempt, TrialState.COMPLETED)

    def steps(self, trial: str) -> int:
        return self._steps[trial]

    def start(self, number: int, rate: float = 1e-3) -> str:
        """A new running trial. Returns its id."""
        params = {
            "learning_rate": rate,
            "effective_batch_size": BATCH,
            "schedule": "cosine",
        }
        trial = self.store.add_trial(self.lease, number, "search", params, {}, TOTAL_SAMPLES)
        self._attempts[trial] = self.store.start_attempt(self.lease, trial)
        self._steps[trial] = 0
        return trial

    def train(self, trial: str, steps: int, level: float = 1.0) -> None:
        """`steps` optimizer steps, with losses that fall towards `level`."""
        first = self._steps[trial] + 1
        records = tuple(
            StepRecord(
                step=step,
                samples=step * BATCH,
                tokens=step * BATCH * 40,
                loss=level + 2.4 * math.exp(-step / 12),
                grad_norm=0.4 + 2 * math.exp(-step / 9),
                learning_rate=1e-3,
                seconds=0.01,
                memory=1 << 20,
                batch_samples=BATCH,
            )
            for step in range(first, first + steps)
        )
        self._steps[trial] += steps
        self._record(trial, steps=records)

    def evaluate(self, trial: str, loss: float, exact_match: float | None = None) -> None:
        step = self._steps[trial]
        generated = 0 if exact_match is None else 100
        measured = Evaluation(step, step * BATCH, "eval", "e", loss, 500, exact_match, generated)
        self._record(trial, evaluations=(measured,))

    def checkpoint(self, trial: str) -> str:
        """Save where the trial stands. Returns the path."""
        step = self._steps[trial]
        path = f"/checkpoints/{trial}/{self._attempts[trial]}/{step}"
        saved = CheckpointRecord(step, step * BATCH, "state", path, 1, 0.1)
        self._record(trial, checkpoints=(saved,))
        return path

    def restart(self, trial: str, checkpoint: str, step: int) -> None:
        """The trial's workers are lost; a new attempt goes on from a checkpoint."""
        self.store.end_attempt(
            self.lease, trial, self._attempts[trial], TrialState.PENDING, "infrastructure"
        )
        self._attempts[trial] = self.store.start_attempt(self.lease, trial, checkpoint)
        self._steps[trial] = step

    def decide(
        self,
        trial: str,
        action: Action,
        reason: str,
        *,
        rule: str = "rung",
        code: str = "dynamics",
        evidence: dict[str, Any] | None = None,
    ) -> None:
        samples = self._steps[trial] * BATCH
        decision = Decision(trial, action, rule, reason, code, samples, evidence or {})
        self.store.decide(self.lease, decision, acted=True)

    def end(
        self,
        trial: str,
        state: TrialState,
        reason: str | None = None,
        message: str | None = None,
        value: float | None = None,
        also: dict[str, float | None] | None = None,
    ) -> None:
        attempt = self._attempts[trial]
        self.store.end_attempt(self.lease, trial, attempt, state, reason, message, value, also)

    def complete(
        self,
        trial: str,
        loss: float,
        exact_match: float,
        also: dict[str, float | None] | None = None,
    ) -> None:
        """Train to the end, measure, finish."""
        self.train(trial, TOTAL_STEPS - self._steps[trial], loss)
        self.evaluate(trial, loss, exact_match)
        self.end(trial, TrialState.COMPLETED, value=loss, also=also)

    def account(self, summary: dict[str, Any]) -> None:
        """What the scheduler says of its evidence."""
        self.store.keep_scheduler_summary(self.lease, summary)

    def stop(self, trial: str, reason: str) -> None:
        """The scheduler ends the trial."""
        self.decide(trial, Action.STOP, reason)
        self.end(trial, TrialState.PRUNED, "dynamics", reason)

    def diverge(self, trial: str, reason: str) -> None:
        self.decide(trial, Action.STOP, reason, rule="loss-blowup", code="diverged")
        self.end(trial, TrialState.PRUNED, "diverged", reason)

    def finish(self, state: SweepState = SweepState.COMPLETED) -> None:
        self.store.end_sweep(self.lease, state)

    @contextmanager
    def training_on(self, trial: str) -> Iterator[None]:
        """A thread that reports a step every few milliseconds while the block runs."""
        over = threading.Event()

        def report() -> None:
            while not over.wait(0.05):
                self.train(trial, 1)

        writer = threading.Thread(target=report)
        writer.start()
        try:
            yield
        finally:
            over.set()
            writer.join()

    def _record(self, trial: str, **parts: Any) -> None:
        batch = Batch("running", total_steps=TOTAL_STEPS, total_samples=TOTAL_SAMPLES, **parts)
        self.store.record(self.lease, trial, self._attempts[trial], batch)


def sixteen_trials(store: Store) -> LiveSweep:
    """A sweep halfway: some completed, most stopped, one diverged, two running."""
    sweep = LiveSweep(store, "instructions-demo", planned=16)
    sweep.baseline(3.41, 0.03)
    for number in range(1, 15):
        rate = 10 ** (-5 + 3.2 * ((number * 7) % 16) / 15)
        level = 1.1 + 0.5 * abs(math.log10(rate / 1e-3))
        trial = sweep.start(number, rate)
        if rate > 8e-3:
            sweep.train(trial, 9, level)
            sweep.diverge(trial, "its loss stayed above 4.1 for 3 windows of 3 steps")
        elif level < 1.6:
            for steps in (8, 8, 16):
                sweep.train(trial, steps, level)
                sweep.evaluate(trial, level + 2.4 * math.exp(-sweep.steps(trial) / 12))
            sweep.complete(trial, level, 0.9 - level / 4)
        else:
            sweep.train(trial, 8, level)
            sweep.evaluate(trial, level + 1.2)
            sweep.stop(trial, f"held-out loss {level + 1.2:.3f} ranks 5 of 6; the best 3 go on")
    for number, rate in ((15, 4e-4), (16, 2e-3)):
        sweep.train(sweep.start(number, rate), 6 * (number - 12), 1.3)
    return sweep
