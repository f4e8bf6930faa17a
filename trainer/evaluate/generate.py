"""Greedy answers to many prompts at once.

Rows that have ended leave the batch, so the last long answer doesn't carry the others along. The
tokens are those of `model.generate(do_sample=False, num_beams=1)`.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from trainer.engine import device

BETWEEN_TOKENS = 16
"""After so many tokens `between` is called."""

TokenIds = Sequence[int] | npt.NDArray[np.integer[Any]]

KEEP_ABOVE = 0.75
"""Rows are dropped from the cache once at most this part of them still runs: dropping copies it."""


def greedy(
    model: Any,
    prompts: Sequence[TokenIds],
    *,
    max_new_tokens: int,
    stops: Collection[int],
    pad_id: int,
    ended: Callable[[list[int]], bool] | None = None,
    between: Callable[[], object] | None = None,
) -> list[list[int]]:
    """The most likely continuation, token by token, of each prompt.

    Args:
        model: a causal language model in eval mode, with all its weights in place.
        prompts: token ids, of any lengths above 0.
        max_new_tokens: most tokens of an answer; fewer where the model has no positions for more.
        stops: tokens that end an answer.
        pad_id: fills up shorter prompts on the left; never seen by the model.
        ended: asked after each token whether the answer so far is complete. Not asked for models
            without `takes_plain_cache`, whose answers then run on.
        between: called now and then between tokens; what it raises ends the generation.

    Returns:
        Token ids of each answer, its stop token included if it has one.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**62
    rooms = [min(max_new_tokens, int(limit) - len(prompt)) for prompt in prompts]
    answers: list[list[int]] = [[] for _ in prompts]
    rows = [row for row, room in enumerate(rooms) if room > 0]
    if not rows:
        return answers
    width = max(len(prompts[row]) for row in rows)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, width - len(prompts[row]) :] = prompts[row]
        mask[at, width - len(prompts[row]) :] = 1
    on_device = (torch.from_numpy(ids).to(device()), torch.from_numpy(mask).to(device()))
    room = [rooms[row] for row in rows]
    with torch.no_grad(), uncompiled():
        if takes_plain_cache(model):
            made = _decode(model, *on_device, room, frozenset(stops), ended, between)
        else:
            made = _generate(model, *on_device, room, frozenset(stops), pad_id)
    for row, answer in zip(rows, made, strict=True):
        answers[row] = answer
    return answers


def stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """What ends an answer: the tokenizer's end token, and those the model names itself."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    stops = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
    return frozenset(int(token) for token in stops if token is not None)


def takes_plain_cache(model: Any) -> bool:
    """Whether the model's state is keys and values that rows can be dropped from."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    wanted = ("attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep")
    return not getattr(inner, "_is_stateful", False) and takes(model, *wanted)


def takes(model: Any, *names: str) -> bool:
    """Whether the model's forward pass has parameters of these names, under adapters if need be."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    parameters = inspect.signature(inner.forward).parameters
    return all(name in parameters for name in names)


def uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Compiled layers run as they are written: shapes change with each token."""
    if "torch._dynamo" not in sys.modules:  # importing it takes a second; then nothing is compiled
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")


def _decode(
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    rooms: list[int],
    stops: frozenset[int],
    ended: Callable[[list[int]], bool] | None,
    between: Callable[[], object] | None,
) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in range(len(ids))]
    rows = list(range(len(ids)))  # which answer each row of the batch belongs to
    running = set(rows)
    cache = DynamicCache(config=model.config)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for made in itertools.count():
        if between is not None and made % BETWEEN_TOKENS == BETWEEN_TOKENS - 1:
            between()
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        ids = logits[:, -1:].argmax(-1)
        for row, token in zip(rows, ids[:, 0].tolist(), strict=True):
            if row in running:
                answer = answers[row]
                answer.append(token)
                full = len(answer) == rooms[row]
                if full or token in stops or (ended is not None and ended(answer)):
                    running.remove(row)
        if not running:
            return answers
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        positions = positions[:, -1:] + 1
        if len(running) <= KEEP_ABOVE * len(rows):
            kept = [at for at, row in enumerate(rows) if row in running]
            rows = [rows[at] for at in kept]
            chosen = torch.tensor(kept, device=ids.device)
            cache.reorder_cache(cast(torch.LongTensor, chosen))
            ids, mask, positions = ids[chosen], mask[chosen], positions[chosen]
    return answers


def _generate(
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    rooms: list[int],
    stops: frozenset[int],
    pad_id: int,
) -> list[list[int]]:
    """For models whose state is not keys and values, such as Mamba: transformers' own loop."""
    made = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        num_beams=1,
        max_new_tokens=max(rooms),
        eos_token_id=sorted(stops),
        pad_token_id=pad_id,
        use_cache=True,
    )[:, ids.shape[1] :].tolist()
    ends = [next((at + 1 for at, t in enumerate(row) if t in stops), len(row)) for row in made]
    return [row[: min(end, room)] for row, end, room in zip(made, ends, rooms, strict=True)]
