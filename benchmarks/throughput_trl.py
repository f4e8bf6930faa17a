"""TRL's side of `benchmarks/throughput.py`, in TRL's environment: `SFTTrainer` on the same samples.

    python throughput_trl.py FOLDER STEPS THREADS DEVICE SETTING...

prints one line of JSON a setting, as our side does, or why a setting failed. A setting is
`KIND:ROWS`. `padded`: rows of a micro-batch, padded to the longest; `padding-free`: the same rows
joined to one, with the borders in `position_ids`; `packing`: rows made by best fit decreasing, as
many to a step as hold an effective batch on average. Samples of an effective batch stand in order
of length, so that similar ones meet: more than its own sampler does, which orders the whole data
set and changes the batches.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]


class Clock(TrainerCallback):
    """When each step had ended, its loss, and its real tokens as the trainer counts them."""

    def __init__(self) -> None:
        self.ended: list[float] = []
        self.cpu: list[float] = []
        self.losses: list[float] = []
        self.tokens: list[int] = []

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ended.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))
            self.tokens.append(int(float(logs["num_tokens"])) - sum(self.tokens))


def train(folder: Path, steps: int, device: str, setting: str) -> dict[str, Any]:
    kind, _, rows_text = setting.partition(":")
    rows = int(rows_text)
    batches: list[list[dict[str, Any]]] = json.loads((folder / "steps.json").read_text())[:steps]
    batches = [sorted(batch, key=lambda s: -len(s["input_ids"])) for batch in batches]
    samples = [sample for batch in batches for sample in batch]
    size = len(batches[0])
    longest = max(len(sample["input_ids"]) for sample in samples)
    accumulate = size // rows
    if kind == "packing":
        tokens = sum(len(sample["input_ids"]) for sample in samples)
        accumulate = max(1, round(tokens / steps / longest / rows))
    gpu = device == "cuda"
    with tempfile.TemporaryDirectory() as output:
        settings = SFTConfig(
            output_dir=output,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=accumulate,
            max_steps=steps,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            adam_beta1=0.9,
            adam_beta2=0.95,
            weight_decay=0.0,
            max_grad_norm=1.0,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not gpu,
            bf16=gpu,
            gradient_checkpointing=False,
            train_sampling_strategy="sequential",
            max_length=None if kind == "padding-free" else longest,
            padding_free=kind == "padding-free",
            packing=kind == "packing",
            dataset_num_proc=1,
            eos_token="<|end|>",
        )
        model = AutoModelForCausalLM.from_pretrained(
            folder / "model",
            dtype=torch.bfloat16 if gpu else torch.float32,
            attn_implementation=_attention(kind, gpu),
        )
        clock = Clock()
        trainer = SFTTrainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_list(samples),
            processing_class=AutoTokenizer.from_pretrained(folder / "model"),
            callbacks=[clock],
        )
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    made = [
        {"loss": loss, "tokens": tokens, "ended": ended, "cpu": cpu}
        for loss, tokens, ended, cpu in zip(
            clock.losses, clock.tokens, clock.ended, clock.cpu, strict=True
        )
    ]
    memory = torch.cuda.max_memory_allocated() if gpu else 0
    return {"setting": setting, "steps": made, "memory": memory}


def _attention(kind: str, gpu: bool) -> str:
    if gpu and kind != "padded":
        try:
            import flash_attn  # noqa: F401  # pyright: ignore[reportMissingImports]

            return "flash_attention_2"
        except ImportError:
            pass
    return "sdpa"


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    for one in sys.argv[5:]:
        result: dict[str, Any]
        try:
            result = train(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[4], one)
        except Exception as error:  # a setting that this version, or this memory, doesn't take
            result = {"setting": one, "error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(result), flush=True)
