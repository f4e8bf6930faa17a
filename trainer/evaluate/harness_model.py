"""The model being trained, as lm-evaluation-harness sees it; requests are shared among the ranks.

The harness runs on every rank as if it were alone, so all build the same requests. Each rank then
answers its part of them and all get all answers. So results are the same whatever the number of
ranks, which the harness's own sharding can't promise (it shards documents before few-shot examples
are drawn), and a rank without documents is no special case.

Log-likelihoods are computed in fp32, from the logits of the continuations alone. Requests that
differ in their last token only, such as the letters of a multiple choice, share a forward pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from trainer import engine
from trainer.evaluate.batches import GENERATION_CAP, batches, halving
from trainer.evaluate.generate import greedy, stop_tokens, takes, takes_plain_cache
from trainer.evaluate.turns import Control, heed, in_step

Score = tuple[float, bool]
"""Log-likelihood of a continuation in nats, and whether it is what greedy decoding gives."""
Scored = tuple[list[int], list[int]]
"""Token ids of a context (never empty) and of the continuation that is scored."""

_ENCODED_AT_ONCE = 256
"""Requests tokenised between two votes."""
_TOGETHER = 32
"""Most requests of one context that go to one rank: all of a task may have none."""


_Base: Any = HFLM  # what its decorator returns has no type


class HarnessModel(_Base):
    """`model` for lm-evaluation-harness. All ranks make the same calls.

    Args:
        model: in eval mode, with all its weights in place.
        tokenizer: the model's.
        cap: most tokens of a forward pass, padding counted.
        control: asked between batches.
    """

    def __init__(self, model: Any, tokenizer: Any, *, cap: int, control: Control | None) -> None:
        super().__init__(pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=1)
        self._device = engine.device()
        self._cap = cap
        self._control = control
        self._short_logits = takes(model, "logits_to_keep")

    # --- what the harness calls ------------------------------------------------------------------

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Score]:
        """One score a request; its arguments are context and continuation."""
        pairs: list[tuple[str, str]] = [request.args for request in requests]
        mine = _dealt([context for context, _ in pairs])
        encoded: dict[int, Scored] = {}

        def encode(part: list[int]) -> None:
            for index in part:
                encoded[index] = self._encoded(*pairs[index])

        self._in_step(_chunks(mine), encode)
        return self._everywhere(self._scores(encoded), len(pairs))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each whole text, cut into windows of the model's length."""
        texts: list[str] = [request.args[0] for request in requests]
        windows: dict[tuple[int, int], Scored] = {}

        def encode(part: list[int]) -> None:
            for index in part:
                cut = get_rolling_token_windows(
                    token_list=self.tok_encode(texts[index]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
                for number, window in enumerate(map(make_disjoint_window, cut)):
                    windows[index, number] = window

        mine = _dealt(texts)
        self._in_step(_chunks(mine), encode)
        totals = dict.fromkeys(mine, 0.0)
        for (index, _), (score, _) in self._scores(windows).items():
            totals[index] += score
        return self._everywhere(totals, len(texts))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """One answer a request; its arguments are context and generation settings."""
        asked: list[tuple[str, dict[str, Any]]] = [request.args for request in requests]
        order = sorted(range(len(asked)), key=lambda i: (-len(asked[i][0]), i))
        mine = order[engine.rank() :: engine.world_size()]
        prompts: dict[int, list[int]] = {}

        def encode(part: list[int]) -> None:
            for index in part:
                prompts[index] = self.tok_encode(asked[index][0])

        self._in_step(_chunks(mine), encode)
        alike: defaultdict[str, list[int]] = defaultdict(list)
        for index in mine:
            alike[repr(asked[index][1])].append(index)
        answers: dict[int, str] = {}

        def work() -> Iterator[list[int]]:
            for group in alike.values():
                room = self._answer_room(normalize_gen_kwargs(asked[group[0]][1], 256))
                group.sort(key=lambda i: -len(prompts[i]))
                widths = [min(len(prompts[i]), self.max_length - room) + room for i in group]
                yield from batches(group, widths, self._cap * GENERATION_CAP)

        def answer(batch: list[int]) -> None:
            settings = asked[batch[0]][1]
            kept = [prompts[index] for index in batch]
            texts = halving(kept, lambda part: self._answers(part, settings))
            answers.update(zip(batch, texts, strict=True))

        self._in_step(work(), answer)
        return self._everywhere(answers, len(asked))

    # --- scoring ---------------------------------------------------------------------------------

    def _encoded(self, context: str, continuation: str) -> Scored:
        """As `TemplateLM.loglikelihood` does it."""
        if context:
            return self._encode_pair(context, continuation)
        ids = self.tok_encode(continuation, add_special_tokens=False)
        if ids and ids[0] == self.prefix_token_id:
            return ids[:1], ids[1:]
        return [self.prefix_token_id], ids

    def _scores(self, wanted: dict[Any, Scored]) -> dict[Any, Score]:
        """The score of each, computed in batches; this rank's alone. All ranks call together."""
        shared: defaultdict[tuple[int, ...], list[Hashable]] = defaultdict(list)
        for key, (context, continuation) in wanted.items():
            shared[tuple((context + continuation)[-(self.max_length + 1) : -1])].append(key)
        rows = sorted(shared, key=lambda row: -len(row))
        scores: dict[Hashable, Score] = {}

        def score(batch: list[int]) -> None:
            inputs = [rows[at] for at in batch]
            targets = [[wanted[key][1] for key in shared[row]] for row in inputs]
            pairs = list(zip(inputs, targets, strict=True))
            for row, found in zip(inputs, halving(pairs, self._forward), strict=True):
                scores.update(zip(shared[row], found, strict=True))

        self._in_step(batches(list(range(len(rows))), [len(row) for row in rows], self._cap), score)
        return scores

    def _forward(self, pairs: Sequence[tuple[Sequence[int], list[list[int]]]]) -> list[list[Score]]:
        """Scores of the continuations of each row; row and continuation overlap but for a token."""
        width = max(len(row) for row, _ in pairs)
        ids = torch.tensor(
            [[*row, *[self.tokenizer.pad_token_id] * (width - len(row))] for row, _ in pairs],
            device=self.device,
        )
        # Padded on the right: no real token sees padding, so no mask is needed.
        spans = [
            (len(row) - max(len(continuation) for continuation in continuations), len(row))
            for row, continuations in pairs
        ]
        first = max(0, min(begin for begin, _ in spans))
        keep = torch.arange(first, width, device=self.device)
        if self._short_logits:
            logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
        else:
            logits = self.model(input_ids=ids, use_cache=False).logits[:, first:]
        found: list[list[Score]] = []
        for (row, continuations), some in zip(pairs, logits, strict=True):
            begin = max(first, spans[len(found)][0])
            likely = some[begin - first : len(row) - first].float().log_softmax(-1)
            best = likely.argmax(-1)
            scores: list[Score] = []
            for continuation in continuations:
                tokens = torch.tensor(continuation[-len(likely) :], device=self.device)
                tail = likely[len(likely) - len(tokens) :]
                total = tail.gather(1, tokens[:, None]).sum()
                scores.append((float(total), bool((best[-len(tokens) :] == tokens).all())))
            found.append(scores)
        return found

    # --- generating ------------------------------------------------------------------------------

    def _answers(self, prompts: Sequence[list[int]], settings: dict[str, Any]) -> list[str]:
        chosen: dict[str, Any] = dict(normalize_gen_kwargs(settings, 256))
        end = self.tok_decode([self.eot_token_id], skip_special_tokens=False)
        until = handle_stop_sequences(chosen.pop("until", None), eos=end)
        room = self._answer_room(chosen)
        kept = [prompt[-(self.max_length - room) :] for prompt in prompts]
        plain = (
            not chosen.get("do_sample")
            and int(chosen.get("num_beams") or 1) == 1
            and takes_plain_cache(self.model)
        )
        stops = stop_tokens(self.model, self.tokenizer)
        if plain:
            made = greedy(
                self.model,
                kept,
                max_new_tokens=room,
                stops=stops,
                pad_id=self.tokenizer.pad_token_id,
                ended=self._stops_at(until),
                between=heed(self._control),
            )
        else:
            made = self._sampled(kept, chosen, room, until)
        texts = [self.tok_decode(row, skip_special_tokens=True) for row in made]
        return [
            postprocess_generated_text(text, stop=until, think_end_token=None) for text in texts
        ]

    def _sampled(
        self, prompts: Sequence[list[int]], chosen: dict[str, Any], room: int, until: list[str]
    ) -> list[list[int]]:
        """Answers with the harness's own generation, for settings that aren't greedy."""
        width = max(len(prompt) for prompt in prompts)
        pad = self.tokenizer.pad_token_id
        rows = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        masks = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        others = {k: v for k, v in chosen.items() if k not in ("max_gen_toks", "max_length")}
        made: torch.Tensor = self._model_generate(
            context=torch.tensor(rows, device=self.device),
            attention_mask=torch.tensor(masks, device=self.device),
            stop=until,
            max_length=width + room,
            **others,
        )
        return made[:, width:].tolist()

    def _stops_at(self, until: list[str]) -> Callable[[list[int]], bool]:
        """Whether an answer's last tokens hold one of the texts that end it."""
        texts = [text for text in until if text]
        longest = max(
            (len(self.tokenizer.encode(text, add_special_tokens=False)) for text in texts),
            default=0,
        )
        decode: Callable[..., str] = self.tokenizer.decode

        def ended(answer: list[int]) -> bool:
            # Two tokens more: the text may begin or end within a token.
            tail = decode(answer[-(longest + 2) :], skip_special_tokens=False)
            return any(text in tail for text in texts)

        return ended

    def _answer_room(self, settings: Any) -> int:
        """Most tokens of an answer. A task that wants all of the model's length gets half of it."""
        asked = int(settings["max_gen_toks"])
        return asked if asked < self.max_length else self.max_length // 2

    # --- ranks -----------------------------------------------------------------------------------

    def _in_step(self, items: Any, work: Callable[[Any], object]) -> None:
        in_step(items, work, self._control)

    def _everywhere(self, mine: dict[Any, Any], count: int) -> list[Any]:
        """All ranks' results, in the order of the requests."""
        merged: dict[Any, Any] = {}
        for part in engine.gather(mine):
            merged |= part
        return [merged[index] for index in range(count)]


def _dealt(contexts: Sequence[str]) -> list[int]:
    """This rank's requests. Those with one context stay together; long ones are dealt first."""
    alike: defaultdict[str, list[int]] = defaultdict(list)
    for index, context in enumerate(contexts):
        alike[context].append(index)
    parts = [
        (-len(context), indices[begin : begin + _TOGETHER])
        for context, indices in alike.items()
        for begin in range(0, len(indices), _TOGETHER)
    ]
    parts.sort(key=lambda part: (part[0], part[1][0]))
    return [i for _, part in parts[engine.rank() :: engine.world_size()] for i in part]


def _chunks(items: list[int]) -> Iterator[list[int]]:
    for begin in range(0, len(items), _ENCODED_AT_ONCE):
        yield items[begin : begin + _ENCODED_AT_ONCE]
