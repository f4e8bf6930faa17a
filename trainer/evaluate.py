"""Held-out quality: mean token loss, and exact match of greedy answers. Sharded over all ranks.

Both are exact whatever the number of ranks: sums are summed, then divided once.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np
import torch

from trainer import engine
from trainer.attention import collate
from trainer.data import TokenSet
from trainer.loss import TokenLoss
from trainer.metrics import Evaluation, finite
from trainer.packing import plan_step


class Evaluator:
    """Evaluates one model, as it is at the moment of the call. All ranks call together.

    Args:
        loss: the model as a token loss.
        tokenizer: decodes answers; its end-of-sequence token ends them.
        cap: most tokens of a forward pass on a rank, padding counted.
        packed: the model takes packed micro-batches.
    """

    def __init__(self, loss: TokenLoss, tokenizer: Any, *, cap: int, packed: bool) -> None:
        self._loss = loss
        self._tokenizer = tokenizer
        self._cap = cap
        self._packed = packed

    def evaluate(
        self,
        samples: TokenSet,
        *,
        name: str,
        split: Literal["eval", "test"],
        step: int,
        seen: int,
        generate: int = 0,
        max_new_tokens: int = 0,
    ) -> Evaluation:
        """Token loss on all of `samples`; exact match on the first `generate` of them."""
        began = time.monotonic()
        was_training = self._loss.training
        self._loss.eval()
        try:
            with torch.inference_mode():
                loss, tokens = self._token_loss(samples)
                generate = min(generate, len(samples))
                match = self._exact_match(samples, generate, max_new_tokens) if generate else None
        finally:
            self._loss.train(was_training)
        return Evaluation(
            step=step,
            samples=seen,
            split=split,
            dataset=name,
            loss=finite(loss),
            tokens=tokens,
            exact_match=match,
            generated=generate,
            seconds=time.monotonic() - began,
        )

    def _token_loss(self, samples: TokenSet) -> tuple[float, int]:
        plan = plan_step(
            samples.lengths.tolist(),
            ranks=engine.world_size(),
            cap=self._cap,
            padded=not self._packed,
            equal_counts=False,
        )
        total, count = 0.0, 0
        for positions in plan[engine.rank()]:
            batch = collate(
                [samples.sample(i) for i in positions],
                packed=self._packed,
                pad_id=self._tokenizer.pad_token_id,
                device=engine.device(),
            )
            total += float(self._loss(batch))
            count += len(batch.targets)
        total, counted = engine.sum_over_ranks(total, count)
        return total / counted, int(counted)

    def _exact_match(self, samples: TokenSet, count: int, max_new_tokens: int) -> float:
        """Fraction of the first `count` samples whose greedy answer equals the reference."""
        order = sorted(range(count), key=lambda i: -int(samples.prompts[i]))
        mine = order[engine.rank() :: engine.world_size()]
        right = 0
        while mine:
            width = int(samples.prompts[mine[0]]) + max_new_tokens
            rows = max(1, self._cap // width)
            batch, mine = mine[:rows], mine[rows:]
            answers = self._answers([samples.prompt(i) for i in batch], max_new_tokens)
            for index, answer in zip(batch, answers, strict=True):
                right += answer.strip() == samples.answers[index].strip()
        (right_everywhere,) = engine.sum_over_ranks(right)
        return right_everywhere / count

    def _answers(self, prompts: list[Any], max_new_tokens: int) -> list[str]:
        """Greedy continuations of `prompts`, generated together, padded on the left."""
        width = max(len(prompt) for prompt in prompts)
        pad = self._tokenizer.pad_token_id
        ids = np.full((len(prompts), width), pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = prompt
            mask[row, width - len(prompt) :] = 1
        model: Any = self._loss.model
        stops = self._stop_tokens(model)
        made = model.generate(
            input_ids=torch.from_numpy(ids).to(engine.device()),
            attention_mask=torch.from_numpy(mask).to(engine.device()),
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=stops,
            pad_token_id=pad,
            use_cache=True,
        )[:, width:].tolist()
        texts: list[str] = []
        for row in made:
            end = next((at for at, token in enumerate(row) if token in stops), len(row))
            texts.append(self._tokenizer.decode(row[:end], skip_special_tokens=True))
        return texts

    def _stop_tokens(self, model: Any) -> list[int]:
        own = getattr(model.generation_config, "eos_token_id", None)
        stops = {self._tokenizer.eos_token_id}
        stops.update(own if isinstance(own, list) else [own] if own is not None else [])
        return sorted(stops)
