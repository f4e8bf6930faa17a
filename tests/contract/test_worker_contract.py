"""The simulated worker of the study tests and the real trainer keep the same promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.fixtures.simulated_worker import TRAIN_SAMPLES, SimulatedRun
from tests.fixtures.tiny_model import make_tiny_model, sums, write_jsonl
from trainer.config import DataConfig, EvalSet, TrainConfig, TrainSet
from trainer.metrics import Batch


class Worker(Protocol):
    def advance(self, control: Any) -> Batch: ...


Make = Callable[..., Worker]


class RealRun:
    """`trainer.loop.Run` with the simulated worker's call."""

    def __init__(self, config: TrainConfig, resume_from: str | None = None) -> None:
        from trainer.loop import Run

        self.run = Run(config, resume_from=Path(resume_from) if resume_from else None)

    def advance(self, control: Any) -> Batch:
        return self.run.advance(0.05, lambda: control)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contract")
    make_tiny_model(folder / "model")
    write_jsonl(folder / "train.jsonl", sums(TRAIN_SAMPLES))
    write_jsonl(folder / "held-out.jsonl", sums(8, seed=1))
    return folder


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.deepspeed)])
def make(request: pytest.FixtureRequest, files: Path, tmp_path: Path) -> Iterator[Make]:
    """Builds a worker from changes to a small configuration."""
    if request.param == "real":
        request.getfixturevalue("process_group")
    made: list[Any] = []

    def build(resume_from: str | None = None, **changes: Any) -> Worker:
        config = {
            "model": str(files / "model"),
            "data": DataConfig(
                train=(TrainSet(path=str(files / "train.jsonl")),),
                eval=(EvalSet(path=str(files / "held-out.jsonl"), name="held-out"),),
                test=(EvalSet(path=str(files / "held-out.jsonl"), name="test"),),
                cache_dir=str(files / "cache"),
            ),
            "output_dir": str(tmp_path / "run"),
            "learning_rate": 1e-3,
            "effective_batch_size": 8,
            "max_samples": 44,
            "max_new_tokens": 4,
        }
        kind = RealRun if request.param == "real" else SimulatedRun
        made.append(kind(TrainConfig.model_validate(config | changes), resume_from))
        return made[-1]

    yield build
    for worker in made:
        if isinstance(worker, RealRun):
            worker.run.close()


def to_the_end(worker: Worker) -> list[Batch]:
    batches = [worker.advance("go")]
    while batches[-1].status == "running":
        batches.append(worker.advance("go"))
    return batches


def test_a_run_takes_all_steps_and_only_the_last_is_short(make: Make) -> None:
    batches = to_the_end(make())
    steps = [s for b in batches for s in b.steps]
    assert batches[-1].status == "completed"
    assert [s.step for s in steps] == [1, 2, 3, 4, 5, 6]
    assert [s.samples for s in steps] == [8, 16, 24, 32, 40, 44]
    assert [s.batch_samples for s in steps] == [8, 8, 8, 8, 8, 4]
    assert (batches[-1].total_steps, batches[-1].total_samples) == (6, 44)


def test_the_last_report_carries_the_evaluation_and_the_export(make: Make) -> None:
    end = to_the_end(make())[-1]
    assert [(e.split, e.dataset, e.step) for e in end.evaluations] == [("eval", "held-out", 6)]
    assert end.evaluations[0].exact_match is not None
    assert [c.kind for c in end.checkpoints] == ["export"]
    assert Path(end.checkpoints[0].path).is_dir()


def test_a_report_ends_at_each_rung_with_its_evaluation(make: Make) -> None:
    batches = to_the_end(make(eval_at=[10, 32]))
    held = [b for b in batches if b.evaluations and b.status == "running"]
    assert [b.steps[-1].samples for b in held] == [16, 32]
    assert [b.evaluations[0].samples for b in held] == [16, 32]


def test_a_pause_yields_with_a_checkpoint_to_go_on_from(make: Make) -> None:
    worker = make(eval_at=[10, 32])
    while not (batch := worker.advance("go")).evaluations:
        pass
    yielded = worker.advance("pause")
    assert (yielded.status, yielded.steps) == ("yielded", ())
    (checkpoint,) = yielded.checkpoints
    assert (checkpoint.kind, checkpoint.step) == ("state", batch.steps[-1].step)
    resumed = to_the_end(make(eval_at=[10, 32], resume_from=checkpoint.path))
    assert [s.step for b in resumed for s in b.steps] == [3, 4, 5, 6]
    assert [b.evaluations[0].samples for b in resumed if b.evaluations] == [32, 44]


def test_a_stop_yields_without_a_checkpoint(make: Make) -> None:
    worker = make(max_samples=800)
    worker.advance("go")
    yielded = worker.advance("stop")
    assert (yielded.status, yielded.checkpoints) == ("yielded", ())


def test_no_samples_means_evaluation_only(make: Make) -> None:
    batches = to_the_end(make(max_samples=0, evaluate_test=True, export=False))
    assert [s for b in batches for s in b.steps] == []
    assert {(e.split, e.step) for e in batches[-1].evaluations} == {("eval", 0), ("test", 0)}
    assert batches[-1].checkpoints == ()


def test_a_loss_that_is_not_finite_fails_the_run_as_diverged(make: Make) -> None:
    end = to_the_end(make(learning_rate=900.0, max_grad_norm=None, max_samples=800))[-1]
    assert end.status == "failed"
    assert end.failure is not None
    assert end.failure.code == "diverged"
    assert end.steps[-1].loss is None or end.steps[-1].grad_norm is None
