"""How far accumulated gradients are from exact: ours under bf16, and plain bf16 accumulation.

    python -m benchmarks.accumulation [--quick] --out accumulation.json

An effective batch is cut into 16, 128 and 512 micro-batches, and a small Llama in bf16 takes the
gradient of its summed loss on them, once through our engine (ZeRO 1: every micro-batch's gradient
is computed in bf16 and added up in fp32), once as torch does by itself: `loss.backward()` on bf16
weights adds up in bf16. Against both stands the gradient of the same weights and samples computed
in fp64. The error is ‖g - g₆₄‖ / ‖g₆₄‖ over all weights, of the gradient as the optimizer gets it.
What remains of ours is the rounding of activations and of each micro-batch's gradient.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks.report import machine, versions
from trainer import engine
from trainer.attention import MicroBatch, Sample, attending, choose, collate
from trainer.config import DataConfig, TrainConfig, TrainSet
from trainer.loss import TokenLoss, head_of

COUNTS = (16, 128, 512)
SEEDS = 3
SAMPLES, TOKENS = 2, 24
"""Of a micro-batch."""
VOCABULARY = 512
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console()
    engine.join(0, 1, "127.0.0.1", 0)
    counts = COUNTS[:2] if options.quick else COUNTS
    seeds = 1 if options.quick else SEEDS
    ours: dict[int, list[float]] = {count: [] for count in counts}
    naive: dict[int, list[float]] = {count: [] for count in counts}
    began = time.monotonic()
    for seed in range(seeds):
        for count in counts:
            mine, plain = errors(count, seed)
            ours[count].append(mine)
            naive[count].append(plain)
            console.print(
                f"{count} micro-batches: ours {mine:.2%}, bf16 {plain:.2%}", highlight=False
            )
    result = _as_json(ours, naive, options.quick, time.monotonic() - began)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
    console.print(f"Written to {options.out}", style="dim", highlight=False)
    engine.leave()
    return 0


def errors(count: int, seed: int) -> tuple[float, float]:
    """Relative error of the gradient over `count` micro-batches: ours, and accumulated in bf16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model: Any = LlamaForCausalLM(LlamaConfig.from_dict(SIZES))
    model.to(torch.bfloat16).train()
    assert choose(model, "linear")
    batches = list(_batches(count, seed))
    targets = sum(len(batch.targets) for batch in batches)
    with _fp64():
        exact = _by_torch(copy.deepcopy(model).double(), batches, targets)
    naive = _by_torch(copy.deepcopy(model), batches, targets)
    ours = _by_engine(model, batches, targets)
    return _distance(ours, exact), _distance(naive, exact)


def _by_torch(model: Any, batches: Sequence[MicroBatch], targets: int) -> torch.Tensor:
    """Accumulated in `.grad`, in the precision of the weights."""
    loss = TokenLoss(model, head=None)  # whole logits and plain cross-entropy
    for batch in batches:
        with attending(batch.segments):
            (loss(batch) / targets).backward()
    return torch.cat([p.grad.reshape(-1).double() for p in model.parameters()])


def _by_engine(model: Any, batches: Sequence[MicroBatch], targets: int) -> torch.Tensor:
    """What a step of plain SGD at a rate of 1 takes off the fp32 master weights."""
    config = TrainConfig(
        model="random",
        data=DataConfig(train=(TrainSet(path="random"),)),
        output_dir="none",
        learning_rate=1.0,
        effective_batch_size=len(batches) * SAMPLES,
        optimizer="sgd",
        adam_betas=(0.0, 0.95),
        precision="bf16",
        max_grad_norm=None,
        zero_stage=1,
    )
    running = engine.Engine(TokenLoss(model, head=head_of(model)).train(), config)
    for batch in batches:
        with attending(batch.segments):
            running.backward(running.forward(batch), targets)
    before = running.shard()["master"].double()
    running.step(1.0)
    taken = before - running.shard()["master"].double()
    running.close()
    return taken[: running.parameters]


def _batches(count: int, seed: int) -> Iterator[MicroBatch]:
    draw = np.random.default_rng(seed)
    for _ in range(count):
        samples: list[Sample] = []
        for _ in range(SAMPLES):
            ids = draw.zipf(1.3, TOKENS) % VOCABULARY
            mask = np.arange(TOKENS) >= draw.integers(4, TOKENS - 4)
            samples.append((ids, mask))
        yield collate(samples, packed=True, pad_id=0, device=engine.device())


def _distance(one: torch.Tensor, exact: torch.Tensor) -> float:
    return float((one - exact).norm() / exact.norm())


@contextmanager
def _fp64() -> Iterator[None]:
    """Cross-entropy keeps fp64: the loss takes logits to fp32, whose steps are 1e-7 wide."""
    float_: Callable[..., torch.Tensor] = torch.Tensor.float
    torch.Tensor.float = lambda self, *_, **__: self  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.float = float_  # type: ignore[method-assign]


def _as_json(
    ours: dict[int, list[float]], naive: dict[int, list[float]], quick: bool, seconds: float
) -> dict[str, Any]:
    def side(errors_: dict[int, list[float]]) -> dict[str, Any]:
        medians = {f"{n}_error": round(statistics.median(e), 5) for n, e in errors_.items()}
        samples = {f"{n}_samples_error": [round(x, 5) for x in e] for n, e in errors_.items()}
        return medians | samples

    return {
        "name": "Error of accumulated gradients",
        "quick": quick,
        "ours": side(ours),
        "peer": {"name": "torch, accumulating in bf16", **side(naive)},
        "ratio": {
            str(n): round(statistics.median(naive[n]) / statistics.median(ours[n]), 2) for n in ours
        },
        "target": {},
        "definition": {
            str(n): f"relative error of the gradient over {n} micro-batches, against fp64"
            for n in ours
        },
        "work": {
            "samples_per_micro_batch": SAMPLES,
            "tokens_per_sample": TOKENS,
            "seeds": len(next(iter(ours.values()))),
            "seconds": round(seconds, 1),
            **SIZES,
        },
        "versions": versions(),
        "machine": machine(),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="16 and 128 micro-batches, once")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
