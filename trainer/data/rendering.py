"""What a chat template makes of a conversation and of its prefixes.

A template that can't show a conversation as it is refuses it, or would drop something of it without
a word; both end in a `TemplateError` that says what to do.
"""

from __future__ import annotations

import json
from typing import Any

from trainer.data.messages import REASONING, Conversation, Message

SENTINEL = "qvNk3x7Wz0"
"""Stands for a message's content to find where the template puts it."""


class TemplateError(ValueError):
    """The chat template or tokenizer can't be used for this conversation."""


class Rendering:
    """The text of a conversation's first `count` messages, and of fewer.

    Args:
        tokenizer: its chat template is used.
        conversation: with its tools and template fields.
        count: messages that count; what follows is as if it weren't there.
        marked: find the template's {% generation %} blocks.

    Attributes:
        full: the text of all of them.
        blocks: where the template's {% generation %} blocks begin and end in it.
    """

    def __init__(
        self, tokenizer: Any, conversation: Conversation, count: int, *, marked: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._fields = conversation.template_fields
        self._tools = conversation.tools
        self.messages = conversation.messages[:count]
        self.blocks: list[tuple[int, int]] = []
        self.full = self._marked() if marked else self._render(self.messages)
        _check_characters(self.full)
        self._check_nothing_is_dropped()
        self._before: dict[int, str] = {}
        self._through: dict[int, str] = {count - 1: self.full}

    def before(self, i: int) -> str:
        """What the model is given before message `i`, which is to be its turn."""
        if i not in self._before:
            self._before[i] = self._render(self.messages[:i], add_generation_prompt=True)
        return self._before[i]

    def through(self, i: int) -> str:
        """The text if message `i` were the last."""
        if i not in self._through:
            self._through[i] = self._render(self.messages[: i + 1])
        return self._through[i]

    def with_sentinel(self, i: int) -> str:
        """`through(i)` with the sentinel in the place of that message's content."""
        return self._render([*self.messages[:i], {**self.messages[i], "content": SENTINEL}])

    def _marked(self) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        tools: Any = self._tools
        try:
            found: Any = render_jinja_template(
                conversations=[self.messages],
                tools=tools,
                chat_template=self._tokenizer.get_chat_template(None, tools),
                return_assistant_tokens_mask=True,
                **{**self._tokenizer.special_tokens_map, **self._fields},
            )
        except Exception as error:
            raise self._refused(error) from error
        (text,), (blocks,) = found
        self.blocks = [(int(begin), int(end)) for begin, end in blocks]
        return text

    def _render(self, messages: list[Message], **fields: Any) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                messages, tools=self._tools, tokenize=False, **fields, **self._fields
            )
        except Exception as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> TemplateError:
        text = str(error).rstrip(".") or type(error).__name__
        roles = {message["role"] for message in self.messages} - {"user", "assistant"}
        way = "change the conversation"
        if roles:
            way = f"leave out its {' and '.join(sorted(roles))} turns if the template has none"
        return TemplateError(
            f"the chat template refuses this conversation: {text}; {way}, or set "
            "data.chat_template to another template"
        )

    def _check_nothing_is_dropped(self) -> None:
        for i, message in enumerate(self.messages):
            text = "" if message["role"] == "assistant" else message.get("content", "").strip()
            if text and text not in self.full and not _escaped_in(text, self.full):
                raise TemplateError(
                    f"the chat template doesn't show message {i + 1} ({message['role']}) as it is; "
                    "write it into a user turn, or set data.chat_template to one that shows it"
                )


def check_fields(conversation: Conversation, template: str) -> None:
    """A template that knows nothing of a field would drop it without a word.

    Raises:
        TemplateError: it would.
    """
    for i, message in enumerate(conversation.messages):
        given = next((name for name in REASONING if message.get(name)), None)
        if given and not any(name in template for name in REASONING):
            raise TemplateError(
                f"message {i + 1} has {given}, which the chat template doesn't show; write the "
                "reasoning into the content, or set data.chat_template to one that shows it"
            )
        if message.get("tool_calls") and "tool_call" not in template:
            raise TemplateError(
                f"message {i + 1} has tool_calls, which the chat template doesn't show; write the "
                "calls into the content, or set data.chat_template to one that shows them"
            )
    if conversation.tools and "tools" not in template:
        raise TemplateError(
            "has tools, which the chat template doesn't show; write them into a system turn, or "
            "set data.chat_template to one that shows them"
        )


def _check_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.start + 1].encode("unicode_escape").decode()
        raise TemplateError(
            f"holds half a character ({half}, a surrogate without its pair), which is not text; "
            "write the whole character, or remove it"
        ) from None


def _escaped_in(text: str, whole: str) -> bool:
    """Some templates write a tool's answer as JSON text."""
    return any(json.dumps(text, ensure_ascii=a)[1:-1] in whole for a in (False, True))
