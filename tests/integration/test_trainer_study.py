"""What a study asks of a run beyond loss and norm, on one rank with real DeepSpeed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from tests.fixtures.tiny_model import make_tiny_model, sums, write_jsonl
from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.errors import CheckpointError
from trainer.loop import Run
from trainer.metrics import Batch, Evaluation

pytestmark = [pytest.mark.deepspeed, pytest.mark.usefixtures("process_group")]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    make_tiny_model(folder / "model")
    write_jsonl(folder / "train.jsonl", sums(48))
    write_jsonl(folder / "more.jsonl", sums(24, seed=5))
    write_jsonl(folder / "eval.jsonl", sums(12, seed=1))
    write_jsonl(folder / "general.jsonl", sums(10, seed=3))
    return folder


def configure(
    material: Path, output: Path, data: dict[str, Any] | None = None, **fields: Any
) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": str(material / "model"),
            "data": {
                "train": [{"path": str(material / "train.jsonl")}],
                "eval": [{"path": str(material / "eval.jsonl"), "name": "sums"}],
                "cache_dir": str(material / "cache"),
                **(data or {}),
            },
            "output_dir": str(output),
            "learning_rate": 3e-3,
            "effective_batch_size": 8,
            "exact_match": False,
            "export": False,
            **fields,
        }
    )


def to_the_end(run: Run) -> list[Batch]:
    batches: list[Batch] = []
    while not batches or batches[-1].status == "running":
        batches.append(run.advance(100.0))
    return batches


def evaluations(batches: list[Batch]) -> list[Evaluation]:
    return [one for batch in batches for one in batch.evaluations]


def notes(batches: list[Batch]) -> dict[str, Any]:
    return {name: value for batch in batches for name, value in batch.notes.items()}


# --- the two parts of the gradient's norm -----------------------------------------------------


def test_signal_and_noise_come_from_the_norms_of_a_part_and_of_the_whole(
    material: Path, tmp_path: Path
) -> None:
    run = Run(configure(material, tmp_path, max_tokens_per_microbatch=100, max_samples=8))
    step = run._batches.step(0, 0)
    first, everything = step.mine[0], [i for part in step.mine for i in part]
    assert len(step.mine) > 1
    (record,) = to_the_end(run)[0].steps

    def mean_gradient(samples: list[int]) -> tuple[float, int]:
        model = AutoModelForCausalLM.from_pretrained(material / "model")
        loss, count = torch.zeros(()), 0
        for i in samples:
            ids, mask = (torch.tensor(part) for part in run.data.train.sample(i))
            logits = model(input_ids=ids[None].long()).logits[0, :-1]
            wanted = mask[1:]
            loss = loss + cross_entropy(logits[wanted], ids[1:][wanted].long(), reduction="sum")
            count += int(wanted.sum())
        (loss / count).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        return sum(float(gradient.square().sum()) for gradient in gradients), count

    small, few = mean_gradient(first)
    large, all_of_them = mean_gradient(everything)
    inverse = all_of_them / (8 * few)  # 1 / (samples that the first micro-batch is worth)
    noise = (small - large) / (inverse - 1 / 8)
    assert record.grad_norm == pytest.approx(large**0.5, rel=1e-4)
    assert record.noise == pytest.approx(noise, rel=1e-3)
    assert record.grad_sq == pytest.approx(large - noise / 8, rel=1e-3, abs=1e-4)
    run.close()


def test_a_step_of_one_part_has_no_noise_to_tell(material: Path, tmp_path: Path) -> None:
    run = Run(configure(material, tmp_path, max_samples=8))
    (record,) = to_the_end(run)[0].steps
    assert record.noise is None
    assert record.grad_sq is None
    run.close()


def test_what_a_step_was_given_is_recorded(material: Path, tmp_path: Path) -> None:
    for attention in ("linear", "padded"):
        run = Run(configure(material, tmp_path, attention=attention, max_samples=24))
        records = [r for batch in to_the_end(run) for r in batch.steps]
        chosen = run._batches._source.step(0, 0)[0]
        lengths = run.data.train.lengths[chosen]
        assert records[0].input_tokens == lengths.sum()
        for record in records:
            assert 0 <= record.data_wait < record.seconds
            assert record.mfu is None  # nobody knows this device's peak
        if attention == "linear":
            assert records[0].padding == 0
        else:
            step = run._batches.step(0, 0)
            cells = sum(
                len(part) * max(int(run.data.train.lengths[i]) for i in part) for part in step.mine
            )
            assert cells > lengths.sum()
            assert records[0].padding == pytest.approx(1 - lengths.sum() / cells)
        run.close()


# --- curricula --------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
def test_phases_follow_one_another_and_may_start_with_a_fresh_optimizer(
    material: Path, tmp_path: Path, reset: bool
) -> None:
    data = {
        "train": [
            {"path": str(material / "train.jsonl"), "phase": 10},
            {"path": str(material / "more.jsonl"), "phase": 5},
        ],
        "strategy": "phased",
        "reset_optimizer": reset,
    }
    run = Run(configure(material, tmp_path, data, epochs=1))
    assert run.total_samples == 72
    met = [i for k in range(9) for part in run._batches.step(k, 8 * k).mine for i in part]
    assert sorted(met[:24]) == list(range(48, 72))  # phase 5 is the second file
    assert sorted(met[24:]) == list(range(48))
    to_the_end(run)
    assert int(run._engine.shard()["step"]) == (6 if reset else 9)
    run.close()


def test_the_studys_sampler_meets_its_batch_on_average(material: Path, tmp_path: Path) -> None:
    config = configure(material, tmp_path, batching="paper", max_samples=96)
    run = Run(config)
    batches = to_the_end(run)
    records = [r for batch in batches for r in batch.steps]
    assert batches[-1].status == "completed"
    assert len(records) == run.total_steps
    assert records[-1].samples >= 96
    assert records[-2].samples < 96
    sizes = [r.batch_samples for r in records]
    assert len(set(sizes)) > 1
    assert sum(sizes) == records[-1].samples
    assert 5 < sum(sizes) / len(sizes) < 11
    run.close()


# --- the best checkpoint ----------------------------------------------------------------------


def test_the_best_weights_are_exported_if_later_ones_are_worse(
    material: Path, tmp_path: Path
) -> None:
    config = configure(
        material,
        tmp_path,
        learning_rate=0.03,
        schedule="constant",
        max_grad_norm=None,
        epochs=8,
        eval_at=(8, 16, 24, 96, 192, 288),
        keep_best=True,
        keep_checkpoints=1,
        export=True,
    )
    run = Run(config)
    batches = to_the_end(run)
    run.close()
    at_rungs = {e.step: e.loss for e in evaluations(batches[:-1])}
    (final,) = evaluations(batches[-1:])
    best = min(at_rungs, key=lambda step: at_rungs[step] or 0.0)
    assert best < 36, "the run was to get worse again"
    assert notes(batches)["exported_step"] == best
    assert final.loss == pytest.approx(at_rungs[best], rel=1e-5)
    kept = checkpoint.best(tmp_path / "checkpoints")
    assert kept is not None
    assert kept.name == f"step-{best}"
    fresh = Run(configure(material, tmp_path / "again", model=str(tmp_path / "export"), epochs=1))
    (again,) = fresh._evaluate(fresh._sets("eval"), lambda: "go")
    fresh.close()
    assert again.loss == pytest.approx(final.loss, rel=1e-4)


def test_a_resumed_run_remembers_how_good_the_best_was(material: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "learning_rate": 0.03,
        "schedule": "constant",
        "max_grad_norm": None,
        "epochs": 8,
        "eval_at": (8, 16, 24, 96, 192, 288),
        "keep_best": True,
    }
    whole = Run(configure(material, tmp_path / "whole", **fields))
    told = notes(to_the_end(whole))
    whole.close()
    assert "exported_step" in told, "the run was to get worse again"
    run = Run(configure(material, tmp_path / "cut", **fields))
    for _ in range(3):
        run.advance(0.0)
    while run._progress.samples < 288:  # past the best, and past the last point of eval_at
        run.advance(100.0)
    assert run.advance(100.0, lambda: "pause").status == "yielded"
    run.close()
    again = Run(configure(material, tmp_path / "cut", **fields), resume_from=tmp_path / "cut")
    assert notes(to_the_end(again)).get("exported_step") == told["exported_step"]
    again.close()


# --- evaluation -------------------------------------------------------------------------------


@pytest.mark.parametrize("wish", ["pause", "stop"])
def test_a_wish_is_heard_during_an_evaluation(
    material: Path, tmp_path: Path, wish: Literal["pause", "stop"]
) -> None:
    run = Run(configure(material, tmp_path, eval_at=(0,), max_samples=16))
    asked = 0

    def control() -> Literal["go", "pause", "stop"]:
        nonlocal asked
        asked += 1
        return wish if asked > 1 else "go"

    batch = run.advance(100.0, control)
    assert batch.status == "yielded"
    assert batch.evaluations == ()
    assert len(batch.checkpoints) == (1 if wish == "pause" else 0)
    run.close()
    if wish == "pause":
        again = Run(
            configure(material, tmp_path, eval_at=(0,), max_samples=16), resume_from=tmp_path
        )
        assert [e.step for e in evaluations(to_the_end(again))] == [0, 2]
        again.close()


def test_a_wish_during_the_last_evaluation_leaves_a_run_that_only_has_to_evaluate(
    material: Path, tmp_path: Path
) -> None:
    run = Run(configure(material, tmp_path, max_samples=16))
    assert len(run.advance(100.0).steps) == 2
    asked = 0

    def control() -> Literal["go", "pause"]:
        nonlocal asked
        asked += 1
        return "pause" if asked > 1 else "go"

    assert run.advance(100.0, control).status == "yielded"
    run.close()
    again = Run(configure(material, tmp_path, max_samples=16), resume_from=tmp_path)
    batches = to_the_end(again)
    again.close()
    assert [len(batch.steps) for batch in batches] == [0]
    assert [e.step for e in evaluations(batches)] == [2]


def test_what_was_retained_is_measured_before_and_after(material: Path, tmp_path: Path) -> None:
    data = {"general": [{"path": str(material / "general.jsonl"), "name": "talk"}]}
    run = Run(configure(material, tmp_path, data, max_samples=32))
    found = [e for e in evaluations(to_the_end(run)) if e.split == "general"]
    run.close()
    before, after = found
    assert (before.step, after.step) == (0, 4)
    assert before.dataset == after.dataset == "talk"
    assert after.loss is not None
    assert before.loss is not None
    assert after.scores["change"] == pytest.approx(after.loss - before.loss)


# --- resuming ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"), [("optimizer", "sgd"), ("batching", "paper"), ("method", "lora")]
)
def test_a_checkpoint_is_not_gone_on_from_as_another_kind_of_run(
    material: Path, tmp_path: Path, field: str, value: str
) -> None:
    run = Run(configure(material, tmp_path, max_samples=32))
    run.advance(0.0)
    assert run.advance(0.0, lambda: "pause").status == "yielded"
    run.close()
    other: dict[str, Any] = {"max_samples": 32, field: value}
    with pytest.raises(CheckpointError, match=field):
        Run(configure(material, tmp_path, **other), resume_from=tmp_path)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_resumed_run_has_the_same_losses_and_norms(
    material: Path, tmp_path: Path, stage: int, method: str
) -> None:
    fields: dict[str, Any] = {"zero_stage": stage, "method": method, "max_samples": 48}
    whole = Run(configure(material, tmp_path / "whole", **fields))
    expected = [(s.loss, s.grad_norm) for b in to_the_end(whole) for s in b.steps]
    whole.close()
    first = Run(configure(material, tmp_path / "cut", **fields))
    before = [s for _ in range(3) for s in first.advance(0.0).steps]
    assert first.advance(0.0, lambda: "pause").status == "yielded"
    first.close()
    again = Run(configure(material, tmp_path / "cut", **fields), resume_from=tmp_path / "cut")
    after = [s for b in to_the_end(again) for s in b.steps]
    again.close()
    assert len(before) == len(after) == 3
    assert [(s.loss, s.grad_norm) for s in before + after] == expected
