"""lm-evaluation-harness on the model in memory: what the harness itself finds, from local tasks."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.harness_tasks import write_harness_tasks
from tests.integration.evaluate.conftest import Parts
from trainer.config import LmEval
from trainer.errors import ConfigError
from trainer.evaluate import Evaluator, Interrupted
from trainer.metrics import Evaluation

pytestmark = pytest.mark.deepspeed


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("datasets")
        patch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
        yield write_harness_tasks(tmp_path_factory.mktemp("tasks"))


def settings(tasks: Path, *names: str, **fields: Any) -> LmEval:
    return LmEval(tasks=names, include_path=str(tasks), **fields)


def run(parts: Parts, wanted: LmEval, *, cap: int = 512, **more: Any) -> dict[str, Evaluation]:
    one = Evaluator(parts.loss, parts.tokenizer, cap=cap, packed=True)
    return {found.dataset: found for found in one.benchmarks(wanted, step=6, seen=48, **more)}


def harness_alone(parts: Parts, wanted: LmEval) -> dict[str, dict[str, Any]]:
    """The harness with its own model class."""
    import lm_eval.evaluator
    from lm_eval.models.huggingface import HFLM

    from trainer.evaluate.lm_eval import load_tasks

    parts.loss.eval()
    own: Any = HFLM
    found: Any = lm_eval.evaluator.evaluate(
        own(pretrained=parts.loss.model, tokenizer=parts.tokenizer, batch_size=3),
        load_tasks(wanted),
        bootstrap_iters=0,
        log_samples=True,
        limit=wanted.limit,
        apply_chat_template=wanted.apply_chat_template,
        fewshot_as_multiturn=wanted.apply_chat_template,
    )
    parts.loss.train()
    return found


@pytest.mark.parametrize("cap", [64, 4096])
def test_scores_are_those_of_the_harness(parts: Parts, tasks: Path, cap: int) -> None:
    wanted = settings(tasks, "tiny_all", "tiny_text")
    found = run(parts, wanted, cap=cap)
    alone = harness_alone(parts, wanted)["results"]
    assert set(found) == {"tiny_all", "tiny_choice", "tiny_sums", "tiny_text"}
    for name in ("acc", "acc_norm"):
        assert found["tiny_choice"].scores[name] == alone["tiny_choice"][f"{name},none"]
    assert found["tiny_all"].scores["acc"] == found["tiny_choice"].scores["acc"]
    for name in ("word_perplexity", "bits_per_byte"):
        expected = alone["tiny_text"][f"{name},none"]
        assert found["tiny_text"].scores[name] == pytest.approx(expected, rel=1e-5)
    one = found["tiny_choice"]
    assert (one.split, one.step, one.samples, one.loss) == ("lm_eval", 6, 48, None)
    p = one.scores["acc"]
    assert one.scores["acc_stderr"] == pytest.approx(math.sqrt(p * (1 - p) / 10))
    assert parts.loss.training


def test_a_tag_has_the_mean_of_its_tasks(parts: Parts, tasks: Path) -> None:
    found = run(parts, settings(tasks, "tiny_pair", limit=2))
    assert set(found) == {"tiny_text", "tiny_more_text", "tiny_pair"}
    one = found["tiny_text"].scores["bits_per_byte"]
    other = found["tiny_more_text"].scores["bits_per_byte"]
    assert found["tiny_pair"].scores["bits_per_byte"] == pytest.approx((one + other) / 2)
    assert not [name for name in found["tiny_pair"].scores if "stderr" in name]


def test_each_answer_and_likelihood_is_that_of_the_harness(parts: Parts, tasks: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from trainer.evaluate.harness_model import HarnessModel

    parts.loss.eval()
    ours = HarnessModel(parts.loss.model, parts.tokenizer, cap=200, control=None)
    base: Any = HFLM
    theirs = base(pretrained=parts.loss.model, tokenizer=parts.tokenizer, batch_size=4)

    def requests(kind: Any, arguments: list[tuple[Any, ...]]) -> list[Any]:
        return [Instance(kind, {}, one, 0, ("t", i, 1)) for i, one in enumerate(arguments)]

    pairs = [(f"What is {i} + {j}?", f" {i + j}") for i in range(6) for j in (3, 30)]
    pairs += [("One of A B C D:", letter) for letter in " A B C D"]
    pairs += [("", "12 is a number"), ("", "13"), ("Trailing space ", "14 + 1"), ("x" * 2000, "y")]
    asked = requests("loglikelihood", pairs)
    with torch.no_grad():
        mine, expected = ours.loglikelihood(asked), theirs.loglikelihood(asked)
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in expected]
    assert [score for score, _ in mine] == pytest.approx([s for s, _ in expected], rel=1e-5)

    texts = [(f"{i} + {i} = {2 * i}. " * (1 + 20 * i),) for i in range(6)]
    asked = requests("loglikelihood_rolling", texts)
    with torch.no_grad():
        assert ours.loglikelihood_rolling(asked) == pytest.approx(
            theirs.loglikelihood_rolling(asked), rel=1e-5
        )

    stops = sorted({text for text, _ in _common(parts, theirs)})[:2]
    prompts = [(f"What is {i} + 1?", {"until": stops, "max_gen_toks": 20}) for i in range(7)]
    prompts += [("z" * 1500, {"until": [], "max_gen_toks": 5}), ("Say", {"max_gen_toks": 9})]
    asked = requests("generate_until", prompts)
    with torch.no_grad():
        mine, expected = ours.generate_until(asked), theirs.generate_until(asked)
    assert mine == expected
    assert len({len(answer) for answer in mine}) > 2
    parts.loss.train()


def test_an_answer_ends_at_a_text_that_ends_it(parts: Parts) -> None:
    from lm_eval.api.instance import Instance

    from trainer.evaluate.harness_model import HarnessModel

    parts.loss.eval()
    model = HarnessModel(parts.loss.model, parts.tokenizer, cap=200, control=None)
    passes: list[int] = []
    hook = parts.loss.model.register_forward_hook(lambda *_: passes.append(1))
    try:
        counts: list[int] = []
        for until in ([], sorted({text for text, _ in _common(parts, model)})):
            passes.clear()
            arguments = ("What is 3 + 1?", {"until": until, "max_gen_toks": 40})
            model.generate_until([Instance("generate_until", {}, arguments, 0, ("t", 0, 1))])
            counts.append(len(passes))
    finally:
        hook.remove()
        parts.loss.train()
    assert counts[1] < counts[0] == 40


def _common(parts: Parts, model: Any) -> list[tuple[str, int]]:
    """Single characters that the model's greedy answers hold."""
    ids = torch.tensor([parts.tokenizer("What is 3 + 1?").input_ids])
    with torch.no_grad():
        made = parts.loss.model.generate(input_ids=ids, do_sample=False, max_new_tokens=20)[0]
    text = parts.tokenizer.decode(made[ids.shape[1] :])
    return [(text[at], at) for at in range(len(text) // 2, len(text)) if text[at].isprintable()]


def test_settings_reach_the_tasks(
    parts: Parts, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.evaluate import harness_model

    seen: list[str] = []
    real = harness_model.HarnessModel.loglikelihood

    def spy(self: Any, requests: Any, disable_tqdm: bool = False) -> Any:
        seen.extend(request.args[0] for request in requests)
        return real(self, requests, disable_tqdm)

    monkeypatch.setattr(harness_model.HarnessModel, "loglikelihood", spy)
    run(parts, settings(tasks, "tiny_choice", limit=3, num_fewshot=1, apply_chat_template=True))
    assert len(seen) == 3 * 4, "three documents, four choices each"
    assert {context.count("Answer:") for context in seen} == {2}, "one example, one question"
    assert all(context.startswith("<|user|>") for context in seen)
    seen.clear()
    run(parts, settings(tasks, "tiny_choice", limit=2))
    assert {context.count("Answer:") for context in seen} == {3}, "the task's own two examples"


def test_a_model_with_adapters_is_measured_with_them(parts: Parts, tasks: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(parts.folder)
    adapted: Any = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    wanted = settings(tasks, "tiny_text", "tiny_sums", limit=3)

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = adapted

    one = Evaluator(Loss(), parts.tokenizer, cap=512, packed=True)  # type: ignore[arg-type]

    def perplexity() -> float:
        found = {e.dataset: e.scores for e in one.benchmarks(wanted, step=1, seen=1)}
        assert "exact_match" in found["tiny_sums"]
        return found["tiny_text"]["bits_per_byte"]

    plain = run(parts, wanted)["tiny_text"].scores["bits_per_byte"]
    assert perplexity() == pytest.approx(plain, rel=1e-5), "fresh adapters change nothing"
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.3)
    assert perplexity() != pytest.approx(plain, rel=1e-3)


def test_the_runs_random_numbers_go_on_as_if_nothing_had_been_measured(
    parts: Parts, tasks: Path
) -> None:
    def draws() -> tuple[float, float]:
        return random.random(), float(torch.rand(()))

    random.seed(5)
    torch.manual_seed(5)
    expected = draws()
    random.seed(5)
    torch.manual_seed(5)
    run(parts, settings(tasks, "tiny_sums", limit=2))
    assert draws() == expected


def test_the_user_is_heard_between_batches(parts: Parts, tasks: Path) -> None:
    asked = 0

    def control() -> Any:
        nonlocal asked
        asked += 1
        return "stop" if asked == total else "go"

    total = 10**9
    run(parts, settings(tasks, "tiny_choice"), cap=100, control=control)
    everything, asked = asked, 0
    assert everything > 10
    for total in (1, everything // 2, everything - 1):
        asked = 0
        with pytest.raises(Interrupted):
            run(parts, settings(tasks, "tiny_choice"), cap=100, control=control)
        assert asked == total
    assert parts.loss.training


def test_a_task_whose_data_cannot_be_read_is_named(parts: Parts, tmp_path: Path) -> None:
    folder = write_harness_tasks(tmp_path / "tasks")
    (folder / "sums.jsonl").write_text("{broken\n")
    with pytest.raises(ConfigError, match="tiny_sums can't be loaded") as error:
        run(parts, settings(folder, "tiny_sums"))
    assert error.value.pointer == "/lm_eval/tasks"


def test_names_of_scores() -> None:
    from trainer.evaluate.lm_eval import scores

    one = {"alias": "x", "sample_len": 4, "acc,none": 0.5, "acc_stderr,none": "N/A"}
    assert scores(one) == {"acc": 0.5}
    two = json.loads('{"exact_match,strict": 0.25, "exact_match,loose": 0.5, "n,strict": NaN}')
    assert scores(two) == {
        "exact_match": 0.25,
        "exact_match,strict": 0.25,
        "exact_match,loose": 0.5,
    }
