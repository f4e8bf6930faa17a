"""Messages files: what is refused and where, what is kept, and that it is shared."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.tiny_model import sums, write_jsonl
from trainer.config import Source, TrainConfig
from trainer.data import RunData, load_data, loading
from trainer.data.chat import ChatEncoder
from trainer.data.loading import encoded
from trainer.data.sources import open_source
from trainer.errors import DataError
from trainer.model import load_tokenizer

GOOD = json.dumps(sums(1)[0])
USER = {"role": "user", "content": "Hi"}


def load(
    model: Path,
    folder: Path,
    lines: list[Any] | Path,
    *,
    max_length: int = 512,
    evals: list[Any] | None = None,
    template: str | None = None,
) -> RunData:
    path = lines if isinstance(lines, Path) else write_jsonl(folder / "train.jsonl", lines)
    data: dict[str, Any] = {
        "train": [{"path": str(path)}],
        "max_length": max_length,
        "cache_dir": str(folder / "cache"),
        "chat_template": template,
    }
    if evals is not None:
        held = write_jsonl(folder / "eval.jsonl", evals)
        data["eval"] = [{"path": str(held), "name": "held"}]
    config = TrainConfig.model_validate(
        {
            "model": str(model),
            "data": data,
            "output_dir": str(folder / "out"),
            "learning_rate": 1e-3,
            "effective_batch_size": 1,
        }
    )
    return load_data(config, model, load_tokenizer(model, template))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"messages": [', "line 2: not valid JSON"),
        ("[1, 2]", "line 2: not a JSON object"),
        ('{"prompt": "x"}', "line 2: has no messages"),
        ('{"messages": []}', "line 2: has no messages"),
        ({"messages": ["x"]}, "line 2: message 1 is text, not a JSON object"),
        ({"messages": [USER, {"role": "bot", "content": "x"}]}, "line 2: message 2 has role 'bot'"),
        (
            {"messages": [USER, {"role": "assistant", "content": None}]},
            "line 2: message 2 (assistant): has no content",
        ),
        ({"messages": [USER]}, "line 2: has no assistant turn"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(
    tiny_model: Path, tmp_path: Path, line: Any, complaint: str
) -> None:
    with pytest.raises(DataError) as caught:
        load(tiny_model, tmp_path, [GOOD, line])
    assert complaint in str(caught.value)
    assert str(tmp_path / "train.jsonl") in str(caught.value)


def test_bytes_that_are_not_text_are_refused_with_their_line(
    tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(GOOD.encode() + b"\n" + b'{"messages": "\xe9"}\n')
    with pytest.raises(DataError, match=r"line 2: not UTF-8"):
        load(tiny_model, tmp_path, path)


def test_a_missing_and_an_empty_file_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
        load(tiny_model, tmp_path, tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match="is empty; it needs"):
        load(tiny_model, tmp_path, [])
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="is an empty folder"):
        load(tiny_model, tmp_path, tmp_path / "folder")


def test_too_long_samples_are_left_out_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    samples = sums(40)
    everything = load(tiny_model, tmp_path, samples)
    middle = int(np.median(everything.train.lengths))
    some = load(tiny_model, tmp_path, samples, max_length=middle)
    assert some.train.lengths.max() <= middle
    assert 0 < len(some.train) < 40
    assert some.too_long == {str(tmp_path / "train.jsonl"): 40 - len(some.train)}
    assert f"left out as too long: {40 - len(some.train)}" in some.summary()


def test_a_file_with_only_too_long_samples_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"all 5 samples are longer than max_length = 4 tokens"):
        load(tiny_model, tmp_path, sums(5), max_length=4)


def test_a_sample_has_its_tokens_its_prompt_and_its_answer(
    tiny_model: Path, tmp_path: Path
) -> None:
    data = load(tiny_model, tmp_path, sums(3), evals=sums(2, seed=7))
    tokenizer = load_tokenizer(tiny_model)
    for index, sample in enumerate(sums(2, seed=7)):
        question, answer = (m["content"] for m in sample["messages"])
        tokens, targets = data.eval["held"].sample(index)
        assert tokenizer.decode(tokens) == f"<|user|>{question}\n<|assistant|>{answer}<|end|>\n"
        assert tokenizer.decode(tokens[targets]) == f"{answer}<|end|>"
        prompt = data.eval["held"].prompt(index)
        assert tokenizer.decode(prompt) == f"<|user|>{question}\n<|assistant|>"
        assert data.eval["held"].answers[index] == answer


def test_blank_lines_are_skipped_but_counted(tiny_model: Path, tmp_path: Path) -> None:
    assert len(load(tiny_model, tmp_path, [GOOD, "", GOOD]).train) == 2
    with pytest.raises(DataError, match="line 3"):
        load(tiny_model, tmp_path, [GOOD, "", "{"])


def test_a_changed_file_is_read_again(tiny_model: Path, tmp_path: Path) -> None:
    assert len(load(tiny_model, tmp_path, sums(3)).train) == 3
    assert len(load(tiny_model, tmp_path, sums(5)).train) == 5


def test_a_changed_template_is_noticed(tiny_model: Path, tmp_path: Path) -> None:
    before = load(tiny_model, tmp_path, sums(3))
    template = tmp_path / "other.jinja"
    template.write_text(
        "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    after = load(tiny_model, tmp_path, sums(3), template=str(template))
    assert before.train.key != after.train.key
    tokens, targets = after.train.sample(0)
    assert load_tokenizer(tiny_model).decode(tokens[targets]).startswith(" ")


def test_concurrent_loads_share_one_entry(tiny_model: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", sums(200))
    with ThreadPoolExecutor(4) as pool:
        keys = {d.train.key for d in pool.map(lambda _: load(tiny_model, tmp_path, path), range(4))}
    cache = tmp_path / "cache"
    entries = [e for e in cache.iterdir() if e.is_dir() and e.name != "files"]
    assert [entry.name for entry in entries] == list(keys)


def configured(model: Path, folder: Path, data: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": str(model),
            "data": data,
            "output_dir": str(folder / "out"),
            "learning_rate": 1e-3,
            "effective_batch_size": 1,
        }
    )


def test_several_files_are_one_set_in_order(tiny_model: Path, tmp_path: Path) -> None:
    one = write_jsonl(tmp_path / "one.jsonl", sums(3, seed=1))
    two = write_jsonl(tmp_path / "two.jsonl", sums(4, seed=2))
    config = configured(tiny_model, tmp_path, {"train": [{"path": str(one)}, {"path": str(two)}]})
    tokenizer = load_tokenizer(tiny_model)
    data = load_data(config, tiny_model, tokenizer)
    train = data.train
    expected = [s["messages"][-1]["content"] for s in [*sums(3, seed=1), *sums(4, seed=2)]]
    assert data.sets == (3, 4)
    assert list(train.answers) == expected == [train.answers[i] for i in range(7)]
    assert train.answers[-1] == expected[-1]
    assert train.answers[2:5] == expected[2:5]
    decoded = [tokenizer.decode(tokens[mask]) for tokens, mask in map(train.sample, range(7))]
    assert decoded == [f"{answer}<|end|>" for answer in expected]
    assert [len(train.sample(i)[0]) for i in range(7)] == train.lengths.tolist()
    assert [int(train.sample(i)[1].sum()) for i in range(7)] == train.target_counts.tolist()
    assert [len(train.prompt(i)) for i in range(7)] == train.prompts.tolist()
    assert train.tokens == train.lengths.sum()
    with pytest.raises(IndexError):
        train.sample(7)


def test_what_a_set_is_kept_under_says_all_it_was_made_from(
    tiny_model: Path, tmp_path: Path
) -> None:
    path = str(write_jsonl(tmp_path / "a.jsonl", sums(3)))
    base = {"train": [{"path": path}], "cache_dir": str(tmp_path / "cache")}
    tokenizer = load_tokenizer(tiny_model)

    def key(**data: Any) -> str:
        return load_data(
            configured(tiny_model, tmp_path, base | data), tiny_model, tokenizer
        ).train.key

    keys = {key(), key(max_length=64), key(unmask="all"), key(unmask="conversation")}
    assert len(keys) == 4
    same = str(write_jsonl(tmp_path / "copy.jsonl", sums(3)))
    assert key(train=[{"path": same}]) == key()
    assert key(train=[{"path": path, "weight": 2.0, "phase": 3}]) == key()


def test_general_text_is_cut_and_conversations_are_left_out(
    tiny_model: Path, tmp_path: Path
) -> None:
    text = write_jsonl(tmp_path / "text.jsonl", [{"text": "What is 1 + 2? " * 100}])
    path = write_jsonl(tmp_path / "a.jsonl", sums(3))
    data = {
        "train": [{"path": str(path)}],
        "general": [{"path": str(text), "name": "text"}],
        "max_length": 64,
    }
    found = load_data(
        configured(tiny_model, tmp_path, data), tiny_model, load_tokenizer(tiny_model)
    )
    assert len(found.general["text"]) > 5
    assert found.general["text"].lengths.max() == 64
    assert found.too_long == {}


def test_a_second_process_reads_neither_rows_nor_tokenizer(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept is all that it needs."""
    config = configured(
        tiny_model, tmp_path, {"train": [{"path": str(write_jsonl(tmp_path / "a.jsonl", sums(9)))}]}
    )
    tokenizer = load_tokenizer(tiny_model)
    first = load_data(config, tiny_model, tokenizer).train
    monkeypatch.setattr(loading, "_open_shards", {})
    monkeypatch.setattr(loading, "ChatEncoder", None)
    monkeypatch.setattr(loading, "parse_row", None)
    second = load_data(config, tiny_model, tokenizer).train
    assert second.key == first.key
    assert [second.sample(i)[0].tolist() for i in range(9)] == [
        first.sample(i)[0].tolist() for i in range(9)
    ]


def test_a_shard_that_was_cut_short_is_made_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load(tiny_model, tmp_path, sums(9)).train
    tokens = [whole.sample(i)[0].tolist() for i in range(9)]
    file = tmp_path / "cache" / whole.key / "tokens"
    os.truncate(file, file.stat().st_size - 4)
    monkeypatch.setattr(loading, "_open_shards", {})
    again = load(tiny_model, tmp_path, sums(9)).train
    assert [again.sample(i)[0].tolist() for i in range(9)] == tokens


def test_rows_are_encoded_some_hundreds_at_a_time(tiny_model: Path, tmp_path: Path) -> None:
    """So memory doesn't grow with the data."""
    rows = open_source(Source(path=str(write_jsonl(tmp_path / "a.jsonl", sums(2000)))))
    chunks = [numbers for numbers, _ in encoded(rows, ChatEncoder(load_tokenizer(tiny_model)))]
    assert max(map(len, chunks)) <= 512
    assert [number for numbers in chunks for number in numbers] == list(range(1, 2001))
    texts = [{"text": "What is 1? " * 90_000}] * 6
    rows = open_source(Source(path=str(write_jsonl(tmp_path / "b.jsonl", texts))))
    chunks = [numbers for numbers, _ in encoded(rows, ChatEncoder(load_tokenizer(tiny_model)))]
    assert max(map(len, chunks)) <= 5


# --- what crashed the reference trainer -------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
SAMPLES = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=12)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(talks=SAMPLES, max_length=st.integers(32, 80))
def test_no_sample_is_too_long_or_has_nothing_to_learn(
    tiny_model: Path, tmp_path: Path, talks: list[tuple[str, str]], max_length: int
) -> None:
    """So no batch can be empty and no sample can exceed what a micro-batch takes."""
    lines = [
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        }
        for question, answer in talks
    ]
    lines.append(sums(1)[0])  # fits always, so that a set remains
    data = load(tiny_model, tmp_path, lines, max_length=max_length)
    train = data.train
    assert train.lengths.max() <= max_length
    assert train.lengths.min() >= 2
    assert train.target_counts.min() >= 1
    assert len(train) + sum(data.too_long.values()) == len(lines)
    for index in range(len(train)):
        tokens, targets = train.sample(index)
        assert not targets[0]
        assert targets.any()
        assert len(tokens) == len(targets)
