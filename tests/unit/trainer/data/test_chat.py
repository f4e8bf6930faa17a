"""The assistant-only mask, on templates of every kind."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures.tiny_model import CHAT_TEMPLATE, make_tokenizer
from trainer.config import Unmask
from trainer.data.chat import ChatEncoder, Encoded
from trainer.data.messages import parse_row
from trainer.data.rendering import TemplateError

TURNS = [
    {"role": "system", "content": "Add."},
    {"role": "user", "content": "What is 1 + 2?"},
    {"role": "assistant", "content": "3"},
    {"role": "user", "content": "And 4 + 4?"},
    {"role": "assistant", "content": "It is 8."},
]

MARKED = (
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}"
    "{% endgeneration %}<|end|>{% else %}{{ message['content'] }}{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

PLAIN_WORDS = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}Answer:{{ message['content'] }}<|end|>"
    "{% else %}Question: {{ message['content'] }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"
)

FORGETFUL = (
    "{% for message in messages %}"
    "{% if message['role'] != 'assistant' or loop.last %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer(320, CHAT_TEMPLATE)


def encode_all(
    tokenizer: Any,
    template: str,
    messages: list[dict[str, Any]],
    *,
    unmask: Unmask = "assistant",
    **fields: Any,
) -> list[Encoded]:
    tokenizer.chat_template = template
    row = parse_row({"messages": messages, **fields})
    (result,) = ChatEncoder(tokenizer, unmask).encode([row])
    if isinstance(result, TemplateError):
        raise result
    return result


def encode(tokenizer: Any, template: str, messages: list[dict[str, Any]], **fields: Any) -> Encoded:
    (one,) = encode_all(tokenizer, template, messages, **fields)
    return one


def spoken(tokenizer: Any, encoded: Encoded) -> list[str]:
    """The text of each run of target tokens."""
    runs: list[list[int]] = []
    before = False
    for token, target in zip(encoded.tokens.tolist(), encoded.targets.tolist(), strict=True):
        if target and not before:
            runs.append([])
        if target:
            runs[-1].append(token)
        before = target
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, MARKED, PLAIN_WORDS])
def test_every_assistant_turn_and_its_end_are_targets_and_nothing_else(
    tokenizer: Any, template: str
) -> None:
    found = encode(tokenizer, template, TURNS)
    assert spoken(tokenizer, found) == ["3<|end|>", "It is 8.<|end|>"]


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, MARKED, PLAIN_WORDS])
def test_the_prompt_is_what_the_model_is_given_at_inference(tokenizer: Any, template: str) -> None:
    found = encode(tokenizer, template, TURNS)
    rendered = tokenizer.apply_chat_template(TURNS[:-1], tokenize=False, add_generation_prompt=True)
    given = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert found.tokens[: found.prompt].tolist() == given
    assert found.answer == "It is 8."


def test_the_tokens_are_those_of_the_whole_rendering(tokenizer: Any) -> None:
    found = encode(tokenizer, CHAT_TEMPLATE, TURNS)
    rendered = tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert found.tokens.tolist() == tokenizer(rendered, add_special_tokens=False)["input_ids"]


def test_what_follows_the_last_answer_is_cut_off(tokenizer: Any) -> None:
    more = [*TURNS, {"role": "user", "content": "Thanks!"}]
    one, other = encode(tokenizer, CHAT_TEMPLATE, more), encode(tokenizer, CHAT_TEMPLATE, TURNS)
    assert one.tokens.tolist() == other.tokens.tolist()


def test_an_empty_answer_still_ends_its_turn(tokenizer: Any) -> None:
    empty = [TURNS[1], {"role": "assistant", "content": ""}]
    assert spoken(tokenizer, encode(tokenizer, CHAT_TEMPLATE, empty)) == ["<|end|>"]


def test_a_token_across_the_border_is_split_there(tokenizer: Any) -> None:
    """'Answer: ' ends in a space that byte-level tokenizers would join to the next word."""
    template = PLAIN_WORDS.replace("Answer:", "What is")
    template = template.replace("What is{{", "What is {{").replace("%}What is{%", "%}What is {%")
    found = encode(tokenizer, template, [TURNS[1], {"role": "assistant", "content": "What is"}])
    assert spoken(tokenizer, found) == ["What is<|end|>"]


def test_a_template_that_forgets_earlier_turns_gives_each_turn_as_it_is_when_it_is_the_last(
    tokenizer: Any,
) -> None:
    first, second = encode_all(tokenizer, FORGETFUL, TURNS)
    assert (first.answer, second.answer) == ("3", "It is 8.")
    for i, one in ((2, first), (4, second)):
        assert tokenizer.decode(one.tokens) == tokenizer.apply_chat_template(
            TURNS[: i + 1], tokenize=False
        )
        assert tokenizer.decode(one.tokens[: one.prompt]) == tokenizer.apply_chat_template(
            TURNS[:i], tokenize=False, add_generation_prompt=True
        )
        assert spoken(tokenizer, one) == [one.answer]


def test_a_prompt_that_is_not_how_the_turn_begins_is_refused(tokenizer: Any) -> None:
    template = CHAT_TEMPLATE.replace("%}<|assistant|>{%", "%}<|assistant|><think>{%")
    with pytest.raises(TemplateError, match=r"not prefix-stable.*\{% generation %\}"):
        encode(tokenizer, template, TURNS)


def test_a_template_that_refuses_a_conversation_is_quoted(tokenizer: Any) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(TemplateError, match="roles must alternate"):
        encode(tokenizer, template, TURNS)


def test_one_bad_conversation_does_not_hide_the_others(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE
    rows = [parse_row({"messages": turns}) for turns in (TURNS[1:3], TURNS[2:3])]
    good, bad = ChatEncoder(tokenizer).encode(rows)
    assert isinstance(good, list)
    assert isinstance(bad, TemplateError)
