"""A small model that has learned nothing, with data, as the parts of an evaluation need them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.tiny_model import make_tiny_model, sums, write_jsonl


@dataclass(frozen=True)
class Parts:
    """A token loss with its tokenizer; `folder` is the model's, `held` a set of 21 samples."""

    folder: Path
    loss: Any
    tokenizer: Any
    held: Any


@pytest.fixture(scope="package")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("evaluate") / "model")


@pytest.fixture(scope="package")
def parts(model_folder: Path, process_group: None) -> Parts:
    from transformers import AutoModelForCausalLM

    from trainer.attention import supports_packing
    from trainer.config import TrainConfig
    from trainer.data import load_data
    from trainer.loss import TokenLoss, head_of
    from trainer.model import load_tokenizer

    data = model_folder.parent
    file = write_jsonl(data / "held.jsonl", sums(21, seed=3))
    config = TrainConfig.model_validate(
        {
            "model": str(model_folder),
            "data": {
                "train": [{"path": str(file)}],
                "eval": [{"path": str(file), "name": "sums"}],
            },
            "output_dir": str(data / "out"),
            "learning_rate": 1e-3,
            "effective_batch_size": 4,
        }
    )
    tokenizer = load_tokenizer(model_folder, None)
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder)
    assert supports_packing(model)
    return Parts(
        folder=model_folder,
        loss=TokenLoss(model, head=head_of(model)).train(),
        tokenizer=tokenizer,
        held=load_data(config, model_folder, tokenizer).eval["sums"],
    )
