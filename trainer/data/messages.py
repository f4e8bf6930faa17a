"""One row of a data set, whatever form it has, as a checked conversation.

A row is a JSON object (or a Parquet row) in one of these forms; the first that is there counts, and
other fields (ids, metadata) are ignored:

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}
    {"prompt": "…" | [messages], "completion": "…" | [messages]}
    {"text": "…"}                                     plain text, without a chat template

Beside messages, `tools` (a list of JSON schemas) and `chat_template_kwargs` (an object) go to the
chat template, and `unmask: true` makes all turns but the system's targets. Lists may also be given
as JSON text, as data sets in Parquet often do. In a message, `train: true|false` overrides which
turns are targets; `tool_calls`, `reasoning_content` and everything else go to the template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

ROLES = ("system", "developer", "user", "assistant", "tool")
FORM = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Fields of a message that hold its reasoning; transformers gives templates each under the others'
names."""

_SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}

Message = dict[str, Any]


class RowError(ValueError):
    """A row can't be used. The message says why and what to do, for a reader who sees the row."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages as the chat template takes them, and what is to be learned from them.

    `train` has an entry a message: True or False where the message says so itself, else None.
    `unmask` is the row's own wish. `text` is plain text instead of messages.
    """

    messages: list[Message] = field(default_factory=list[Message])
    train: list[bool | None] = field(default_factory=list["bool | None"])
    tools: list[dict[str, Any]] | None = None
    template_fields: dict[str, Any] = field(default_factory=dict[str, Any])
    unmask: bool = False
    text: str | None = None


def parse_row(row: object, *, nulls_are_gaps: bool = False) -> Conversation:
    """Check one row and bring it into one form.

    Args:
        row: a JSON value.
        nulls_are_gaps: the row comes from a table, whose structs have all fields of all rows:
            nulls in tools and tool calls mean that nothing was there.

    Raises:
        RowError: says what is wrong with it.
    """
    if not isinstance(row, Mapping):
        raise RowError(f"not a JSON object; write {FORM}")
    values = {str(k): v for k, v in cast(Mapping[Any, Any], row).items() if v is not None}
    if "messages" not in values and "conversations" not in values:
        if "prompt" in values and "completion" in values:
            values["messages"] = _prompt_and_completion(values["prompt"], values["completion"])
        elif "text" in values:
            return _plain_text(values["text"])
        else:
            found = ", ".join(map(repr, list(values)[:8])) or "no fields"
            raise RowError(
                f"has no messages (found {found}); write {FORM}, or conversations, prompt and "
                "completion, or text"
            )
    name = "messages" if "messages" in values else "conversations"
    messages = _decoded(values[name], name)
    if not isinstance(messages, list) or not messages:
        raise RowError(f"has no messages: {name} is {_what(messages)}; write {FORM}")
    parsed: list[Message] = []
    train: list[bool | None] = []
    for position, message in enumerate(cast(list[Any], messages), start=1):
        clean, flag = _message(message, position, nulls_are_gaps)
        parsed.append(clean)
        train.append(flag)
    system = values.get("system")
    if name == "conversations" and isinstance(system, str) and system:
        parsed.insert(0, {"role": "system", "content": system})
        train.insert(0, None)
    return Conversation(
        messages=parsed,
        train=train,
        tools=_tools(values.get("tools"), nulls_are_gaps),
        template_fields=_template_fields(values.get("chat_template_kwargs")),
        unmask=_flag(values.get("unmask", False), "unmask"),
    )


def _plain_text(text: object) -> Conversation:
    if not isinstance(text, str):
        raise RowError(f"text is {_what(text)}, not text")
    if not text.strip():
        raise RowError("text is empty; remove the line")
    return Conversation(text=text)


def _prompt_and_completion(prompt: object, completion: object) -> list[Any]:
    """Only the completion is learned from: its messages are, the prompt's aren't."""
    prompt, completion = _list_in_text(prompt), _list_in_text(completion)
    first = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    last = (
        [{"role": "assistant", "content": completion}]
        if isinstance(completion, str)
        else completion
    )
    for name, part in (("prompt", first), ("completion", last)):
        if not isinstance(part, list) or not part:
            raise RowError(f"{name} is {_what(part)}; write text, or a list of messages")
    silent: list[Any] = [
        {**message, "train": False}
        if isinstance(message, Mapping) and message.get("role") == "assistant"
        else message
        for message in cast(list[Any], first)
    ]
    return [*silent, *cast(list[Any], last)]


def _list_in_text(value: object) -> object:
    """A list of messages that a table holds as JSON; any other text is meant as text."""
    if isinstance(value, str) and value.lstrip().startswith('[{"'):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _message(message: object, position: int, nulls_are_gaps: bool) -> tuple[Message, bool | None]:
    """The message for the template, and what it says itself about being a target."""
    if not isinstance(message, Mapping):
        raise RowError(f"message {position} is {_what(message)}, not a JSON object")
    clean: Message = {
        str(k): v for k, v in cast(Mapping[Any, Any], message).items() if v is not None
    }
    if "role" not in clean and "from" in clean:
        clean = _from_sharegpt(clean, position)
    role = clean.get("role")
    if role not in ROLES:
        raise RowError(f"message {position} has role {role!r}; use one of {', '.join(ROLES)}")
    where = f"message {position} ({role})"
    flag = clean.pop("train", None)
    if flag is not None:
        flag = _flag(flag, f"{where}: train")
    elif role == "assistant" and clean.get("weight") in (0, 1):  # as OpenAI's fine-tuning files
        flag = bool(clean.pop("weight"))
    for name in (name for name in REASONING if name in clean):
        if not isinstance(clean[name], str):
            raise RowError(f"{where}: {name} is {_what(clean[name])}, not text")
    if "tool_calls" in clean:
        calls = _tool_calls(clean.pop("tool_calls"), where, nulls_are_gaps)
        if calls and role != "assistant":
            raise RowError(f"{where}: only the assistant makes tool_calls")
        if calls:
            clean["tool_calls"] = calls
    if "content" in clean:
        clean["content"] = _content(clean["content"], where)
    elif "tool_calls" not in clean:
        raise RowError(f"{where}: has no content, and no tool_calls that could stand for it")
    return clean, flag


def _from_sharegpt(message: Message, position: int) -> Message:
    sender = message.pop("from")
    if sender not in _SHAREGPT:
        raise RowError(
            f"message {position} is from {sender!r}; use one of {', '.join(_SHAREGPT)}, or "
            "messages with role and content"
        )
    value = message.pop("value", None)
    return {**message, "role": _SHAREGPT[sender], "content": value}


def _content(content: object, where: str) -> str:
    """Text; parts of text are joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowError(f"{where}: content is {_what(content)}, not text")
    texts: list[str] = []
    for part in cast(list[Any], content):
        text = part.get("text") if isinstance(part, Mapping) else part
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind != "text" or not isinstance(text, str):
            raise RowError(f"{where}: content has a part that is not text ({kind!r})")
        texts.append(text)
    return "".join(texts)


def _tool_calls(calls: object, where: str, nulls_are_gaps: bool) -> list[Any]:
    """Arguments as an object, which is what templates take; OpenAI writes them as JSON text."""
    calls = _decoded(calls, f"{where}: tool_calls")
    if not isinstance(calls, list):
        raise RowError(f"{where}: tool_calls is {_what(calls)}, not a list")
    result: list[Any] = []
    for call in cast(list[Any], calls):
        if not isinstance(call, Mapping):
            raise RowError(f"{where}: a tool call is {_what(call)}, not a JSON object")
        made = cast(dict[str, Any], _without_nulls(call) if nulls_are_gaps else dict(call))
        function = made.get("function", made)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RowError(
                f"{where}: a tool call has no function name; write "
                '{"type": "function", "function": {"name": "…", "arguments": {…}}}'
            )
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            arguments = _decoded(arguments or "{}", f"{where}: the arguments of a tool call")
        if not isinstance(arguments, Mapping):
            raise RowError(
                f"{where}: the arguments of tool call {function['name']!r} are "
                f"{_what(arguments)}, not a JSON object"
            )
        function = {**function, "arguments": dict(arguments)}
        result.append({**made, "function": function} if "function" in made else function)
    return result


def _tools(tools: object, nulls_are_gaps: bool) -> list[dict[str, Any]] | None:
    if tools is None:
        return None
    tools = _decoded(tools, "tools")
    if not isinstance(tools, list) or not all(isinstance(t, Mapping) for t in tools):
        raise RowError("tools is not a list of JSON schemas, one an object")
    clean = _without_nulls(tools) if nulls_are_gaps else tools
    return cast(list[dict[str, Any]], clean) or None


def _template_fields(fields: object) -> dict[str, Any]:
    fields = _decoded(fields, "chat_template_kwargs") if fields is not None else {}
    if not isinstance(fields, Mapping):
        raise RowError(f"chat_template_kwargs is {_what(fields)}, not a JSON object")
    found = {str(k): v for k, v in cast(Mapping[Any, Any], fields).items() if v is not None}
    taken = found.keys() & {"messages", "tools", "add_generation_prompt", "tokenize"}
    if taken:
        raise RowError(f"chat_template_kwargs can't set {sorted(taken)[0]!r}")
    return found


def _flag(value: object, name: str) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise RowError(f"{name} is {value!r}; write true or false")


def _decoded(value: object, name: str) -> object:
    """Tables often hold lists and objects as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise RowError(f"{name} is text, but not JSON ({error})") from None


def _without_nulls(value: object) -> object:
    if isinstance(value, Mapping):
        items = cast(Mapping[Any, Any], value).items()
        return {str(k): _without_nulls(v) for k, v in items if v is not None}
    if isinstance(value, list):
        return [_without_nulls(v) for v in cast(list[Any], value)]
    return value


def _what(value: object) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | Mapping) and not value:
        return "empty"
    kinds = ((str, "text"), (int | float, "a number"), (list, "a list"), (Mapping, "an object"))
    return next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)
