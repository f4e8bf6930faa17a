"""Sweep files are read as written: numbers as numbers, paths from the file's folder."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from winnow.errors import DocumentError
from winnow.load import (
    MAX_BYTES,
    load_sweep_file,
    parse_json,
    parse_yaml,
    pointer,
    resolve_paths,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("1.0e-6", 1e-6),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("~", None),
        ("", None),
        ("null", None),
        ("2024-01-01", "2024-01-01"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("'1e-6'", "1e-6"),
        ("<<", "<<"),
        ("1e-6x", "1e-6x"),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: Any) -> None:
    found = parse_yaml(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abcdefg_", min_size=1, max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


class _Quoting(yaml.SafeDumper):
    """Writes every text in quotes, so that it means the same in YAML 1.1 and 1.2."""


_Quoting.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


@given(_values)
def test_what_was_written_is_read(value: Any) -> None:
    assert parse_yaml(yaml.dump({"key": value}, Dumper=_Quoting, allow_unicode=True)) == {
        "key": value
    }


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_input_is_read_or_refused_but_never_breaks(data: str | bytes) -> None:
    for parse in (parse_yaml, parse_json):
        with contextlib.suppress(DocumentError):
            parse(data)


def test_a_few_aliases_are_fine() -> None:
    found = parse_yaml("a: &x [1, 2]\nb: *x\nc: [*x, *x]")
    assert found == {"a": [1, 2], "b": [1, 2], "c": [[1, 2], [1, 2]]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", "the key 'c' is given twice; keep one in line 4, column 3"),
        ("a: [1, 2", "line 1"),
        ("a:\n\t- 1", "line 2, column 1"),
        ("[1, 2]: 3", "a key is plain text"),
        ("a: &a {b: *a}", "contains itself"),
        ("x: " + "1" * 5000, "not a whole number that can be used"),
        ("x" * (MAX_BYTES + 1), "larger than 256 kB"),
    ],
)
def test_a_refusal_says_where(text: str, words: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_yaml(text)
    assert words in str(caught.value)


def test_numbers_that_are_none_are_named_by_their_place() -> None:
    with pytest.raises(DocumentError) as caught:
        parse_yaml("a: [1, {b/c: .nan}]\nd: -.inf")
    assert [e.pointer for e in caught.value.errors] == ["/a/1/b~1c", "/d"]


def test_a_chain_of_aliases_does_not_exhaust_the_stack() -> None:
    chain = "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(3000))
    with pytest.raises(DocumentError, match="deeper than"):
        parse_yaml(chain)


def test_a_pointer_escapes_what_has_a_meaning() -> None:
    assert pointer("a/b", 0, "m~n") == "/a~1b/0/m~0n"
    assert pointer() == ""


# --- paths ------------------------------------------------------------------------------------


def test_relative_paths_are_read_from_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    document = {
        "model": "base",
        "data": {
            "train": [{"path": "a.jsonl", "phase": 0}, {"path": "/b.jsonl"}],
            "eval": [{"path": "../c.jsonl"}],
            "chat_template": "t.jinja",
        },
    }
    assert resolve_paths(document, tmp_path) == {
        "model": str(tmp_path / "base"),
        "data": {
            "train": [{"path": str(tmp_path / "a.jsonl"), "phase": 0}, {"path": "/b.jsonl"}],
            "eval": [{"path": str(tmp_path.parent / "c.jsonl")}],
            "chat_template": str(tmp_path / "t.jinja"),
        },
    }


def test_a_hub_id_stays_unless_there_is_such_a_folder(tmp_path: Path) -> None:
    assert resolve_paths({"model": "org/name"}, tmp_path) == {"model": "org/name"}
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert resolve_paths({"model": "org/name"}, tmp_path) == {"model": f"{tmp_path}/org/name"}
    assert resolve_paths({"model": "./x"}, tmp_path) == {"model": f"{tmp_path}/x"}


@pytest.mark.parametrize(
    "document", [{}, {"model": 7}, {"data": 1}, {"data": {"train": "x", "eval": [1, {"path": 2}]}}]
)
def test_a_wrong_shape_is_left_for_the_server_to_name(
    document: dict[str, Any], tmp_path: Path
) -> None:
    assert resolve_paths(document, tmp_path) == document


def test_a_file_that_holds_no_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(DocumentError, match=r"list\.yaml: .* not a list"):
        load_sweep_file(tmp_path / "list.yaml")
    with pytest.raises(DocumentError, match="cannot be read"):
        load_sweep_file(tmp_path)


def test_json_files_are_read_as_json(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"name": "x"}')
    assert load_sweep_file(tmp_path / "s.json") == {"name": "x"}
