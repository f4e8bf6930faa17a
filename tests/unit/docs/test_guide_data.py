"""Every example of docs/guide-data.md does what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fixtures.tiny_model import make_tokenizer
from trainer.config import DataConfig, Unmask
from trainer.data.chat import ChatEncoder, Encoded
from trainer.data.messages import parse_row
from trainer.data.sources import open_source
from trainer.errors import DataError

PAGE = Path(__file__).parents[3] / "docs" / "guide-data.md"
TEMPLATE = (
    "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ 'user' if m.role == 'tool' else m.role }}|>"
    "{% if m.reasoning_content and enable_thinking %}<think>{{ m.reasoning_content }}</think>"
    "{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls %}{{ call.function | tojson }}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer(320, TEMPLATE)


def learned(tokenizer: Any, row: dict[str, Any], unmask: Unmask = "assistant") -> list[str]:
    """The turns, or the text, of which something is learned."""
    (found,) = ChatEncoder(tokenizer, unmask).encode([parse_row(row)])
    assert isinstance(found, list), found
    (one,) = found
    assert isinstance(one, Encoded)
    masked = [t if target else -1 for t, target in zip(one.tokens, one.targets, strict=True)]
    text = "".join(tokenizer.decode([t]) if t >= 0 else "\0" for t in masked)
    return [part for part in text.split("\0") if part]


def test_the_configuration_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks("yaml")
    data = DataConfig.model_validate(yaml.safe_load(block))
    assert [source.phase for source in data.train] == [0, 1, 1]
    monkeypatch.chdir(tmp_path)
    hub = data.train[2]
    assert open_source(hub).table  # taken for a data set of the hub
    with pytest.raises(DataError, match="no such file"):
        open_source(data.train[0])


def test_the_samples_are_learned_from_as_the_page_says(tokenizer: Any) -> None:
    forms, overrides, tools = (
        [json.loads(line) for line in b.splitlines()] for b in blocks("jsonl")
    )
    assert [learned(tokenizer, row) for row in forms[:3]] == [["2<|end|>"]] * 3
    assert learned(tokenizer, forms[3])[0].endswith("without a chat template.<|end|>")
    assert learned(tokenizer, forms[0], "conversation") == ["1 + 1?", "2<|end|>"]
    everything = learned(tokenizer, forms[0], "all")
    assert everything == ["Be brief.<|end|><|user|>1 + 1?<|end|><|assistant|>2<|end|>"]
    assert learned(tokenizer, overrides[0]) == ["No: 2.<|end|>"]
    assert learned(tokenizer, overrides[1]) == ["1 + 1?", "2<|end|>"]
    call = '<think>I can add.</think>{"name": "add", "arguments": {"a": 1, "b": 1}}<|end|>'
    assert learned(tokenizer, tools[0]) == [call, "<think>That is it.</think>2<|end|>"]
