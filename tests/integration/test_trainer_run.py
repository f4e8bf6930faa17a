"""Whole runs of the trainer on one rank, with real DeepSpeed on a tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.fixtures.tiny_model import make_tiny_model, sums, write_jsonl
from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.errors import CheckpointError, ConfigError
from trainer.loop import Run
from trainer.metrics import Batch, StepRecord

pytestmark = [pytest.mark.deepspeed, pytest.mark.usefixtures("process_group")]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("material")
    return {
        "model": str(make_tiny_model(folder / "model")),
        "train": str(write_jsonl(folder / "train.jsonl", sums(60))),
        "eval": str(write_jsonl(folder / "eval.jsonl", sums(12, seed=1))),
        "test": str(write_jsonl(folder / "test.jsonl", sums(9, seed=2))),
        "cache": str(folder / "cache"),
    }


def configure(material: dict[str, str], output: Path, **fields: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": material["model"],
            "data": {
                "train": [{"path": material["train"]}],
                "eval": [{"path": material["eval"], "name": "sums"}],
                "test": [{"path": material["test"], "name": "more"}],
                "cache_dir": material["cache"],
            },
            "output_dir": str(output),
            "learning_rate": 3e-3,
            "effective_batch_size": 8,
            "max_samples": 76,
            "exact_match": False,
            "export": False,
            **fields,
        }
    )


def to_the_end(run: Run, seconds: float = 100.0) -> list[Batch]:
    batches: list[Batch] = []
    while not batches or batches[-1].status == "running":
        batches.append(run.advance(seconds))
    run.close()
    return batches


def steps_of(batches: list[Batch]) -> list[StepRecord]:
    return [step for batch in batches for step in batch.steps]


def curve(steps: list[StepRecord]) -> list[tuple[int, float | None, float | None]]:
    return [(step.step, step.loss, step.grad_norm) for step in steps]


def test_losses_and_norms_are_those_of_plain_adamw(
    material: dict[str, str], tmp_path: Path
) -> None:
    config = configure(
        material, tmp_path, schedule="cosine", warmup_steps=3, weight_decay=0.1, max_grad_norm=0.5
    )
    run = Run(config)
    data = run.data.train
    found = steps_of(to_the_end(run))

    model = AutoModelForCausalLM.from_pretrained(material["model"])
    adam = torch.optim.AdamW(
        model.parameters(), lr=1.0, betas=config.adam_betas, weight_decay=0.1, eps=config.adam_eps
    )
    order = np.concatenate(
        [
            np.random.Generator(np.random.PCG64([config.seed, epoch])).permutation(len(data))
            for epoch in range(2)
        ]
    )
    assert len(found) == 10
    for k, record in enumerate(found, start=1):
        chosen = order[8 * (k - 1) : min(8 * k, 76)]
        total, count = torch.zeros(()), 0
        for i in chosen:
            ids, mask = (torch.tensor(part) for part in data.sample(int(i)))
            logits = model(input_ids=ids[None].long()).logits[0, :-1]
            wanted = mask[1:]
            total = total + cross_entropy(logits[wanted], ids[1:][wanted].long(), reduction="sum")
            count += int(wanted.sum())
        loss = total / count
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        rate = 3e-3 * (k / 3 if k <= 3 else 0.5 * (1 + math.cos(math.pi * (k - 4) / 7)))
        for group in adam.param_groups:
            group["lr"] = rate
        adam.step()
        adam.zero_grad()
        assert record.loss == pytest.approx(loss.item(), rel=1e-5)
        assert record.grad_norm == pytest.approx(norm.item(), rel=1e-4)
        assert record.learning_rate == pytest.approx(rate)
        assert record.batch_samples == len(chosen)
    assert [r.samples for r in found] == [8, 16, 24, 32, 40, 48, 56, 64, 72, 76]
    assert found[-1].tokens == sum(int(data.target_counts[i]) for i in order[:76])


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("cap", [64, 8192])
def test_neither_stage_nor_micro_batches_change_the_curve(
    material: dict[str, str], tmp_path: Path, stage: int, cap: int
) -> None:
    reference = steps_of(to_the_end(Run(configure(material, tmp_path))))
    config = configure(material, tmp_path, zero_stage=stage, max_tokens_per_microbatch=cap)
    found = steps_of(to_the_end(Run(config)))
    for one, other in zip(reference, found, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)


def test_bf16_starts_from_the_exact_weights_and_follows_fp32(
    material: dict[str, str], tmp_path: Path
) -> None:
    exact = steps_of(to_the_end(Run(configure(material, tmp_path))))
    for stage in (1, 2):
        run = Run(configure(material, tmp_path, precision="bf16", zero_stage=stage))
        master = run._engine.shard()["master"]
        assert (master != master.bfloat16().float()).any()
        for one, other in zip(exact, steps_of(to_the_end(run)), strict=True):
            assert other.loss == pytest.approx(one.loss, rel=2e-2)
            assert other.grad_norm is not None


def test_a_run_holds_at_each_evaluation_point_with_its_evaluation(
    material: dict[str, str], tmp_path: Path
) -> None:
    batches = to_the_end(Run(configure(material, tmp_path, eval_at=(0, 20, 40, 76))))
    held = [(b.steps[-1].samples if b.steps else 0, b.evaluations) for b in batches]
    at = [(samples, [e.samples for e in evaluations]) for samples, evaluations in held]
    assert at == [(0, [0]), (24, [24]), (40, [40]), (76, []), (0, [76])]
    assert batches[-1].status == "completed"
    assert all(b.status == "running" for b in batches[:-1])
    last = batches[-1].evaluations[0]
    assert (last.split, last.dataset, last.step) == ("eval", "sums", 10)
    first = batches[0].evaluations[0]
    assert first.loss is not None
    assert last.loss is not None
    assert last.loss < first.loss


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_paused_run_goes_on_exactly_where_it_was(
    material: dict[str, str], tmp_path: Path, stage: int, precision: str
) -> None:
    fields = {"zero_stage": stage, "precision": precision, "max_tokens_per_microbatch": 64}
    whole = steps_of(to_the_end(Run(configure(material, tmp_path / "whole", **fields))))
    config = configure(material, tmp_path / "parts", eval_at=(40,), **fields)
    first = Run(config)
    before = first.advance(100)
    paused = first.advance(100, lambda: "pause")
    first.close()
    assert paused.status == "yielded"
    assert not paused.steps
    assert [c.kind for c in paused.checkpoints] == ["state"]
    second = Run(config, resume_from=Path(paused.checkpoints[0].path))
    after = to_the_end(second)
    assert after[0].notes["resumed_at_step"] == 5
    assert curve([*before.steps, *steps_of(after)]) == curve(whole)
    assert steps_of(after)[-1].tokens == whole[-1].tokens
    seen = [e.samples for b in [before, *after] for e in b.evaluations]
    assert seen == [40, 76]


def test_a_pause_in_the_middle_of_a_step_undoes_it(
    material: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.accumulate.VOTE_SECONDS", 0.0)  # a vote after each micro-batch
    config = configure(material, tmp_path, max_tokens_per_microbatch=64)
    whole = curve(steps_of(to_the_end(Run(config))))
    asked = 0

    def control() -> Any:
        nonlocal asked
        asked += 1
        return "pause" if asked > 6 else "go"

    run = Run(config)
    paused = run.advance(100, control)
    run.close()
    assert paused.status == "yielded"
    assert 0 < len(paused.steps) < 6
    rest = to_the_end(Run(config, resume_from=tmp_path))
    assert curve([*paused.steps, *steps_of(rest)]) == whole


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_can_go_on_after_a_step_was_called_off(
    material: dict[str, str], tmp_path: Path, stage: int, precision: str
) -> None:
    fields = {"zero_stage": stage, "precision": precision, "max_tokens_per_microbatch": 64}
    config = configure(material, tmp_path, **fields)
    whole = curve(steps_of(to_the_end(Run(config))))
    answers = iter(["go", "go", "stop"])
    run = Run(config)
    stopped = run.advance(100, lambda: next(answers, "go"))  # type: ignore[arg-type]
    assert (stopped.status, stopped.steps) == ("yielded", ())
    assert curve(steps_of(to_the_end(run))) == whole


def test_stop_yields_at_once_and_writes_nothing(material: dict[str, str], tmp_path: Path) -> None:
    run = Run(configure(material, tmp_path))
    run.advance(0)
    stopped = run.advance(100, lambda: "stop")
    run.close()
    assert (stopped.status, stopped.steps, stopped.checkpoints) == ("yielded", (), ())
    assert not (tmp_path / "checkpoints").exists()


def test_time_up_returns_after_the_step(material: dict[str, str], tmp_path: Path) -> None:
    run = Run(configure(material, tmp_path))
    assert [len(run.advance(0).steps) for _ in range(3)] == [1, 1, 1]
    run.close()


def test_checkpoints_are_written_where_asked_and_two_are_kept(
    material: dict[str, str], tmp_path: Path
) -> None:
    batches = to_the_end(Run(configure(material, tmp_path, checkpoint_at=(10, 30, 50))))
    saved = [c for b in batches for c in b.checkpoints]
    assert [c.samples for c in saved] == [16, 32, 56]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-4", "step-7"]
    assert all(c.bytes > 0 for c in saved)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    material: dict[str, str], tmp_path: Path
) -> None:
    config = configure(material, tmp_path, checkpoint_at=(30, 50))
    whole = curve(steps_of(to_the_end(Run(config))))
    newest = checkpoint.latest(tmp_path)
    assert newest is not None
    assert newest.name == "step-7"
    shard = newest / "rank-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    run = Run(config, resume_from=newest)
    assert curve(steps_of(to_the_end(run))) == whole[4:]
    for step in (tmp_path / "checkpoints").glob("step-*"):
        (step / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="no undamaged checkpoint"):
        Run(config, resume_from=tmp_path)


def test_a_run_whose_folder_is_gone_goes_on_from_its_store(
    material: dict[str, str], tmp_path: Path
) -> None:
    store = f"memory://{tmp_path.name}/a1"
    config = configure(material, tmp_path / "here", checkpoint_at=(30, 50), export=True)
    whole = curve(steps_of(to_the_end(Run(config))))
    first = to_the_end(Run(config.model_copy(update={"store": store})))
    saved = [c for batch in first for c in batch.checkpoints]
    assert [c.path for c in saved] == [
        f"{store}/checkpoints/step-4",
        f"{store}/checkpoints/step-7",
        f"{store}/export",
    ]
    elsewhere = config.model_copy(
        update={"output_dir": str(tmp_path / "elsewhere"), "store": f"memory://{tmp_path.name}/a2"}
    )
    again = Run(elsewhere, resume_from=Path(saved[0].path))
    assert curve(steps_of(to_the_end(again))) == whole[4:]
    with pytest.raises(CheckpointError, match=f"no undamaged checkpoint in {store}9"):
        Run(elsewhere, resume_from=Path(f"{store}9"))


def test_an_evaluation_nobody_received_is_made_again(
    material: dict[str, str], tmp_path: Path
) -> None:
    config = configure(material, tmp_path, eval_at=(24,), checkpoint_at=(24,))
    run = Run(config)
    batch = run.advance(100)
    run.close()
    assert [c.samples for c in batch.checkpoints] == [24]
    again = Run(config, resume_from=tmp_path)
    first = again.advance(100)
    again.close()
    assert not first.steps
    assert [e.loss for e in first.evaluations] == [e.loss for e in batch.evaluations]


def test_a_checkpoint_of_another_run_is_refused(material: dict[str, str], tmp_path: Path) -> None:
    to_the_end(Run(configure(material, tmp_path, checkpoint_at=(30,))))
    with pytest.raises(CheckpointError, match="seed = 0, this one has 1"):
        Run(configure(material, tmp_path, seed=1), resume_from=tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_weights(
    material: dict[str, str], tmp_path: Path
) -> None:
    broken = make_tiny_model(tmp_path / "broken")
    model = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        model.lm_head.weight[5] = float("inf")
    model.save_pretrained(broken)
    run = Run(configure({**material, "model": str(broken)}, tmp_path))
    batch = run.advance(100)
    assert batch.status == "failed"
    assert batch.failure is not None
    assert batch.failure.code == "diverged"
    assert "step 1" in batch.failure.message
    (record,) = batch.steps
    assert (record.loss, record.grad_norm) == (None, None)
    assert run.advance(100).status == "failed"
    run.close()


def test_a_gradient_that_is_not_finite_ends_the_run(
    material: dict[str, str], tmp_path: Path
) -> None:
    for stage in (1, 2):
        config = configure(
            material, tmp_path, learning_rate=1e3, max_samples=4000, zero_stage=stage
        )
        batches = to_the_end(Run(config))
        assert batches[-1].status == "failed"
        failure = batches[-1].failure
        assert failure is not None
        assert failure.code == "diverged"
        last = steps_of(batches)[-1]
        assert last.loss is None or last.grad_norm is None


def test_an_unexpected_error_is_reported_with_its_traceback(
    material: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(configure(material, tmp_path))
    run.advance(0)

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("trainer.batches.collate", fail)
    batch = run.advance(100)
    run.close()
    assert batch.status == "failed"
    assert batch.failure is not None
    assert batch.failure.code == "oom"
    assert "CUDA out of memory" in batch.failure.detail


def test_a_budget_of_nothing_only_evaluates(material: dict[str, str], tmp_path: Path) -> None:
    config = configure(
        material,
        tmp_path,
        max_samples=0,
        export=True,
        exact_match=True,
        evaluate_test=True,
        max_new_tokens=4,
        exact_match_samples=5,
    )
    (batch,) = to_the_end(Run(config))
    assert batch.status == "completed"
    assert [(e.split, e.step, e.generated) for e in batch.evaluations] == [
        ("eval", 0, 5),
        ("test", 0, 5),
    ]
    assert not batch.checkpoints
    assert not (tmp_path / "export").exists()


def test_a_memorised_set_is_answered_and_the_export_reproduces_it(
    material: dict[str, str], tmp_path: Path
) -> None:
    few = write_jsonl(tmp_path / "few.jsonl", sums(6, seed=4))
    config = configure(
        {**material, "train": str(few), "eval": str(few)},
        tmp_path / "out",
        effective_batch_size=6,
        max_samples=6 * 80,
        learning_rate=1e-2,
        schedule="constant",
        exact_match=True,
        max_new_tokens=8,
        export=True,
        seed=1,
    )
    batch = to_the_end(Run(config))[-1]
    (evaluation,) = batch.evaluations
    assert evaluation.exact_match == 1.0
    assert evaluation.generated == 6
    (exported,) = batch.checkpoints
    assert exported.kind == "export"

    model: Any = AutoModelForCausalLM.from_pretrained(exported.path)
    tokenizer = AutoTokenizer.from_pretrained(exported.path)
    total, count = 0.0, 0
    for sample in sums(6, seed=4):
        messages = sample["messages"]
        prompt = tokenizer.apply_chat_template(
            messages[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        answer = messages[1]["content"]
        made = model.generate(prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :]
        assert tokenizer.decode(made, skip_special_tokens=True) == answer
        wanted = tokenizer(answer + "<|end|>", return_tensors="pt")["input_ids"]
        ids = torch.cat([prompt, wanted], dim=1)
        with torch.no_grad():
            logits = model(ids).logits[0, prompt.shape[1] - 1 : -1]
        total += cross_entropy(logits, wanted[0], reduction="sum").item()
        count += wanted.shape[1]
    assert count == evaluation.tokens
    assert total / count == pytest.approx(evaluation.loss, rel=1e-3, abs=1e-5)
    assert json.loads((Path(exported.path) / "config.json").read_text())["model_type"] == "llama"


def test_sizes_that_cannot_work_are_refused_with_the_field(
    material: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="only 60 usable training samples") as caught:
        Run(configure(material, tmp_path, effective_batch_size=61))
    assert caught.value.pointer == "/effective_batch_size"
    with pytest.raises(ConfigError, match="longest training sample has") as caught:
        Run(configure(material, tmp_path, max_tokens_per_microbatch=8))
    assert caught.value.pointer == "/max_tokens_per_microbatch"
