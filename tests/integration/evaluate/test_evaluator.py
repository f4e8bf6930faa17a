"""Held-out loss, exact match, what is written of it, retention, and a user who wants to stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.integration.evaluate.conftest import Parts
from trainer.config import Extract
from trainer.evaluate import BaseLosses, Evaluator, Interrupted, base_key
from trainer.evaluate import evaluator as evaluator_module
from trainer.metrics import Evaluation

pytestmark = pytest.mark.deepspeed


def evaluator(parts: Parts, *, cap: int = 256, **settings: Any) -> Evaluator:
    return Evaluator(parts.loss, parts.tokenizer, cap=cap, packed=True, **settings)


def held_out(parts: Parts, one: Evaluator, **settings: Any) -> Evaluation:
    fields: dict[str, Any] = {"name": "sums", "split": "eval", "step": 4, "seen": 32, **settings}
    return one.evaluate(parts.held, **fields)


@torch.no_grad()
def answer_of(parts: Parts, index: int, tokens: int) -> str:
    """What transformers generates, one sample at a time."""
    prompt = torch.tensor(parts.held.prompt(index)).long()[None]
    made = parts.loss.model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=tokens,
        eos_token_id=parts.tokenizer.eos_token_id,
        pad_token_id=parts.tokenizer.pad_token_id,
    )
    return parts.tokenizer.decode(made[0, prompt.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("cap", [40, 100, 10_000])
@pytest.mark.parametrize("partitioned", [False, True])
def test_loss_is_the_mean_over_all_target_tokens(parts: Parts, cap: int, partitioned: bool) -> None:
    total, count = 0.0, 0
    for index in range(len(parts.held)):
        ids, mask = (torch.tensor(part) for part in parts.held.sample(index))
        with torch.no_grad():
            logits = parts.loss.model(input_ids=ids[None].long()).logits[0, :-1]
        targets = ids[1:][mask[1:]].long()
        total += float(cross_entropy(logits[mask[1:]], targets, reduction="sum"))
        count += len(targets)
    found = held_out(parts, evaluator(parts, cap=cap, partitioned=partitioned))
    assert found.loss == pytest.approx(total / count, rel=1e-5)
    assert (found.tokens, found.step, found.samples, found.split) == (count, 4, 32, "eval")
    assert (found.exact_match, found.generated, found.scores) == (None, 0, {})
    assert parts.loss.training, "the model goes on training as it was"


@pytest.mark.parametrize("cap", [10, 10_000])
def test_exact_match_is_the_fraction_of_answers_that_agree(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cap: int
) -> None:
    parts.loss.eval()
    answers = [answer_of(parts, index, 6) for index in range(len(parts.held))]
    parts.loss.train()
    references = [a if i % 3 == 0 and a.strip() else f"#{i}" for i, a in enumerate(answers)]
    expected = sum(r == a for r, a in zip(references, answers, strict=True))
    assert 0 < expected < len(answers)
    monkeypatch.setattr(parts.held, "answers", references)
    monkeypatch.setattr(evaluator_module, "KEPT_ANSWERS", 5)
    one = evaluator(parts, cap=cap, output=tmp_path)
    found = held_out(parts, one, generate=10**9, max_new_tokens=6)
    assert (found.exact_match, found.generated) == (expected / len(answers), len(answers))

    lines = (tmp_path / "generations" / "eval-sums-step-4.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert [row["sample"] for row in kept] == [0, 1, 2, 3, 4]
    assert [row["answer"] for row in kept] == answers[:5]
    assert [row["correct"] for row in kept] == [
        r == a for r, a in zip(references[:5], answers, strict=False)
    ]
    assert "What is" in kept[0]["prompt"]


def test_only_what_is_extracted_is_compared(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.loss.eval()
    first = answer_of(parts, 0, 4).strip()[:1]
    parts.loss.train()
    pattern = rf"^\W*({first})" if first.isalnum() else r"^(.)"
    monkeypatch.setattr(parts.held, "answers", [f"{first} and so on"] * len(parts.held))
    one = evaluator(parts, output=tmp_path)
    how = Extract(kind="regex", pattern=pattern)
    found = held_out(parts, one, generate=1, max_new_tokens=4, extract=how)
    assert (found.exact_match, found.generated) == (1.0, 1)
    file = tmp_path / "generations" / "eval-sums-step-4.jsonl"
    row = json.loads(file.read_text())
    assert row["extracted"] == row["expected"] == first
    assert held_out(parts, one, generate=1, max_new_tokens=4).exact_match == 0.0


def test_samples_without_an_answer_are_not_generated(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = parts.held.prompts.copy()
    prompts[::2] = 0
    monkeypatch.setattr(parts.held, "prompts", prompts)
    found = held_out(parts, evaluator(parts), generate=5, max_new_tokens=2)
    assert (found.exact_match, found.generated) == (0.0, 2)
    prompts[:] = 0
    found = held_out(parts, evaluator(parts), generate=5, max_new_tokens=2)
    assert (found.exact_match, found.generated) == (None, 0)


def test_a_batch_that_does_not_fit_is_halved(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = held_out(parts, evaluator(parts), generate=9, max_new_tokens=4)
    sizes: list[int] = []
    real = evaluator_module.greedy

    def scarce(model: Any, prompts: Any, **settings: Any) -> Any:
        sizes.append(len(prompts))
        if len(prompts) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, prompts, **settings)

    monkeypatch.setattr(evaluator_module, "greedy", scarce)
    found = held_out(parts, evaluator(parts), generate=9, max_new_tokens=4)
    assert max(sizes) > 3
    assert found.exact_match == whole.exact_match


# --- a user who wants to stop ------------------------------------------------------------------


@pytest.mark.parametrize("wish", ["pause", "stop"])
@pytest.mark.parametrize("generate", [0, 21])
def test_a_wish_is_heard_within_one_batch(
    parts: Parts, tmp_path: Path, wish: str, generate: int
) -> None:
    asked = 0

    def control() -> Any:
        nonlocal asked
        asked += 1
        return wish if asked == 3 else "go"

    one = evaluator(parts, cap=40, output=tmp_path)
    with pytest.raises(Interrupted) as heard:
        held_out(parts, one, generate=generate, max_new_tokens=3, control=control)
    assert heard.value.verdict == wish
    assert asked == 3
    assert parts.loss.training
    assert not (tmp_path / "generations").exists()


def test_a_wish_breaks_off_a_long_answer(parts: Parts) -> None:
    passes: list[int] = []
    hook = parts.loss.model.register_forward_hook(lambda *_: passes.append(1))
    try:
        with pytest.raises(Interrupted) as heard:
            held_out(
                parts,
                evaluator(parts, cap=10_000),
                generate=21,
                max_new_tokens=200,
                control=lambda: "pause" if passes else "go",
            )
    finally:
        hook.remove()
    assert heard.value.verdict == "pause"
    assert len(passes) < 20


# --- retention ---------------------------------------------------------------------------------


def test_the_base_models_loss_is_measured_once_and_later_ones_compared_with_it(
    parts: Parts, tmp_path: Path
) -> None:
    kept = BaseLosses(tmp_path, base_key(parts.folder, "fp32"))

    def general(step: int, losses: BaseLosses | None) -> Evaluation:
        one = evaluator(parts, base_losses=losses)
        return held_out(parts, one, split="general", step=step)

    assert general(9, kept).scores == {}, "nothing to compare with yet"
    passes: list[int] = []
    hook = parts.loss.register_forward_hook(lambda *_: passes.append(1))
    before = general(0, kept)
    assert passes
    passes.clear()
    again = general(0, BaseLosses(tmp_path, base_key(parts.folder, "fp32")))
    hook.remove()
    assert not passes, "another run of a sweep finds it"
    assert (again.loss, again.tokens) == (before.loss, before.tokens)

    head = parts.loss.model.get_output_embeddings().weight
    with torch.no_grad():
        head.mul_(3.0)
    after = general(7, kept)
    with torch.no_grad():
        head.div_(3.0)
    assert before.loss is not None
    assert after.loss is not None
    assert after.scores == {"change": pytest.approx(after.loss - before.loss)}
    assert after.scores["change"] != 0.0
    assert general(7, None).scores == {}


def test_another_model_or_way_of_loading_has_a_loss_of_its_own(
    parts: Parts, tmp_path: Path
) -> None:
    from trainer.evaluate.retention import BaseLoss

    BaseLosses(tmp_path, base_key(parts.folder, "fp32")).keep("data", BaseLoss(2.0, 10))
    assert BaseLosses(tmp_path, base_key(parts.folder, "fp32")).read("data") == BaseLoss(2.0, 10)
    assert BaseLosses(tmp_path, base_key(parts.folder, "bf16")).read("data") is None
    assert BaseLosses(tmp_path, base_key(tmp_path, "fp32")).read("data") is None
    assert BaseLosses(tmp_path, base_key(parts.folder, "fp32")).read("other") is None
    (file,) = tmp_path.glob("base-loss-*.json")
    file.write_text("{damaged")
    assert BaseLosses(tmp_path, base_key(parts.folder, "fp32")).read("data") is None
