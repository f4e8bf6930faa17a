"""The data work of a first and of a second trial: ours, and the cache of Hugging Face `datasets`.

    python -m benchmarks.cache [--quick] --out cache.json

Both sides turn the same messages JSONL into the same tokens and the same mask of targets, with the
same tokenizer and chat template, in a process of their own; the peer as TRL does it, with
`Dataset.map`. Its template marks the assistant's part, which is the way that TRL needs. Both then
read all lengths and numbers of targets and the first 3,840 samples of a permutation: what a trainer
does before its first step. That both got the same is checked.

*First* starts with an empty cache, *second* is a new process that finds what the first one kept.
The time is from the moment the tokenizer is loaded to those samples being read: imports don't
count, on either side. *Second, whole process* is from the start of the process, imports included.

The peer works with as many processes as there are CPUs, we with as many threads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.report import Comparison, Measure

SAMPLES, QUICK_SAMPLES = 300_000, 10_000
BATCH = 3840
MAX_LENGTH = 4096
MEASURES = (
    Measure("first", "First trial", "tokenising all samples and reading the first batch"),
    Measure(
        "second",
        "Second trial",
        "the same in a new process, from the cache, imports not counted",
        target=1.0,
    ),
    Measure(
        "process",
        "Second, whole process",
        "from the start of the process to the first batch, imports included",
    ),
)
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|end|>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")
VOCABULARY = 16_000
TIMEOUT = 900


class BenchmarkFailed(Exception):
    """A side could not be measured, or they didn't do the same. The message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cache",
        description="Data work of a first and a second trial, against Hugging Face datasets.",
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SAMPLES:,} samples")
    parser.add_argument("--out", type=Path, required=True, help="where to write the result (JSON)")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        comparison = compare(options.quick, console)
    except BenchmarkFailed as error:
        console.print(f"[red]The benchmark failed.[/] {error}", highlight=False)
        return 1
    comparison.write(options.out)
    console.print()
    comparison.show(console)
    console.print(f"Written to {options.out}", style="dim", highlight=False)
    return 0


def compare(quick: bool, console: Console) -> Comparison:
    """Measure both sides.

    Raises:
        BenchmarkFailed: one couldn't be measured, or they didn't get the same samples.
    """
    count = QUICK_SAMPLES if quick else SAMPLES
    seconds: dict[str, dict[str, list[float]]] = {}
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="winnow-cache-") as name:
        folder = Path(name)
        with console.status("Making a tokenizer and data"):
            make_model(folder / "model")
            make_data(folder / "train.jsonl", count)
        for side in ("ours", "peer"):
            first = _run(side, folder, console)
            again = [_run(side, folder, console) for _ in range(3)]
            found += [first, *again]
            seconds[side] = {
                "first": [first["seconds"]],
                "second": [one["seconds"] for one in again],
                "process": [one["process"] for one in again],
            }
        check_same_work(found)
        size = (folder / "train.jsonl").stat().st_size
    return Comparison(
        name="Data work of a trial",
        quick=quick,
        measures=MEASURES,
        peer_name=f"datasets {metadata.version('datasets')}",
        ours=seconds["ours"],
        peer=seconds["peer"],
        work={
            "samples": count,
            "tokens": found[0]["tokens"],
            "target_tokens": found[0]["targets"],
            "megabytes": round(size / 1e6),
            "peak_mib_of_our_first": found[0]["peak_mib"],
            "peak_mib_of_the_peers_first": found[4]["peak_mib"],
        },
    )


def check_same_work(found: Sequence[dict[str, Any]]) -> None:
    """All processes must have got the same samples.

    Raises:
        BenchmarkFailed: they differ.
    """
    for key in ("samples", "tokens", "targets", "digest"):
        values = {one[key] for one in found}
        if len(values) != 1:
            raise BenchmarkFailed(f"{key} differ between the sides: {sorted(map(str, values))}")


def make_model(folder: Path) -> None:
    """A byte-level BPE tokenizer of common size, trained on the benchmark's own words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    draw = random.Random(0)
    tokenizer.train_from_iterator((text(draw, 200) for _ in range(2000)), trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template=TEMPLATE,
    ).save_pretrained(folder)


def make_data(path: Path, count: int) -> None:
    """Conversations of one or two turns with log-normal lengths, as instructions have."""
    draw = random.Random(1)
    with path.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            messages: list[dict[str, str]] = []
            for _ in range(1 if draw.random() < 0.8 else 2):
                for role, median in (("user", 12), ("assistant", 25)):
                    words = min(int(draw.lognormvariate(0, 0.8) * median) + 1, 800)
                    messages.append({"role": role, "content": text(draw, words)})
            stream.write(json.dumps({"messages": messages}) + "\n")


def text(draw: random.Random, words: int) -> str:
    """Words of a made-up language with a natural distribution of frequencies."""
    ranks = (int(draw.paretovariate(0.9)) for _ in range(words))
    return " ".join(_WORDS[rank % len(_WORDS)] for rank in ranks)


def _made_up_words() -> list[str]:
    draw = random.Random(2)
    first, last = "bcdfghklmnprstvw", "aeiou"
    return [
        "".join(draw.choice(first) + draw.choice(last) for _ in range(draw.randrange(1, 5)))
        for _ in range(30_000)
    ]


_WORDS = _made_up_words()


# --- a side is a process of its own -----------------------------------------------------------


def _run(side: str, folder: Path, console: Console) -> dict[str, Any]:
    began = time.time()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.cache", "--side", side, str(folder)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=os.environ
            | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "TOKENIZERS_PARALLELISM": "1"},
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkFailed(f"{side} did not end within {TIMEOUT} seconds") from error
    if done.returncode != 0:
        raise BenchmarkFailed(f"{side} failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    found["process"] = found.pop("ended") - began
    title = "winnow" if side == "ours" else "datasets"
    console.print(f"[dim]{title:<10}[/]{found['seconds']:8.2f} s", highlight=False)
    return found


def _side(side: str, folder: Path) -> None:
    import resource

    measure = _ours if side == "ours" else _peer
    seconds, lengths, targets, batch = measure(folder)
    ended = time.time()
    digest = hashlib.sha256()
    for tokens, mask in batch:
        digest.update(np.ascontiguousarray(tokens, dtype=np.int64).tobytes())
        digest.update(np.ascontiguousarray(mask, dtype=np.bool_).tobytes())
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "seconds": seconds,
                "ended": ended,
                "samples": len(lengths),
                "tokens": int(lengths.sum()),
                "targets": int(targets.sum()),
                "digest": digest.hexdigest(),
                "peak_mib": round(max(own, children) / 1024),
            }
        )
    )


def _chosen(count: int) -> list[int]:
    return np.random.default_rng(0).permutation(count)[:BATCH].tolist()


def _ours(folder: Path) -> tuple[float, Any, Any, list[tuple[Any, Any]]]:
    from trainer.config import TrainConfig
    from trainer.data import load_data
    from trainer.model import load_tokenizer

    config = TrainConfig.model_validate(
        {
            "model": str(folder / "model"),
            "data": {
                "train": [{"path": str(folder / "train.jsonl")}],
                "max_length": MAX_LENGTH,
                "cache_dir": str(folder / "cache"),
            },
            "output_dir": str(folder / "out"),
            "learning_rate": 1e-5,
            "effective_batch_size": BATCH,
        }
    )
    tokenizer = load_tokenizer(folder / "model")
    began = time.perf_counter()
    train = load_data(config, folder / "model", tokenizer).train
    lengths, targets = train.lengths, train.target_counts
    batch = [(np.array(tokens), mask) for tokens, mask in map(train.sample, _chosen(len(train)))]
    return time.perf_counter() - began, lengths, targets, batch


def _peer(folder: Path) -> tuple[float, Any, Any, list[tuple[Any, Any]]]:
    import datasets
    from datasets.utils import logging

    from trainer.model import load_tokenizer

    logging.disable_progress_bar()
    tokenizer = load_tokenizer(folder / "model")
    began = time.perf_counter()
    data = datasets.load_dataset("json", data_files=str(folder / "train.jsonl"), split="train")
    data = data.map(
        _tokenize,
        batched=True,
        fn_kwargs={"tokenizer": tokenizer},
        remove_columns=data.column_names,
        num_proc=os.cpu_count(),
    ).with_format("numpy")
    lengths, targets = np.asarray(data["length"][:]), np.asarray(data["targets"][:])
    rows = data[_chosen(len(data))]
    batch = list(zip(rows["input_ids"], rows["assistant_masks"], strict=True))
    return time.perf_counter() - began, lengths, targets, batch


def _tokenize(rows: dict[str, list[Any]], tokenizer: Any) -> dict[str, list[Any]]:
    made = tokenizer.apply_chat_template(
        rows["messages"], return_dict=True, return_assistant_tokens_mask=True
    )
    return {
        "input_ids": made["input_ids"],
        "assistant_masks": made["assistant_masks"],
        "length": [len(ids) for ids in made["input_ids"]],
        "targets": [sum(mask) for mask in made["assistant_masks"]],
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        _side(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main())
