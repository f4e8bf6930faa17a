"""From messages to tokens and the assistant-only mask, exactly, for any chat template.

The mask is found by rendering prefixes: what the template makes of the messages before an
assistant turn (with the generation prompt) is what the model will be given; everything from there
to the end of the turn is what it must write itself, its end-of-turn token included. A template
that marks its own {% generation %} blocks is taken at its word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Message = dict[str, str]

_GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")


class TemplateError(ValueError):
    """The chat template can't be used for this conversation."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One conversation, cut after its last assistant turn.

    `tokens` and `targets` (a mask: the assistant must write this token) are (tokens,). The first
    `prompt` tokens are what the model is given before its last turn; `answer` is that turn's text.
    """

    tokens: npt.NDArray[np.int32]
    targets: npt.NDArray[np.bool_]
    prompt: int
    answer: str


class ChatEncoder:
    """Encodes conversations with one tokenizer and its chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._marks_itself = bool(_GENERATION_BLOCK.search(str(tokenizer.chat_template)))
        self._specials = frozenset(tokenizer.all_special_ids)

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[Encoded | TemplateError]:
        """Encode conversations, each with at least one assistant turn; an error takes its place."""
        results: list[Encoded | TemplateError] = []
        drafts: list[_Draft | TemplateError] = []
        for conversation in conversations:
            try:
                drafts.append(self._draft(conversation))
            except TemplateError as error:
                drafts.append(error)
        texts = [t for d in drafts if isinstance(d, _Draft) for t in d.texts]
        ids = iter(self._tokenize(texts))
        for draft in drafts:
            if isinstance(draft, TemplateError):
                results.append(draft)
                continue
            pieces = [next(ids) for _ in draft.texts]
            try:
                results.append(self._finish(draft, pieces))
            except TemplateError as error:
                results.append(error)
        return results

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return self._tokenizer(texts, add_special_tokens=False)["input_ids"]

    def _render(self, messages: Sequence[Message], prompt: bool) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=prompt
            )
        except Exception as error:
            raise TemplateError(f"the chat template refuses this conversation: {error}") from error

    def _draft(self, messages: Sequence[Message]) -> _Draft:
        turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        messages = messages[: turns[-1] + 1]
        if self._marks_itself:
            turns = turns[-1:]
        full = self._render(messages, prompt=False)
        texts, cuts = [full], []
        for i in turns:
            before = self._render(messages[:i], prompt=True)
            through = full if i == turns[-1] else self._render(messages[: i + 1], prompt=False)
            if not self._marks_itself and not (
                full.startswith(before) and full.startswith(through) and len(before) < len(through)
            ):
                raise TemplateError(
                    "the chat template is not prefix-stable: what it makes of the messages before "
                    f"message {i + 1} (assistant) is not how the whole conversation begins, so the "
                    "assistant's tokens can't be told apart. Mark them in the template with "
                    "{% generation %}, or set data.chat_template to another one"
                )
            cuts.append((len(before), len(through)))
            texts.append(before)
            if through is not full:
                texts.append(through)
        return _Draft(list(messages), texts, cuts)

    def _finish(self, draft: _Draft, pieces: list[list[int]]) -> Encoded:
        answer = draft.messages[-1]["content"]
        if self._marks_itself:
            return self._marked(draft, pieces[-1], answer)
        whole, rest = pieces[0], iter(pieces[1:])
        spans: list[tuple[int, int]] = []
        for number in range(len(draft.cuts)):
            before = next(rest)
            through = whole if number == len(draft.cuts) - 1 else next(rest)
            if whole[: len(before)] != before or whole[: len(through)] != through:
                whole, spans = self._piecewise(draft)
                break
            spans.append((len(before), len(through)))
        targets = np.zeros(len(whole), dtype=np.bool_)
        for begin, end in spans:
            targets[begin : self._turn_end(whole, begin, end)] = True
        return self._encoded(whole, targets, spans[-1][0], answer)

    def _piecewise(self, draft: _Draft) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens that straddle a border are split there: at inference the prompt ends there too."""
        full, texts, at = draft.texts[0], [], 0
        for begin, end in draft.cuts:
            texts += [full[at:begin], full[begin:end]]
            at = end
        whole: list[int] = []
        spans: list[tuple[int, int]] = []
        for number, (text, ids) in enumerate(zip(texts, self._tokenize(texts), strict=True)):
            if self._tokenizer.decode(ids, skip_special_tokens=False) != text:
                raise TemplateError(
                    "the tokenizer merges the prompt's end with the assistant's first characters, "
                    "and splitting there changes the text. Mark the assistant's part in the chat "
                    "template with {% generation %}"
                )
            if number % 2:
                spans.append((len(whole), len(whole) + len(ids)))
            whole += ids
        return whole, spans

    def _turn_end(self, tokens: list[int], begin: int, end: int) -> int:
        """One past the turn's last special token: what the template adds after it is not spoken."""
        for at in range(end - 1, begin - 1, -1):
            if tokens[at] in self._specials:
                return at + 1
        return end

    def _marked(self, draft: _Draft, before: list[int], answer: str) -> Encoded:
        try:
            encoded = self._tokenizer.apply_chat_template(
                draft.messages,
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
        except Exception as error:
            raise TemplateError(f"the chat template refuses this conversation: {error}") from error
        tokens = list(encoded["input_ids"])
        targets = np.array(encoded["assistant_masks"], dtype=np.bool_)
        for at in range(1, len(tokens)):
            ends = targets[at - 1] and tokens[at - 1] not in self._specials
            if ends and tokens[at] in self._specials:
                targets[at] = True
        used = np.flatnonzero(targets)
        if len(used) and tokens[: len(before)] != before:
            raise TemplateError(
                "the chat template's generation prompt is not the beginning of the assistant's "
                "turn; set data.chat_template to one whose add_generation_prompt matches"
            )
        return self._encoded(tokens, targets, len(before), answer)

    def _encoded(
        self, tokens: list[int], targets: npt.NDArray[np.bool_], prompt: int, answer: str
    ) -> Encoded:
        targets[:1] = False  # nothing comes before the first token that could predict it
        if not targets.any():
            raise TemplateError("the chat template makes nothing of the assistant's turns")
        return Encoded(np.array(tokens, dtype=np.int32), targets, prompt, answer)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A rendered conversation: `texts` are the whole and its prefixes, `cuts` each turn's span."""

    messages: list[Message]
    texts: list[str]
    cuts: list[tuple[int, int]]
