"""What a run exports opens with transformers and peft, and computes what was trained."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.engine_runs import configure, opened, train
from tests.fixtures.tiny_model import make_tiny_model
from trainer import checkpoint, storage
from trainer.errors import ModelError
from trainer.model import check_model, load_tokenizer

pytestmark = [pytest.mark.deepspeed, pytest.mark.usefixtures("process_group")]

ARCHITECTURES = ("llama", "granite", "mistral", "qwen3")
IDS = torch.tensor([[5, 17, 101, 44, 9, 200]])

MakeModel = Callable[..., Path]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Model folders by architecture, data type and whether embeddings are tied; made once."""
    made: dict[tuple[str, str, bool], Path] = {}
    folder = tmp_path_factory.mktemp("bases")

    def make(architecture: str, dtype: str = "float32", tied: bool = False) -> Path:
        key = (architecture, dtype, tied)
        if key not in made:
            path = folder / f"{architecture}-{dtype}-{tied}"
            # A block of 4-bit weights is 64 long.
            make_tiny_model(path, hidden=64, architecture=architecture, tied=tied)
            if dtype != "float32":
                model = open_model(path)
                model.to(getattr(torch, dtype)).save_pretrained(path)
            made[key] = path
        return made[key]

    return make


def open_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model, problems = AutoModelForCausalLM.from_pretrained(  # pyright: ignore
        folder, output_loading_info=True
    )
    assert not any(problems.values())
    return model


def logits(model: Any) -> torch.Tensor:
    training = model.training
    model.eval()
    with torch.no_grad():
        found = model(input_ids=IDS).logits.float()
    model.train(training)
    return found


def export(model: Path, folder: Path, **fields: Any) -> torch.Tensor:
    """Train, export to `folder`; the trained model's logits."""
    with opened(configure(model, **fields)) as running:
        before = logits_of(running)
        train(running)
        after = logits_of(running)
        record = checkpoint.export(
            folder,
            running.model.model,
            load_tokenizer(model),
            step=3,
            samples=24,
            weights=running.weights(),
        )
    assert not torch.allclose(before, after, atol=1e-3)
    assert record.bytes == sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    return after


def logits_of(running: Any) -> torch.Tensor:
    with running.whole_weights():
        return logits(running.model.model)


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_exported_model_is_the_trained_one(
    base: MakeModel, tmp_path: Path, architecture: str, stage: int
) -> None:
    trained = export(base(architecture), tmp_path / "export", zero_stage=stage)
    assert torch.allclose(logits(open_model(tmp_path / "export")), trained, atol=1e-5)


@pytest.mark.parametrize("stage", [1, 3])
def test_tied_embeddings_stay_tied(base: MakeModel, tmp_path: Path, stage: int) -> None:
    trained = export(base("qwen3", tied=True), tmp_path / "export", zero_stage=stage)
    model = open_model(tmp_path / "export")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.allclose(logits(model), trained, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("method", "stage"), [("lora", 1), ("lora", 3), ("qlora", 1)])
def test_merged_adapters_compute_what_was_trained_and_so_do_they_on_their_base(
    base: MakeModel, tmp_path: Path, architecture: str, method: str, stage: int
) -> None:
    from peft import PeftModel

    model = base(architecture)
    fields = {"method": method, "zero_stage": stage, "lora_rank": 3, "lora_alpha": 11}
    trained = export(model, tmp_path / "export", **fields)
    merged = open_model(tmp_path / "export")
    assert torch.allclose(logits(merged), trained, atol=1e-4)
    assert "quantization_config" not in merged.config.to_dict()

    opened_on: Any = open_model(model)
    if method == "qlora":
        from trainer.model import load_model

        opened_on = load_model(model, four_bits="fp32")
    adapted = PeftModel.from_pretrained(opened_on, str(tmp_path / "export" / "adapter"))
    assert torch.allclose(logits(adapted), trained, atol=1e-4)
    settings = json.loads((tmp_path / "export" / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(model)
    assert (settings["r"], settings["lora_alpha"]) == (3, 11)


def test_weights_keep_the_data_type_of_the_base(base: MakeModel, tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        trained = export(base("llama", "bfloat16"), folder, precision=precision)
        model = open_model(folder)
        assert model.dtype == torch.bfloat16
        assert torch.allclose(logits(model), trained, atol=2e-2)


def test_the_tokenizer_comes_with_its_template(base: MakeModel, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    export(base("llama"), tmp_path / "export")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    messages = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "<|user|>Hi\n"


def test_an_export_replaces_the_one_before(base: MakeModel, tmp_path: Path) -> None:
    export(base("llama"), tmp_path / "export", method="lora")
    assert (tmp_path / "export" / "adapter").is_dir()
    trained = export(base("llama"), tmp_path / "export")
    assert not (tmp_path / "export" / "adapter").exists()
    assert torch.allclose(logits(open_model(tmp_path / "export")), trained, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_an_export_in_a_store_opens_from_there(base: MakeModel, tmp_path: Path) -> None:
    store = f"memory://{tmp_path.name}/{uuid.uuid4().hex}/a1"
    folder = base("llama")
    with opened(configure(folder)) as running:
        train(running)
        after = logits_of(running)
        record = checkpoint.export(
            tmp_path / "export",
            running.model.model,
            load_tokenizer(folder),
            step=3,
            samples=24,
            weights=running.weights(),
            store=store,
        )
    assert record.path == f"{store}/export"
    assert not (tmp_path / "export").exists()
    copy = check_model(record.path)
    assert torch.allclose(logits(open_model(copy)), after, atol=1e-5)
    storage.remove(record.path)
    with pytest.raises(ModelError, match="isn't there"):
        check_model(record.path)
