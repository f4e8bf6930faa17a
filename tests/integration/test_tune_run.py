"""Attempts on a real Ray with real DeepSpeed ranks: reuse, yielding, and workers that die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from orchestrator.raytune import tune_run
from orchestrator.raytune.assignment import Assignment, GroupShape
from orchestrator.raytune.workers import Control
from tests.fixtures.ray_cluster import rank_pids
from tests.fixtures.tiny_model import make_tiny_model, sums, write_jsonl
from trainer.config import DataConfig, EvalSet, TrainConfig, TrainSet
from trainer.metrics import Batch

pytestmark = [
    pytest.mark.ray,
    pytest.mark.deepspeed,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("ray_cluster"),
]


@dataclass
class Script:
    """A conductor that runs given configurations in order and keeps what they report."""

    waiting: list[Assignment]
    limit: int = 1
    answer: Callable[[str, Batch], Control] = lambda _id, _batch: "go"
    asks: Callable[[], list[tuple[str, Control]]] = list
    reports: dict[str, list[Batch]] = field(default_factory=dict)
    lost_attempts: dict[str, str] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)
    most_live: int = 0
    pids: dict[str, list[int]] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return not self.waiting and not self.live

    def next(self) -> Assignment | None:
        if not self.waiting:
            return None
        assignment = self.waiting.pop(0)
        self.live.add(assignment.attempt_id)
        self.most_live = max(self.most_live, len(self.live))
        return assignment

    def report(self, attempt_id: str, batch: Batch) -> Control:
        self.reports.setdefault(attempt_id, []).append(batch)
        self.pids[attempt_id] = rank_pids()
        if batch.status != "running":
            self.live.discard(attempt_id)
        return self.answer(attempt_id, batch)

    def lost(self, attempt_id: str, message: str) -> None:
        self.lost_attempts[attempt_id] = message
        self.live.discard(attempt_id)

    def tick(self) -> list[tuple[str, Control]]:
        return self.asks()

    def end(self, attempt_id: str) -> Batch:
        return self.reports[attempt_id][-1]

    def steps(self, attempt_id: str) -> list[int]:
        return [s.step for b in self.reports[attempt_id] for s in b.steps]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    make_tiny_model(folder / "model")
    write_jsonl(folder / "train.jsonl", sums(64))
    write_jsonl(folder / "eval.jsonl", sums(8, seed=1))
    return folder


def attempt(folder: Path, name: str, **changes: object) -> Assignment:
    config: dict[str, object] = {
        "model": str(folder / "model"),
        "data": DataConfig(
            train=(TrainSet(path=str(folder / "train.jsonl")),),
            eval=(EvalSet(path=str(folder / "eval.jsonl"), name="sums"),),
            cache_dir=str(folder / "cache"),
        ),
        "output_dir": str(folder / name),
        "learning_rate": 1e-3,
        "effective_batch_size": 8,
        "max_samples": 64,
        "exact_match": False,
        "export": False,
    }
    text = TrainConfig.model_validate(config | changes).model_dump_json()
    return Assignment(name, name.rsplit("-a", 1)[0], 1, text, None)


ONE = GroupShape(ranks=1, cpus_per_rank=1, gpus_per_rank=0, report_seconds=0.2)
TWO = GroupShape(ranks=2, cpus_per_rank=1, gpus_per_rank=0, report_seconds=0.2)


@pytest.fixture(scope="module")
def two_slots(folder: Path) -> Script:
    """Seven attempts of one rank each, two at a time; the first ends at its rung."""

    def pause_at_rung(attempt_id: str, batch: Batch) -> Control:
        return "pause" if attempt_id == "p-1-a1" and batch.evaluations else "go"

    bad = attempt(folder, "b-1-a1", model=str(folder / "no-such-model"))
    rest = [attempt(folder, f"w-{n}-a1") for n in range(5)]
    paused = attempt(folder, "p-1-a1", eval_at=[16])
    script = Script([paused, bad, *rest], limit=2, answer=pause_at_rung)
    tune_run.run(script, ONE)
    return script


def test_two_slots_run_two_attempts_at_once_on_warm_ranks(two_slots: Script) -> None:
    assert two_slots.most_live == 2
    assert [two_slots.end(f"w-{n}-a1").status for n in range(5)] == ["completed"] * 5
    assert not two_slots.lost_attempts
    # One more than there are slots: the rank in which an attempt failed is not used again.
    assert len({pid for pids in two_slots.pids.values() for pid in pids}) <= 3


def test_a_pause_at_a_rung_takes_effect_before_the_next_step(two_slots: Script) -> None:
    end = two_slots.end("p-1-a1")
    assert end.status == "yielded"
    assert two_slots.steps("p-1-a1") == [1, 2]
    assert [c.kind for c in end.checkpoints] == ["state"]
    assert end.checkpoints[0].step == 2


def test_a_trial_that_raises_says_why_and_the_others_go_on(two_slots: Script) -> None:
    end = two_slots.end("b-1-a1")
    assert end.status == "failed"
    assert end.failure is not None
    assert end.failure.code == "config"
    assert "no-such-model" in end.failure.message
    assert not end.notes.get("infrastructure")


def test_groups_of_two_are_reused_until_a_rank_dies_and_hear_a_stop(folder: Path) -> None:
    killed: list[int] = []

    def kill_once(attempt_id: str, batch: Batch) -> Control:
        if attempt_id == "k-1-a1" and batch.status == "running" and not killed:
            killed.append(rank_pids()[-1])
            os.kill(killed[0], signal.SIGKILL)
        return "go"

    script = Script(
        [
            *[attempt(folder, f"s-{n}-a1") for n in range(2)],
            attempt(folder, "k-1-a1", max_samples=64_000),
            attempt(folder, "k-2-a1"),
            attempt(folder, "o-1-a1", max_samples=640_000),
        ],
        answer=kill_once,
    )
    script.asks = lambda: [("o-1-a1", "stop")] if script.reports.get("o-1-a1") else []
    tune_run.run(script, TWO)

    assert [script.end(f"s-{n}-a1").status for n in range(2)] == ["completed"] * 2
    assert all(script.steps(f"s-{n}-a1") == list(range(1, 9)) for n in range(2))
    assert len(script.pids["s-0-a1"]) == 2
    assert script.pids["s-0-a1"] == script.pids["s-1-a1"]
    assert script.most_live == 1

    # The killed rank is reported, and the next attempt gets new workers.
    assert "the trial's process was lost" in script.lost_attempts["k-1-a1"]
    assert script.end("k-2-a1").status == "completed"
    assert killed[0] not in script.pids["k-2-a1"]

    # A stop from outside reaches an attempt that trains.
    assert script.end("o-1-a1").status == "yielded"


def test_workers_that_hang_are_ended_when_they_do_not_yield_and_none_outlives_its_run(
    folder: Path,
) -> None:
    stopped: list[int] = []

    def freeze(attempt_id: str, batch: Batch) -> Control:
        if attempt_id == "h-1-a1" and batch.status == "running" and not stopped:
            stopped.append(rank_pids()[0])
            os.kill(stopped[0], signal.SIGSTOP)
        return "go"

    hung = attempt(folder, "h-1-a1", max_samples=640_000)
    script = Script([hung, attempt(folder, "h-2-a1")], answer=freeze)
    script.asks = lambda: [("h-1-a1", "stop")] if stopped and "h-1-a1" in script.live else []
    tune_run.run(script, ONE, yield_seconds=2.0)
    assert script.end("h-1-a1").status == "failed"
    assert script.end("h-2-a1").status == "completed"

    deadline = time.monotonic() + 60
    while rank_pids() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rank_pids() == []


def test_attempts_shorter_than_a_groups_start_do_not_keep_the_other_slots_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Brief(tune.Trainable):
        """An attempt that is over sooner than another process can start."""

        def setup(self, config: dict[str, Any], environment: object = None) -> None:
            pass

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            time.sleep(0.05)
            return {"batch": Batch(status="completed", notes={"pid": os.getpid()}), "done": True}

    class UntilThreeSlots(Script):
        """Attempts as long as fewer than three processes have taken part."""

        def next(self) -> Assignment | None:
            if self.shells >= 3 or time.monotonic() > deadline:
                self.waiting.clear()
            else:
                number = len(self.reports) + len(self.live)
                self.waiting.append(Assignment(f"q-{number}-a1", f"q-{number}", 1, "{}", None))
            return super().next()

        @property
        def finished(self) -> bool:
            return (self.shells >= 3 or time.monotonic() > deadline) and super().finished

        @property
        def shells(self) -> int:
            return len({r[-1].notes["pid"] for r in self.reports.values()})

    monkeypatch.setattr(tune_run, "TrialShell", Brief)
    deadline = time.monotonic() + 120
    script = UntilThreeSlots([], limit=3)
    tune_run.run(script, ONE)
    assert script.shells == 3
    assert script.most_live == 3
