"""The assistant-only mask, on templates of every kind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from tests.fixtures.tiny_model import CHAT_TEMPLATE, SPECIAL, make_tokenizer
from trainer.config import Unmask
from trainer.data.chat import ChatEncoder, Encoded
from trainer.data.messages import parse_row
from trainer.data.rendering import TemplateError

SYSTEM = SPECIAL.index("<|system|>")

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

SPACED_WORDS = PLAIN_WORDS.replace("Answer:", "Answer: ")

FORGETFUL = (
    "{% for message in messages %}"
    "{% if message['role'] != 'assistant' or loop.last %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

REWRITING = (
    "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}"
    "{% for m in messages %}<|{{ m.role if m.role != 'tool' else 'user' }}|>"
    "{% if m.role == 'assistant' and loop.index0 > ns.last"
    " and (loop.last or m.reasoning_content) %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}{% for call in m.tool_calls %}<tool_call>{{ call.function | tojson }}"
    "</tool_call>{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is false %}<think></think>"
    "{% endif %}{% endif %}"
)
"""In the manner of Qwen3: only what follows the last question keeps its reasoning."""


@pytest.fixture(scope="module", params=["plain", "trimming"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """One that says where its tokens stand, and one that leaves out the space before a word."""
    made = make_tokenizer(320, CHAT_TEMPLATE)
    if request.param == "trimming":
        made.backend_tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=True),
                processors.TemplateProcessing(
                    single="<|system|> $A", special_tokens=[("<|system|>", SYSTEM)]
                ),
            ]
        )
    return made


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
    """The prompt ends in a space, which the tokenizer would join to the answer's first word."""
    turns = [TURNS[1], {"role": "assistant", "content": "is 8"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, chat_template=SPACED_WORDS)
    assert " is" in [tokenizer.decode([token]) for token in tokenizer.encode(rendered)]
    found = encode(tokenizer, SPACED_WORDS, turns)
    assert spoken(tokenizer, found) == ["is 8<|end|>"]
    assert tokenizer.decode(found.tokens[: found.prompt]).endswith("Answer: ")
    assert tokenizer.decode(found.tokens) == rendered


def test_a_template_that_forgets_earlier_turns_gives_each_turn_as_it_is_when_it_is_the_last(
    tokenizer: Any,
) -> None:
    first, second = encode_all(tokenizer, FORGETFUL, TURNS)
    assert (first.answer, second.answer) == ("3", "It is 8.")
    for i, one in ((2, first), (4, second)):
        assert tokenizer.decode(one.tokens) == (
            tokenizer.apply_chat_template(TURNS[: i + 1], tokenize=False) + "<|end|>"
        )
        assert tokenizer.decode(one.tokens[: one.prompt]) == tokenizer.apply_chat_template(
            TURNS[:i], tokenize=False, add_generation_prompt=True
        )
        assert spoken(tokenizer, one) == [one.answer + "<|end|>"]


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


# --- which turns are targets ------------------------------------------------------------------


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, MARKED, PLAIN_WORDS])
def test_conversation_unmasks_what_all_but_the_system_say(tokenizer: Any, template: str) -> None:
    turns = TURNS[1:] if template is PLAIN_WORDS else TURNS
    more = [*turns, {"role": "user", "content": "Thanks!"}]
    found = encode(tokenizer, template, more, unmask="conversation")
    said = ["What is 1 + 2?", "3<|end|>", "And 4 + 4?", "It is 8.<|end|>", "Thanks!"]
    assert [run.strip() for run in spoken(tokenizer, found)] == said
    assert found.answer == "It is 8."
    by_row = encode(tokenizer, template, more, unmask="assistant")
    assert [run.strip() for run in spoken(tokenizer, by_row)] == [said[1], said[3]]


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, MARKED])
def test_a_row_may_ask_for_all_turns(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    rows = [parse_row({"messages": TURNS, "unmask": wish}) for wish in (True, False)]
    asked, plain = ChatEncoder(tokenizer).encode(rows)
    assert isinstance(asked, list)
    assert isinstance(plain, list)
    assert spoken(tokenizer, asked[0])[0] == "What is 1 + 2?"
    assert spoken(tokenizer, plain[0])[0] == "3<|end|>"


def test_all_unmasks_everything_but_the_first_token(tokenizer: Any) -> None:
    found = encode(tokenizer, CHAT_TEMPLATE, TURNS, unmask="all")
    assert found.targets.tolist() == [False] + [True] * (len(found.tokens) - 1)
    assert found.answer == "It is 8."
    assert tokenizer.decode(found.tokens[found.prompt :]) == "It is 8.<|end|>\n"


def test_all_learns_from_a_conversation_without_an_assistant(tokenizer: Any) -> None:
    found = encode(tokenizer, CHAT_TEMPLATE, TURNS[:2], unmask="all")
    assert (found.prompt, found.answer) == (0, "")
    assert found.targets[1:].all()


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, MARKED])
def test_a_message_overrides_whether_it_is_learned(tokenizer: Any, template: str) -> None:
    turns: list[dict[str, Any]] = [dict(turn) for turn in TURNS]
    turns[1]["train"], turns[2]["train"] = True, False
    found = encode(tokenizer, template, turns)
    assert spoken(tokenizer, found) == ["What is 1 + 2?", "It is 8.<|end|>"]
    turns = [{**turn} for turn in TURNS]
    turns[4]["train"] = False
    found = encode(tokenizer, template, turns)
    assert spoken(tokenizer, found) == ["3<|end|>"]
    assert found.answer == "3"
    everything = encode(
        tokenizer, template, [{**TURNS[1], "train": False}, *TURNS[2:]], unmask="all"
    )
    assert "What is" not in "".join(spoken(tokenizer, everything))
    assert "And 4 + 4?" in "".join(spoken(tokenizer, everything))


def test_what_is_learned_is_found_where_the_template_repeats_it(tokenizer: Any) -> None:
    """The words 'user' and 'end' also stand in the template's own text."""
    template = "{% for m in messages %}[{{ m.role }}: {{ m.content }} user end]{% endfor %}"
    found = encode(
        tokenizer, template, [{"role": "user", "content": "user"}], unmask="conversation"
    )
    assert tokenizer.decode(found.tokens) == "[user: user user end]"
    at = found.targets.nonzero()[0]
    assert tokenizer.decode(found.tokens[: at[-1] + 1]).strip() == "[user: user"


def test_the_space_around_what_is_said_belongs_to_it(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "  8  "}, {"role": "assistant", "content": "  4"}]
    found = encode(tokenizer, CHAT_TEMPLATE, turns, unmask="conversation")
    assert spoken(tokenizer, found) == ["  8  ", "  4<|end|>"]


def test_a_turn_without_targets_anywhere_is_refused(tokenizer: Any) -> None:
    with pytest.raises(TemplateError, match="every turn that could be learned says train: false"):
        encode(tokenizer, CHAT_TEMPLATE, [TURNS[1], {**TURNS[2], "train": False}])
    with pytest.raises(TemplateError, match="has no assistant turn"):
        encode(tokenizer, CHAT_TEMPLATE, TURNS[:2])
    with pytest.raises(TemplateError, match="begins with an assistant turn"):
        encode(tokenizer, CHAT_TEMPLATE, TURNS[2:])
    with pytest.raises(TemplateError, match="makes nothing of the turns"):
        encode(
            tokenizer,
            MARKED.replace("generation %}{{", "generation %}{#")
            .replace("}}{% endgen", "#}{% endgen")
            .replace("<|end|>", "."),
            TURNS,
        )


# --- where a turn ends ------------------------------------------------------------------------


def test_a_block_that_has_its_end_does_not_take_the_next_turns_beginning(tokenizer: Any) -> None:
    template = MARKED.replace("{% endgeneration %}<|end|>", "<|end|>\n{% endgeneration %}").replace(
        "{{ '\n' }}{% endfor %}", "{% endfor %}"
    )
    found = encode(tokenizer, template, TURNS)
    assert spoken(tokenizer, found) == ["3<|end|>\n", "It is 8.<|end|>\n"]


def test_a_turn_that_nothing_ends_is_ended(tokenizer: Any) -> None:
    """The next turn's role is what ends it, and the end-of-sequence token ends the last one."""
    endless = CHAT_TEMPLATE.replace("<|end|>", "").replace("{{ '\n' }}", "")
    found = encode(tokenizer, endless, TURNS)
    assert spoken(tokenizer, found) == ["3<|user|>", "It is 8.<|end|>"]


def test_special_tokens_within_a_turn_are_not_its_end(tokenizer: Any) -> None:
    template = CHAT_TEMPLATE.replace(
        "{% if message['role'] == 'assistant' %}<|end|>{% endif %}", ""
    )
    turns = [TURNS[1], {"role": "assistant", "content": "a<|system|>b"}]
    assert spoken(tokenizer, encode(tokenizer, template, turns)) == ["a<|system|>b\n<|end|>"]


# --- reasoning, tools, and templates that drop things -----------------------------------------


def test_a_template_that_drops_earlier_reasoning_gives_each_turn_its_own(tokenizer: Any) -> None:
    turns = [
        TURNS[1],
        {**TURNS[2], "reasoning_content": "One more."},
        TURNS[3],
        {**TURNS[4], "thinking": "Twice."},
    ]
    samples = encode_all(tokenizer, REWRITING, turns)
    assert [spoken(tokenizer, one) for one in samples] == [
        ["<think>One more.</think>3<|end|>"],
        ["<think>Twice.</think>It is 8.<|end|>"],
    ]
    assert "One more." not in tokenizer.decode(samples[1].tokens)
    with pytest.raises(TemplateError, match=r"message 2 otherwise once .* unmask: assistant"):
        encode_all(tokenizer, REWRITING, turns, unmask="conversation")


def test_tools_and_calls_are_rendered_and_calls_are_learned(tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    turns = [
        TURNS[1],
        {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [call]},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "3", "reasoning_content": "So."},
    ]
    found = encode(tokenizer, REWRITING, turns, tools=[{"name": "add"}])
    assert tokenizer.decode(found.tokens).startswith('<|system|>[{"name": "add"}]<|end|>')
    assert spoken(tokenizer, found) == [
        '<think>Hm.</think><tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call><|end|>',
        "<think>So.</think>3<|end|>",
    ]
    assert found.answer == "3"
    last = encode(tokenizer, REWRITING, [turns[0], {**turns[1], "content": None}])
    assert last.answer == (
        '<think>Hm.</think><tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    )


def test_a_rows_own_template_fields_are_in_force(tokenizer: Any) -> None:
    fields = {"chat_template_kwargs": {"enable_thinking": False}}
    found = encode(tokenizer, REWRITING, TURNS[1:3], **fields)
    assert tokenizer.decode(found.tokens[: found.prompt]).endswith("<|assistant|><think></think>")
    assert spoken(tokenizer, found) == ["3<|end|>"]


@pytest.mark.parametrize(
    ("fields", "last", "complaint"),
    [
        ({}, {"reasoning_content": "Hm."}, "message 2 has reasoning_content, which the chat"),
        ({}, {"tool_calls": [{"name": "f"}]}, "message 2 has tool_calls, which the chat"),
        ({"tools": [{"name": "f"}]}, {}, "has tools, which the chat template doesn't show"),
    ],
)
def test_what_a_template_would_drop_is_refused(
    tokenizer: Any, fields: dict[str, Any], last: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(TemplateError, match=complaint):
        encode(tokenizer, CHAT_TEMPLATE, [TURNS[1], {**TURNS[2], **last}], **fields)


def test_a_turn_that_a_template_drops_is_named(tokenizer: Any) -> None:
    template = "{% for m in messages %}{% if m.role != 'system' %}" + (
        CHAT_TEMPLATE.replace("{% for message in messages %}", "{% set message = m %}").replace(
            "{% endfor %}", "{% endif %}{% endfor %}"
        )
    )
    assert spoken(tokenizer, encode(tokenizer, template, TURNS[1:]))
    with pytest.raises(TemplateError, match=r"doesn't show message 1 \(system\) as it is"):
        encode(tokenizer, template, TURNS)


def test_a_template_without_a_role_says_which_to_leave_out(tokenizer: Any) -> None:
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}" + CHAT_TEMPLATE
    )
    with pytest.raises(TemplateError, match="not supported; leave out its system turns"):
        encode(tokenizer, template, TURNS)


def test_half_a_character_is_refused(tokenizer: Any) -> None:
    with pytest.raises(TemplateError, match=r"half a character \(\\ud83d"):
        encode(tokenizer, CHAT_TEMPLATE, [{"role": "user", "content": "\ud83d"}, TURNS[2]])


# --- plain text -------------------------------------------------------------------------------


def test_plain_text_is_learned_whole_and_cut_where_it_is_too_long(tokenizer: Any) -> None:
    text = "What is 1 + 2? " * 20
    row = parse_row({"text": text})
    (whole,) = ChatEncoder(tokenizer).encode([row])
    assert isinstance(whole, list)
    begin = "<|system|>" if tokenizer("a")["input_ids"][0] == SYSTEM else ""
    assert tokenizer.decode(whole[0].tokens) == begin + text + "<|end|>"
    assert whole[0].targets.tolist() == [False] + [True] * (len(whole[0].tokens) - 1)
    (parts,) = ChatEncoder(tokenizer, max_length=32).encode([row])
    assert isinstance(parts, list)
    assert all(2 <= len(part.tokens) <= 32 for part in parts)
    joined = [token for part in parts for token in part.tokens.tolist()]
    assert whole[0].tokens.tolist()[: len(joined)] == joined
    assert len(whole[0].tokens) - len(joined) <= 1


# --- exactness on any text --------------------------------------------------------------------

PARTS = ["What", " is", " ", "\n", "1", "é", "😀", "<|", "|>", "Answer", ":", "en"]
WORDS = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)
TEMPLATES = [CHAT_TEMPLATE, MARKED, PLAIN_WORDS, SPACED_WORDS]
TALKS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3)


@settings(max_examples=150, deadline=None)
@given(talk=TALKS, template=st.sampled_from(TEMPLATES))
def test_prompts_and_answers_are_exact_whatever_is_said(
    tokenizer: Any, talk: list[tuple[str, str]], template: str
) -> None:
    """The prompt has the tokens it has alone; decoded, the targets are the answers."""
    turns = [
        {"role": role, "content": content}
        for question, answer in talk
        for role, content in (("user", question), ("assistant", answer))
    ]
    found = encode(tokenizer, template, turns)
    assert tokenizer.decode(found.tokens) == tokenizer.apply_chat_template(turns, tokenize=False)
    prompt = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(found.tokens[: found.prompt]) == prompt
    if len(talk) == 1 or template in (CHAT_TEMPLATE, MARKED):
        given = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert found.tokens[: found.prompt].tolist() == given
    assert spoken(tokenizer, found) == [answer + "<|end|>" for _, answer in talk]
