"""From conversations to tokens and the mask of targets, exactly, for any chat template.

Which tokens the assistant must write itself is found by rendering prefixes: what the template makes
of the messages before an assistant turn (with the generation prompt) is what the model will be
given; everything from there to the end of the turn is its own, its end-of-turn token included. A
template that marks its own {% generation %} blocks is taken at its word. Where a template gives
the last turn no end, the end-of-sequence token ends it, or the model would never learn to stop.

A template may render earlier turns otherwise than it did when they were the last (Qwen3 drops their
reasoning). Then each assistant turn becomes a sample of its own, given what the model will be given
before it.

The text is tokenised once, as a whole. Where a prompt ends, its tokens must be those that the
prompt alone has; if they aren't, the text is tokenised in pieces that are cut there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trainer.config import Unmask
from trainer.data.messages import Conversation, Message
from trainer.data.pieces import Borders, Pieces
from trainer.data.rendering import SENTINEL, Rendering, TemplateError, check_fields
from trainer.errors import ModelError

_GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sample: a conversation up to its last target.

    `tokens` and `targets` (a mask: the model learns to write this token) are (tokens,). The first
    `prompt` tokens are what the model is given before its last turn, and `answer` is that turn's
    text; 0 and empty where no assistant turn is a target.
    """

    tokens: npt.NDArray[np.int32]
    targets: npt.NDArray[np.bool_]
    prompt: int
    answer: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Characters `begin` to `end` of a text, targets or not.

    `turn`: an assistant turn from its prompt on; `block`: what the template marked; `content`: what
    somebody else says.
    """

    begin: int
    end: int
    kind: Literal["turn", "block", "content"]
    target: bool = True


@dataclass(frozen=True, slots=True)
class Draft:
    """A rendered sample. What no mark covers is a target if `everything` is.

    `prompt` is the character at which the last turn begins, `answer` its text (None: it has none of
    its own, only tool calls). `plain` text has no template.
    """

    text: str
    marks: Sequence[Mark] = ()
    prompt: int | None = None
    answer: str | None = ""
    everything: bool = False
    plain: bool = False


class ChatEncoder:
    """Encodes conversations with one tokenizer and its chat template.

    Args:
        tokenizer: a fast tokenizer of transformers.
        unmask: which tokens are targets where a conversation doesn't say so itself.
        max_length: tokens at which plain text is cut. Conversations are never cut.

    Raises:
        ModelError: the tokenizer is not a fast one.
    """

    def __init__(
        self, tokenizer: Any, unmask: Unmask = "assistant", *, max_length: int = 2**31
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                "the model's tokenizer has no fast version, which is needed to tell exactly which "
                "token belongs to which turn; convert it (AutoTokenizer.from_pretrained, then "
                "save_pretrained writes tokenizer.json)"
            )
        self._tokenizer = tokenizer
        self._backend = _without_postprocessing(tokenizer.backend_tokenizer)
        self._unmask: Unmask = unmask
        self._max_length = max_length
        self._template = json.dumps(tokenizer.chat_template)
        self._marks_itself = bool(_GENERATION_BLOCK.search(self._template))
        added = tokenizer.added_tokens_decoder
        special = {token for token, entry in added.items() if entry.special}
        self._specials = frozenset(tokenizer.all_special_ids) | special
        self._borders = Borders(self._ids, frozenset(added))

    def encode(self, conversations: Sequence[Conversation]) -> list[list[Encoded] | TemplateError]:
        """The samples that each conversation makes, or why it can't be used."""
        drafts = self.draft(conversations)
        return self.finish(drafts, self.tokenize(drafts))

    # Three steps, so that a caller can render texts while the tokenizer's threads work on others.

    def draft(self, conversations: Sequence[Conversation]) -> list[list[Draft] | TemplateError]:
        """Render conversations and find the turns in their texts."""
        found: list[list[Draft] | TemplateError] = []
        for conversation in conversations:
            try:
                found.append(self._drafts(conversation))
            except TemplateError as error:
                found.append(error)
        return found

    def tokenize(self, drafts: Sequence[list[Draft] | TemplateError]) -> list[Any]:
        """The encoding of each text, made by the tokenizer's own threads."""
        flat = [d for found in drafts if not isinstance(found, TemplateError) for d in found]
        return self._backend.encode_batch([d.text for d in flat], add_special_tokens=False)

    def finish(
        self, drafts: Sequence[list[Draft] | TemplateError], encodings: Sequence[Any]
    ) -> list[list[Encoded] | TemplateError]:
        """Samples from drafts and the encodings of their texts."""
        results: list[list[Encoded] | TemplateError] = []
        rest = iter(encodings)
        for found in drafts:
            if isinstance(found, TemplateError):
                results.append(found)
                continue
            pairs = [(draft, next(rest)) for draft in found]
            try:
                results.append([e for draft, one in pairs for e in self._samples(draft, one)])
            except TemplateError as error:
                results.append(error)
        return results

    # --- turns in the text --------------------------------------------------------------------

    def _drafts(self, conversation: Conversation) -> list[Draft]:
        if conversation.text is not None:
            return [Draft(conversation.text, plain=True)]
        check_fields(conversation, self._template)
        unmask = self._unmask
        if conversation.unmask and unmask == "assistant":
            unmask = "conversation"
        wanted = [
            _is_target(message["role"], unmask) if flag is None else flag
            for message, flag in zip(conversation.messages, conversation.train, strict=True)
        ]
        if not any(wanted):
            spoken = any(message["role"] == "assistant" for message in conversation.messages)
            raise TemplateError(
                "has no target tokens: every turn that could be learned says train: false; remove "
                "that from one, or remove the line"
                if spoken
                else "has no assistant turn, so nothing can be learned from it; add one or remove "
                "the line"
            )
        wanted = wanted[: max(i for i, target in enumerate(wanted) if target) + 1]
        marked = self._marks_itself and unmask != "all"
        rendering = Rendering(self._tokenizer, conversation, len(wanted), marked=marked)
        if unmask == "all":
            return [self._everything(rendering, wanted)]
        if marked:
            return [self._by_blocks(rendering, wanted)]
        return self._by_prefixes(rendering, wanted)

    def _everything(self, rendering: Rendering, wanted: list[bool]) -> Draft:
        """All of the text but the turns that say train: false."""
        marks = [
            Mark(*_turn(rendering, i), "turn", target=False)
            if rendering.messages[i]["role"] == "assistant"
            else _content(rendering, i, target=False)
            for i, target in enumerate(wanted)
            if not target
        ]
        last = _last_spoken(rendering, wanted)
        if last > 0 and rendering.full.startswith(rendering.before(last)):
            prompt = len(rendering.before(last))
            answer = rendering.messages[last].get("content")
            return Draft(rendering.full, marks, prompt, answer, everything=True)
        return Draft(rendering.full, marks, everything=True)

    def _by_blocks(self, rendering: Rendering, wanted: list[bool]) -> Draft:
        """The template's own {% generation %} blocks, and what else is to be learned."""
        full, blocks = rendering.full, rendering.blocks
        turns = [i for i, m in enumerate(rendering.messages) if m["role"] == "assistant"]
        one_each = len(blocks) == len(turns)
        if not all(wanted[i] for i in turns):
            if not one_each:
                raise TemplateError(
                    "train: false on an assistant turn needs a chat template with one "
                    "{% generation %} block a turn, or with none at all"
                )
            blocks = [block for i, block in zip(turns, blocks, strict=True) if wanted[i]]
        marks = [
            _content(rendering, i) for i, target in enumerate(wanted) if target and i not in turns
        ]
        # An empty answer is a turn too: what ends it is to be learned.
        marks += [Mark(begin, end, "block") for begin, end in blocks if end > begin or one_each]
        last = _last_spoken(rendering, wanted)
        if last <= 0 or not blocks:
            return Draft(full, marks)
        before = rendering.before(last)
        prompt = len(before) if full.startswith(before) else blocks[-1][0]
        return Draft(full, marks, prompt, rendering.messages[last].get("content"))

    def _by_prefixes(self, rendering: Rendering, wanted: list[bool]) -> list[Draft]:
        marks: list[Mark] = []
        for i, target in enumerate(wanted):
            if not target:
                continue
            if rendering.messages[i]["role"] != "assistant":
                marks.append(_content(rendering, i))
                continue
            marks.append(Mark(*_turn(rendering, i), "turn"))
            if not rendering.full.startswith(rendering.through(i)):
                return _turn_by_turn(rendering, wanted, i)
        last = _last_spoken(rendering, wanted)
        if last < 0:
            return [Draft(rendering.full, marks)]
        prompt = len(rendering.before(last))
        return [Draft(rendering.full, marks, prompt, rendering.messages[last].get("content"))]

    # --- tokens -------------------------------------------------------------------------------

    def _samples(self, draft: Draft, encoding: Any) -> list[Encoded]:
        if draft.plain:
            return self._plain(encoding.ids)
        pieces = Pieces([(0, encoding)])
        cuts = self._cuts(draft, pieces)
        if cuts:
            pieces = self._piecewise(draft.text, cuts)
        ids = pieces.ids
        if self._never_ends(draft, pieces):
            ids = [*ids, self._tokenizer.eos_token_id]
        targets = np.full(len(ids), draft.everything, dtype=np.bool_)
        for mark in draft.marks:
            begin, end = pieces.span(mark.begin, mark.end)
            if mark.target and mark.kind != "content":
                ended = self._turn_end(draft.text, mark, pieces)
                if ended and mark.kind == "turn":
                    end = ended
                elif not ended and ids[end : end + 1] and ids[end] in self._specials:
                    end += 1  # what ends the turn may stand after it, as the next one's beginning
            targets[begin:end] = mark.target
        targets[:1] = False  # nothing comes before the first token that could predict it
        if not targets.any():
            raise TemplateError("the chat template makes nothing of the turns to be learned")
        prompt = 0 if draft.prompt is None else pieces.at(draft.prompt)
        answer = draft.answer
        if answer is None:
            answer = self._tokenizer.decode(ids[prompt:], skip_special_tokens=True).strip()
        return [Encoded(np.array(ids, dtype=np.int32), targets, prompt, answer)]

    def _cuts(self, draft: Draft, pieces: Pieces) -> list[int]:
        """Where the text must be cut; nowhere if its tokens already end at all borders."""
        turns = [mark for mark in draft.marks if mark.kind == "turn" and mark.target]
        begins = {mark.begin for mark in turns}
        if draft.prompt is not None:
            begins.add(draft.prompt)
        sound = all(self._borders.holds(draft.text, pieces, begin) for begin in begins)
        for mark in turns if sound else ():
            ended = self._turn_end(draft.text, mark, pieces)
            sound = sound and (bool(ended) or not pieces.splits(mark.end))
        return [] if sound else sorted(begins | {mark.end for mark in turns})

    def _piecewise(self, text: str, cuts: list[int]) -> Pieces:
        """Tokens that straddle a border are split there: at inference the prompt ends there too."""
        parts: list[tuple[int, Any]] = []
        for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            encoding = self._backend.encode(text[begin:end], add_special_tokens=False)
            shown = self._tokenizer.decode(
                encoding.ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            if shown != text[begin:end]:
                raise TemplateError(
                    "the tokenizer merges the prompt's end with the assistant's first characters, "
                    "and splitting there changes the text. Mark the assistant's part in the chat "
                    "template with {% generation %}"
                )
            parts.append((begin, encoding))
        return Pieces(parts)

    def _turn_end(self, text: str, mark: Mark, pieces: Pieces) -> int:
        """One past the special token that ends the turn; 0 if none does.

        White space that the template adds after it is not spoken.
        """
        begin, end = pieces.at(mark.begin), pieces.at(mark.end)
        for token in range(end - 1, begin - 1, -1):
            if pieces.ids[token] in self._specials:
                return token + 1
            if text[pieces.begins(token) : mark.end].strip():
                break
        return 0

    def _never_ends(self, draft: Draft, pieces: Pieces) -> bool:
        """Whether the text ends with a turn that no token ends: nothing would teach it to stop."""
        last = draft.marks[-1] if draft.marks else None
        return (
            last is not None
            and last.target
            and last.kind != "content"
            and last.end == len(draft.text)
            and not self._turn_end(draft.text, last, pieces)
        )

    def _plain(self, ids: list[int]) -> list[Encoded]:
        """Plain text between the tokens that begin and end one, cut where it exceeds max_length."""
        before, after = self._around
        if after[-1:] != [self._tokenizer.eos_token_id]:
            after = [*after, self._tokenizer.eos_token_id]
        ids = [*before, *ids, *after]
        samples: list[Encoded] = []
        for at in range(0, len(ids), self._max_length):
            tokens = np.array(ids[at : at + self._max_length], dtype=np.int32)
            if len(tokens) > 1:  # nothing could predict a token that stands alone
                targets = np.ones(len(tokens), dtype=np.bool_)
                targets[0] = False
                samples.append(Encoded(tokens, targets, 0, ""))
        return samples

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """Tokens that the tokenizer puts before and after a text, as it did in pretraining."""
        bare = self._ids("a")
        whole: list[int] = self._tokenizer("a")["input_ids"]
        at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), None)
        return ([], []) if at is None else (whole[:at], whole[at + len(bare) :])

    def _ids(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids


def _without_postprocessing(backend: Any) -> Any:
    """A copy that adds nothing to a text, and whose tokens say truly where they stand in it.

    Byte-level tokenizers often have a postprocessor that leaves the space before a word out.
    """
    copy = backend.from_str(backend.to_str())
    copy.post_processor = None
    copy.no_truncation()
    copy.no_padding()
    return copy


def _is_target(role: str, unmask: Unmask) -> bool:
    if unmask == "assistant":
        return role == "assistant"
    return unmask == "all" or role not in ("system", "developer")


def _last_spoken(rendering: Rendering, wanted: list[bool]) -> int:
    """The last assistant turn that is to be learned; -1 if there is none."""
    roles = [message["role"] for message in rendering.messages]
    spoken = (i for i, target in enumerate(wanted) if target and roles[i] == "assistant")
    return max(spoken, default=-1)


def _turn(rendering: Rendering, i: int) -> tuple[int, int]:
    """Where assistant turn `i` begins and ends if it is the last."""
    if i == 0:
        raise TemplateError(
            "begins with an assistant turn, before which the model would be given nothing; put a "
            "user or system turn before it, or set train: false on it"
        )
    before, through = rendering.before(i), rendering.through(i)
    if not through.startswith(before) or len(before) >= len(through):
        raise TemplateError(
            "the chat template is not prefix-stable: what it makes of the messages before "
            f"message {i + 1} (assistant), with its generation prompt, is not how that turn "
            "begins, so the assistant's tokens can't be told apart. Mark them in the template with "
            "{% generation %}, set data.chat_template to another one, or, if only the prompt opens "
            'a thought, give the row "chat_template_kwargs": {"enable_thinking": false}'
        )
    return len(before), len(through)


def _content(rendering: Rendering, i: int, target: bool = True) -> Mark:
    """Where the content of a message stands that isn't the assistant's."""
    marked, shown = rendering.with_sentinel(i), rendering.through(i)
    begin = marked.find(SENTINEL)
    end = len(shown) - (len(marked) - begin - len(SENTINEL))
    if begin < 0 or end < begin or marked[:begin] != shown[:begin]:
        role = rendering.messages[i]["role"]
        raise TemplateError(
            f"the chat template doesn't show where the content of message {i + 1} ({role}) stands, "
            "so it can't be told apart; take back its train field, or use unmask: assistant"
        )
    if not rendering.full.startswith(shown[:end]):
        raise TemplateError(_unstable(i))
    return Mark(begin, end, "content", target)


def _turn_by_turn(rendering: Rendering, wanted: list[bool], rewritten: int) -> list[Draft]:
    """Each assistant turn as a sample of its own, for a template that rewrites an earlier one."""
    drafts: list[Draft] = []
    for i in (i for i, target in enumerate(wanted) if target):
        message: Message = rendering.messages[i]
        if message["role"] != "assistant":
            raise TemplateError(_unstable(rewritten))
        begin, end = _turn(rendering, i)
        mark = Mark(begin, end, "turn")
        drafts.append(Draft(rendering.through(i), [mark], begin, message.get("content")))
    return drafts


def _unstable(i: int) -> str:
    return (
        f"the chat template is not prefix-stable: it shows message {i + 1} otherwise once others "
        "follow, so only assistant turns can be targets; use unmask: assistant, or set "
        "data.chat_template to another one"
    )
