"""Work that both sides of a benchmark do: a small random Llama that learns to add.

Run as a module, it trains one run alone, which builds what the first run on a machine builds
(DeepSpeed's communication operator, the cache of tokenised samples): `prepare` does so in a process
of its own, before anything is measured.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.config import DataConfig, TrainConfig, TrainSet

RANKS = 2
BATCH = 16
"""Samples in an effective batch."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]


@dataclass(frozen=True)
class Workload:
    """A folder with a model and data, and the number of optimizer steps of one trial."""

    folder: Path
    steps: int

    def config(self, trial: int) -> TrainConfig:
        """What trial number `trial` trains. Trials differ as in a sweep: here by learning rate.

        Held-out evaluation, generation, checkpoints and export are off: they cost both sides the
        same, and would only hide what is measured.
        """
        return TrainConfig(
            model=str(self.folder / "model"),
            data=DataConfig(
                train=(TrainSet(path=str(self.folder / "train.jsonl")),),
                max_length=256,
                cache_dir=str(self.folder / "cache"),
            ),
            output_dir=str(self.folder / "runs" / f"{trial:03d}"),
            learning_rate=1e-3 * 0.8**trial,
            effective_batch_size=BATCH,
            schedule="constant",
            max_samples=BATCH * self.steps,
            precision="fp32",
            max_tokens_per_microbatch=2048,
            eval_at_end=False,
            exact_match=False,
            export=False,
        )


@dataclass
class Marks:
    """When one trial did what (seconds, `time.time()`), and the losses of its steps.

    Trials of one `group` ran on the same workers, which its first one had to start.
    `handed`: the trial was taken into a free slot. `first_step`, `last_step`: rank 0 had finished
    that optimizer step. `benchmarks/turnaround.py` says how each side takes them.
    """

    trial: int
    group: int
    handed: float
    first_step: float
    last_step: float
    losses: list[float | None]


def write_marks(file: Path, marks: Marks) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(marks)) + "\n")


def read_marks(file: Path) -> list[Marks]:
    """The trials that have ended, in the order in which they started."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    return sorted((Marks(**json.loads(line)) for line in lines), key=lambda m: m.handed)


def make_workload(folder: Path, steps: int) -> Workload:
    """Write the model and the data into `folder`."""
    samples = [_sample(random.Random(n)) for n in range(BATCH * steps)]
    with (folder / "train.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"messages": s}) + "\n" for s in samples)
    _write_model(folder / "model", [m["content"] for s in samples for m in s])
    return Workload(folder, steps)


def prepare(workload: Workload, timeout: float) -> None:
    """Train one run to its end in a process of its own, so that nothing is built while measuring.

    Raises:
        subprocess.CalledProcessError: training doesn't work here; `stderr` says why.
        subprocess.TimeoutExpired: nor does it end.
    """
    command = [sys.executable, "-m", "benchmarks.workload", str(workload.folder)]
    subprocess.run(
        [*command, str(workload.steps)], check=True, capture_output=True, text=True, timeout=timeout
    )


def steps_of(config: TrainConfig) -> Iterator[Any]:
    """Train `config` on this rank of the process group; its step records, one by one."""
    from trainer.loop import Run

    run = Run(config, resume_from=None)
    try:
        while True:
            batch = run.advance(0.0, lambda: "go")
            if batch.failure is not None:
                raise RuntimeError(f"{batch.failure.message}\n{batch.failure.detail}")
            if len(batch.steps) > 1:
                raise RuntimeError("a report held several steps; the times would be wrong")
            yield from batch.steps
            if batch.status != "running":
                return
    finally:
        run.close()


def _write_model(folder: Path, texts: list[str]) -> None:
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    transformers.utils.logging.disable_progress_bar()
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokens.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
    )
    torch.manual_seed(0)
    ids: Any = tokenizer.convert_tokens_to_ids(["<|end|>", "<|pad|>"])
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=160,
            intermediate_size=432,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=None,
            eos_token_id=ids[0],
            pad_token_id=ids[1],
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _sample(draw: random.Random) -> list[dict[str, str]]:
    numbers = [draw.randrange(100) for _ in range(draw.randrange(2, 9))]
    question = "What is " + " + ".join(map(str, numbers)) + "?"
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": str(sum(numbers))},
    ]


def _train_alone(folder: Path, steps: int) -> None:
    import socket

    from trainer import engine

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    engine.join(0, 1, "127.0.0.1", port, local_rank=0)
    list(steps_of(Workload(folder, steps).config(0)))


if __name__ == "__main__":
    _train_alone(Path(sys.argv[1]), int(sys.argv[2]))
