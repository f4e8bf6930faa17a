"""Quality of the model being trained, as it is at the moment of the call, on all ranks together.

Loss and exact match are sums, summed over ranks and divided once: the same whatever the number of
ranks. Benchmarks and judging are in modules of their own; this is where the loop finds them all.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from trainer import engine
from trainer.attention import collate
from trainer.config import ANYWHERE, Extract, Judge, LmEval, Roots
from trainer.data import TokenSet
from trainer.evaluate.batches import GENERATION_CAP, batches, halving
from trainer.evaluate.extract import Extractor
from trainer.evaluate.generate import greedy, stop_tokens, uncompiled
from trainer.evaluate.retention import BaseLoss, BaseLosses
from trainer.evaluate.tasks import confined_tasks
from trainer.evaluate.turns import Control, heed, in_step
from trainer.loss import TokenLoss
from trainer.metrics import Evaluation, finite
from trainer.packing import plan_step

KEPT_ANSWERS = 64
"""Answers of each set that are written to the run's `generations` folder."""

WholeWeights = Callable[[], AbstractContextManager[Any]]
"""Inside it, every rank holds all weights and no forward pass needs the other ranks."""


class Evaluator:
    """Evaluates one model. All ranks make the same calls.

    Args:
        loss: the model as a token loss.
        tokenizer: encodes and decodes; its end-of-sequence token ends answers.
        cap: most tokens of a forward pass on a rank, padding counted.
        packed: the model takes packed micro-batches.
        output: the run's output folder; answers are written below it. None: nowhere.
        whole_weights: entered around generation. Where weights are partitioned (ZeRO 3) it must
            gather them.
        partitioned: each forward pass outside `whole_weights` needs all ranks (ZeRO 3).
        base_losses: where the base model's loss on general sets is kept; None: nowhere.
    """

    def __init__(
        self,
        loss: TokenLoss,
        tokenizer: Any,
        *,
        cap: int,
        packed: bool,
        output: Path | None = None,
        whole_weights: WholeWeights = nullcontext,
        partitioned: bool = False,
        base_losses: BaseLosses | None = None,
    ) -> None:
        self._loss = loss
        self._tokenizer = tokenizer
        self._cap = cap
        self._packed = packed
        self._output = output
        self._whole_weights = whole_weights
        self._partitioned = partitioned
        self._base_losses = base_losses

    def evaluate(
        self,
        samples: TokenSet,
        *,
        name: str,
        split: Literal["eval", "test", "general"],
        step: int,
        seen: int,
        generate: int = 0,
        max_new_tokens: int = 0,
        extract: Extract | None = None,
        control: Control | None = None,
        roots: Roots = ANYWHERE,
    ) -> Evaluation:
        """Token loss on all of `samples`; exact match on the first `generate` of them.

        Samples without a last assistant turn have nothing to be generated, and are left out of it.

        On a general set at step 0 the loss may come from what an earlier run kept; after it,
        `scores` has its `change` since step 0 where that is known.

        Raises:
            Interrupted: `control` was answered with pause or stop on some rank.
            TrainerError: on every rank, if any of them failed.
        """
        began = time.monotonic()
        scores: dict[str, float] = {}
        match = None
        asked = [i for i in range(min(generate, len(samples))) if samples.prompts[i] > 0]
        with self._evaluating():
            loss, tokens = self._base_loss(samples, split, step) or self._token_loss(
                samples, control
            )
            if asked:
                extractor = Extractor(extract or Extract(), f"/data/{split}")
                match = self._exact_match(
                    samples, asked, max_new_tokens, extractor, control, (split, name, step)
                )
        if split == "general":
            scores = self._retention(samples, step, loss, tokens)
        return Evaluation(
            step=step,
            samples=seen,
            split=split,
            dataset=name,
            loss=finite(loss),
            tokens=tokens,
            exact_match=match,
            generated=len(asked),
            seconds=time.monotonic() - began,
            scores=scores,
        )

    def benchmarks(
        self,
        settings: LmEval,
        *,
        step: int,
        seen: int,
        control: Control | None = None,
        roots: Roots = ANYWHERE,
    ) -> list[Evaluation]:
        """Tasks and groups of lm-evaluation-harness, an `Evaluation` each.

        Raises:
            Interrupted: as `evaluate`.
            TrainerError: a task can't be run; names it.
        """
        from trainer.evaluate.lm_eval import run_tasks  # slow to import

        with self._evaluating(), self._whole_weights(), uncompiled():
            return run_tasks(
                confined_tasks(settings, roots),
                self._loss.model,
                self._tokenizer,
                cap=self._cap,
                step=step,
                seen=seen,
                control=control,
            )

    def judged(
        self,
        settings: Judge,
        *,
        step: int,
        seen: int,
        control: Control | None = None,
        roots: Roots = ANYWHERE,
    ) -> Evaluation:
        """Answers to the judge's questions, graded by the judge.

        Raises:
            Interrupted: as `evaluate`.
            TrainerError: the questions can't be read, or the judge failed too often.
        """
        from trainer.evaluate.judge import run_judge  # the client is slow to import

        with self._evaluating():
            return run_judge(
                settings,
                self._loss.model,
                self._tokenizer,
                cap=self._cap * GENERATION_CAP,
                step=step,
                seen=seen,
                output=self._output,
                whole_weights=self._whole_weights,
                control=control,
                roots=roots,
            )

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self._loss.training
        self._loss.eval()
        try:
            # Not inference mode: what is cached inside it can't be used in training later.
            with torch.no_grad():
                yield
        finally:
            self._loss.train(was_training)

    # --- loss -----------------------------------------------------------------------------------

    def _token_loss(self, samples: TokenSet, control: Control | None) -> tuple[float, int]:
        plan = plan_step(
            samples.lengths.tolist(),
            ranks=engine.world_size(),
            cap=self._cap,
            padded=not self._packed,
            equal_counts=self._partitioned,
        )
        total, count = 0.0, 0

        def add(positions: list[int]) -> None:
            nonlocal total, count
            batch = collate(
                [samples.sample(i) for i in positions],
                packed=self._packed,
                pad_id=self._tokenizer.pad_token_id,
                device=engine.device(),
            )
            total += float(self._loss(batch))
            count += len(batch.targets)

        in_step(plan[engine.rank()], add, control)
        total, counted = engine.sum_over_ranks(total, count)
        return total / counted, int(counted)

    def _base_loss(self, samples: TokenSet, split: str, step: int) -> tuple[float, int] | None:
        kept = self._kept_base_loss(samples) if split == "general" and step == 0 else None
        return (kept.loss, kept.tokens) if kept is not None else None

    def _retention(
        self, samples: TokenSet, step: int, loss: float, tokens: int
    ) -> dict[str, float]:
        if step:
            base = self._kept_base_loss(samples)
            change = finite(loss - base.loss) if base is not None else None
            return {"change": change} if change is not None else {}
        if self._base_losses is not None and engine.rank() == 0 and finite(loss) is not None:
            self._base_losses.keep(samples.key, BaseLoss(loss, tokens))
        return {}

    def _kept_base_loss(self, samples: TokenSet) -> BaseLoss | None:
        if self._base_losses is None:
            return None
        kept = self._base_losses.read(samples.key) if engine.rank() == 0 else None
        return engine.gather(kept)[0]

    # --- exact match ------------------------------------------------------------------------------

    def _exact_match(
        self,
        samples: TokenSet,
        asked: list[int],
        max_new_tokens: int,
        extractor: Extractor,
        control: Control | None,
        label: tuple[str, str, int],
    ) -> float:
        """Fraction of the samples `asked` whose greedy answer agrees with the reference."""
        model = self._loss.model
        stops = stop_tokens(model, self._tokenizer)
        order = sorted(asked, key=lambda i: (-int(samples.prompts[i]), i))
        mine = order[engine.rank() :: engine.world_size()]
        widths = [int(samples.prompts[i]) + max_new_tokens for i in mine]
        right = 0
        kept: list[dict[str, Any]] = []

        def continued(prompts: Any) -> list[list[int]]:
            return greedy(
                model,
                prompts,
                max_new_tokens=max_new_tokens,
                stops=stops,
                pad_id=self._tokenizer.pad_token_id,
                between=heed(control),
            )

        def answer(batch: list[int]) -> None:
            nonlocal right
            made = halving([samples.prompt(i) for i in batch], continued)
            texts = self._tokenizer.batch_decode(made, skip_special_tokens=True)
            for index, ids, text in zip(batch, made, texts, strict=True):
                reference = samples.answers[index]
                found, wanted = extractor(text), extractor(reference)
                correct = found is not None and found == wanted
                right += correct
                if index < KEPT_ANSWERS:
                    kept.append(
                        {
                            "sample": index,
                            "correct": correct,
                            "prompt": self._tokenizer.decode(samples.prompt(index)),
                            "answer": text,
                            "reference": reference,
                            "extracted": found,
                            "expected": wanted,
                            "ended": bool(ids) and ids[-1] in stops,
                        }
                    )

        with self._whole_weights():
            in_step(batches(mine, widths, self._cap * GENERATION_CAP), answer, control)
        (right_everywhere,) = engine.sum_over_ranks(right)
        self._write_answers(kept, *label)
        return right_everywhere / len(asked)

    def _write_answers(self, mine: list[dict[str, Any]], split: str, name: str, step: int) -> None:
        answers = [answer for part in engine.gather(mine) for answer in part]
        if self._output is None or engine.rank() != 0:
            return
        answers.sort(key=lambda answer: answer["sample"])
        folder = self._output / "generations"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{split}-{name}-step-{step}.jsonl"
        temporary = file.with_name(f".{file.name}.tmp")
        lines = [json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers]
        temporary.write_text("".join(lines), encoding="utf-8")
        os.replace(temporary, file)
