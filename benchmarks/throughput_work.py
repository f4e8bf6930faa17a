"""What both sides of `benchmarks/throughput.py` train: random Llamas, and samples of
instruction-like lengths.

    python -m benchmarks.throughput_work SIZE FOLDER STEPS

writes `model/`, `train.jsonl` for our side, and `steps.json` for the peer: the same samples as
token ids and target masks, cut into the effective batches that our side will make of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import DataConfig, Precision, TrainConfig, TrainSet

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %} <|end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|unknown|>"]


@dataclass(frozen=True)
class Size:
    """A model, and how much of it makes a step. `cap` is tokens of our micro-batches.

    The output embedding holds about a quarter of a small model's weights, tied, as it does in Llama
    3.2 1B. Lengths are log-normal: `mean` is of their logarithm.
    """

    label: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    batch: int
    cap: int
    mean: float = 5.2
    longest: int = 2048
    precision: Precision = "fp32"


SIZES: Mapping[str, Size] = {
    "2m": Size("2 M parameters", 128, 384, 8, 4, 2, 4096, batch=24, cap=2048),
    "20m": Size("20 M parameters", 384, 1024, 10, 6, 2, 12288, batch=12, cap=2048),
    "1b": Size(
        "1.2 B parameters, GPU",
        2048,
        8192,
        16,
        32,
        8,
        128256,
        batch=128,
        cap=8192,
        mean=6.1,
        longest=4096,
        precision="bf16",
    ),
}


def config(size: Size, folder: Path, steps: int) -> TrainConfig:
    """The run: AdamW, a constant rate, whole effective batches, nothing but training."""
    return TrainConfig(
        model=str(folder / "model"),
        data=DataConfig(
            train=(TrainSet(path=str(folder / "train.jsonl")),),
            max_length=size.longest,
            cache_dir=str(folder / "cache"),
        ),
        output_dir=str(folder / "run"),
        learning_rate=1e-4,
        effective_batch_size=size.batch,
        schedule="constant",
        max_samples=size.batch * steps,
        precision=size.precision,
        max_tokens_per_microbatch=size.cap,
        eval_at_end=False,
        exact_match=False,
        export=False,
    )


def make(name: str, folder: Path, steps: int) -> None:
    """Write model and data of size `name`, enough for `steps` steps."""
    size = SIZES[name]
    draw = np.random.default_rng(0)
    lengths = np.exp(draw.normal(size.mean, 0.8, size.batch * steps)).astype(int)
    lengths = np.clip(lengths, 16, size.longest - 8)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.jsonl").open("w", encoding="utf-8") as stream:
        for length in lengths:
            question = max(4, int(length * draw.uniform(0.2, 0.6)))
            messages = [
                {"role": "user", "content": _words(draw, question, size)},
                {"role": "assistant", "content": _words(draw, length - question, size)},
            ]
            stream.write(json.dumps({"messages": messages}) + "\n")
    _write_model(size, folder / "model")
    _write_steps(size, folder, steps)


def _words(draw: np.random.Generator, count: int, size: Size) -> str:
    numbers = draw.zipf(1.3, count) % (size.vocabulary - len(SPECIAL))
    return " ".join(f"w{number}" for number in numbers)


def _write_model(size: Size, folder: Path) -> None:
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    transformers.utils.logging.disable_progress_bar()
    words = [*SPECIAL, *(f"w{n}" for n in range(size.vocabulary - len(SPECIAL)))]
    tokens = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<|unknown|>")
    )
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        unk_token="<|unknown|>",
        chat_template=CHAT_TEMPLATE,
    )
    torch.manual_seed(0)
    dtype = torch.bfloat16 if size.precision == "bf16" else torch.float32
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size.vocabulary,
            hidden_size=size.hidden,
            intermediate_size=size.intermediate,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.kv_heads,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
            dtype=dtype,
        )
    )
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_steps(size: Size, folder: Path, steps: int) -> None:
    """The effective batches that our side makes, for the peer to train on the same."""
    from trainer import engine
    from trainer.loop import Run

    engine.join(0, 1, "127.0.0.1", 0)
    run = Run(config(size, folder, steps))
    made: list[list[dict[str, Any]]] = []
    for number in range(steps):
        step = run._batches.step(number, number * size.batch)
        samples: list[dict[str, Any]] = []
        for index in (i for micro_batch in step.mine for i in micro_batch):
            ids, mask = run.data.train.sample(index)
            samples.append({"input_ids": ids.tolist(), "assistant_masks": mask.tolist()})
        made.append(samples)
    run.close()
    (folder / "steps.json").write_text(json.dumps(made), encoding="utf-8")


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
