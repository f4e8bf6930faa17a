"""How good the model is: held-out loss, exact match, benchmarks, a judge's grades, retention.

    evaluator = Evaluator(loss, tokenizer, cap=8192, packed=True, output=folder,
                          whole_weights=engine.whole_weights, partitioned=stage == 3,
                          base_losses=BaseLosses(cache_folder, base_key(model_folder, precision)))
    evaluator.evaluate(samples, name="gsm8k", split="eval", step=9, seen=1152,
                       generate=500, max_new_tokens=128, extract=eval_set.extract, control=control)
    evaluator.benchmarks(config.lm_eval, step=9, seen=1152, control=control)
    evaluator.judged(config.judge, step=9, seen=1152, control=control)

All ranks make the same calls. `control` is asked between batches, on every rank; a wish to pause or
stop raises `Interrupted` (with its `verdict`) on all of them. Before a run, without torch:

    problems(config)        what is wrong with its benchmarks and its judge: JSON pointer, message

    evaluator.py      loss and exact match; where the loop finds everything
    extract.py        what of an answer is compared
    generate.py       batched greedy answers          batches.py     how prompts are put together
    turns.py          ranks in step, interruptions    retention.py   the base model's loss, kept
    lm_eval.py        benchmarks                      harness_model.py  requests shared among ranks
    judge.py          a judge's grades                grader.py      the judge's endpoint
    outbound.py       which addresses judges may have
    tasks.py          mistakes found before a run     task_index.py  names of benchmarks
    questions.py      the judge's questions

Importing this package imports neither torch, nor lm_eval, nor openai.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.evaluate.evaluator import Evaluator as Evaluator
    from trainer.evaluate.retention import BaseLosses as BaseLosses
    from trainer.evaluate.retention import base_key as base_key
    from trainer.evaluate.tasks import problems as problems
    from trainer.evaluate.turns import Interrupted as Interrupted

_HOMES = {
    "Evaluator": "evaluator",
    "BaseLosses": "retention",
    "base_key": "retention",
    "Interrupted": "turns",
    "problems": "tasks",
}

__all__ = ["BaseLosses", "Evaluator", "Interrupted", "base_key", "problems"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
