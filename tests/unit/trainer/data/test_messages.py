"""Rows of every form, and what is said about those that can't be used."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trainer.data.messages import RowError, parse_row

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": None}}}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ANSWER], "id": 7, "prompt": "not looked at"},
        {"messages": json.dumps([USER, ANSWER])},
        {"messages": None, "conversations": [USER, ANSWER]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"prompt": "Hi", "completion": "Hello", "text": None},
        {"prompt": [USER], "completion": [ANSWER]},
        {"prompt": json.dumps([USER]), "completion": json.dumps([ANSWER])},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "H"}, {"text": "i"}]},
                {"role": "assistant", "content": "Hello", "tool_calls": None, "name": None},
            ]
        },
    ],
)
def test_every_form_becomes_the_same_messages(row: dict[str, Any]) -> None:
    found = parse_row(row)
    assert found.messages == [USER, ANSWER]
    assert found.train == [None, None]
    assert (found.tools, found.text, found.unmask) == (None, None, False)


def test_sharegpt_keeps_its_system_prompt() -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    found = parse_row({"conversations": turns, "system": "Be kind."})
    assert [m["role"] for m in found.messages] == ["system", "user", "assistant"]
    assert found.messages[0]["content"] == "Be kind."


def test_only_the_completion_is_learned() -> None:
    prompt = [USER, ANSWER, USER]
    found = parse_row({"prompt": prompt, "completion": [ANSWER]})
    assert found.messages == [USER, ANSWER, USER, ANSWER]
    assert found.train == [None, False, None, None]


def test_plain_text_is_a_form_of_its_own() -> None:
    assert parse_row({"text": "Once upon a time."}).text == "Once upon a time."


def test_a_message_says_whether_it_is_learned() -> None:
    messages = [
        {**USER, "train": True},
        {**ANSWER, "train": False},
        {**ANSWER, "weight": 0},
        {**ANSWER, "weight": 1},
    ]
    found = parse_row({"messages": messages})
    assert found.train == [True, False, False, True]
    assert found.messages == [USER, ANSWER, ANSWER, ANSWER]


def test_tools_and_calls_go_to_the_template_as_it_takes_them() -> None:
    text = {"function": {"name": "add", "arguments": '{"a": 1, "b": null}'}, "id": "x"}
    row = {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [text], "thinking": "Hm."},
            {"role": "tool", "content": "3", "tool_call_id": "x"},
            ANSWER,
        ],
        "tools": json.dumps([{"type": "function", "function": {"name": "add"}}]),
        "chat_template_kwargs": {"enable_thinking": False},
        "unmask": True,
    }
    found = parse_row(row)
    call = found.messages[1]
    assert call["tool_calls"][0]["function"]["arguments"] == {"a": 1, "b": None}
    assert call["thinking"] == "Hm."
    assert "content" not in call
    assert found.messages[2]["tool_call_id"] == "x"
    assert found.tools == [{"type": "function", "function": {"name": "add"}}]
    assert found.template_fields == {"enable_thinking": False}
    assert found.unmask


def test_a_tables_nulls_are_gaps_and_a_files_nulls_are_nulls() -> None:
    row = {"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}]}
    kept = parse_row(row).messages[1]["tool_calls"][0]["function"]["arguments"]
    gone = parse_row(row, nulls_are_gaps=True).messages[1]["tool_calls"][0]["function"]["arguments"]
    assert kept == {"a": 1, "b": None}
    assert gone == {"a": 1}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ([1], "not a JSON object"),
        ({}, "found no fields"),
        ({"question": "x", "answer": "y"}, "has no messages (found 'question', 'answer')"),
        ({"messages": []}, "has no messages: messages is empty"),
        ({"messages": {"role": "user"}}, "has no messages: messages is an object"),
        ({"messages": "hello"}, "messages is text, but not JSON"),
        ({"messages": [3]}, "message 1 is a number, not a JSON object"),
        ({"messages": [{"content": "x"}]}, "message 1 has role None; use one of system"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "role 'bot'; use one of system"),
        ({"messages": [{"role": "user"}]}, "message 1 (user): has no content"),
        ({"messages": [{"role": "user", "content": 3}]}, "content is a number, not text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]},
            "content has a part that is not text ('image')",
        ),
        ({"messages": [{**USER, "train": "no"}]}, "train is 'no'; write true or false"),
        ({"messages": [USER, ANSWER], "unmask": 1}, "unmask is 1; write true or false"),
        ({"messages": [{**ANSWER, "thinking": 1}]}, "thinking is a number, not text"),
        ({"messages": [{**USER, "tool_calls": [CALL]}]}, "only the assistant makes tool_calls"),
        ({"messages": [{**ANSWER, "tool_calls": {}}]}, "tool_calls is empty, not a list"),
        ({"messages": [{**ANSWER, "tool_calls": [{}]}]}, "a tool call has no function name"),
        (
            {"messages": [{**ANSWER, "tool_calls": [{"name": "f", "arguments": "{"}]}]},
            "the arguments of a tool call is text, but not JSON",
        ),
        (
            {"messages": [{**ANSWER, "tool_calls": [{"name": "f", "arguments": [1]}]}]},
            "the arguments of tool call 'f' are a list, not a JSON object",
        ),
        ({"messages": [USER], "tools": ["f"]}, "tools is not a list of JSON schemas"),
        ({"messages": [USER], "chat_template_kwargs": [1]}, "chat_template_kwargs is a list"),
        ({"messages": [USER], "chat_template_kwargs": {"tools": 1}}, "can't set 'tools'"),
        ({"conversations": [{"from": "alien", "value": "x"}]}, "message 1 is from 'alien'"),
        ({"prompt": "x", "completion": 3}, "completion is a number; write text"),
        ({"prompt": "x"}, "has no messages (found 'prompt')"),
        ({"text": 3}, "text is a number, not text"),
        ({"text": " \n"}, "text is empty"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(row: Any, complaint: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_row(row)
    assert complaint in str(caught.value)
