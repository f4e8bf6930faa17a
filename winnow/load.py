"""Read a sweep file: YAML or JSON in, plain Python values out, nothing surprising in between.

YAML is read by the core schema of YAML 1.2, so `1e-6` is a number and `no` is a word. Refused,
with the line: repeated keys, aliases that blow up, deep nesting, tags that make objects. Refused
with a JSON pointer: NaN, infinities, text that a database cannot hold, and characters that make
text look like another one.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from winnow.errors import DocumentError
from winnow.types import FieldError

MAX_BYTES = 256 * 1024
"""Largest sweep file. The examples take about 2 kB."""
MAX_DEPTH = 24
MAX_NODES = 10_000
"""Largest number of values in a document after its aliases are expanded."""
_UNSEEN = re.compile(
    "[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]"
)
"""Control characters but for tab and line breaks, and those that turn the direction of text."""
SHOWN = 80
"""Characters of what somebody wrote that a message repeats."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
DATA_FILE = re.compile(r".*\.(jsonl|json|parquet|csv|txt|gz|zst|zip)")
LARGEST = 2**63 - 1
MOST_ERRORS = 50
"""Faults of a document that are told at once."""
SETS = ("train", "eval", "test", "general")
"""The lists of data sets in a sweep's `data`."""


def is_hub_data(path: str) -> bool:
    """Whether `path` names a data set of the hub: it has the form of an id, not of a file."""
    return bool(HUB_ID.fullmatch(path)) and not DATA_FILE.fullmatch(path) and ".." not in path


def load_sweep_file(path: str | Path) -> dict[str, Any]:
    """Read a sweep file, with its relative paths made absolute.

    Raises DocumentError if it cannot be read, or is not a mapping.
    """
    path = Path(path)
    document = _load(path)
    if not isinstance(document, dict):
        raise DocumentError(f"{path}: a sweep file holds a mapping of keys, not {_kind(document)}")
    return resolve_paths(document, path.parent)


def load_configurations(path: str | Path) -> list[dict[str, Any]]:
    """Read a list of configurations, each a mapping of parameters to values.

    Raises DocumentError if the file cannot be read, or holds something else.
    """
    document = _load(Path(path))
    many: list[Any] = document if isinstance(document, list) else [document]
    for i, one in enumerate(many):
        if not isinstance(one, dict):
            message = (
                f"{path}: entry {i + 1} is {_kind(one)}, not a mapping of parameters to values"
            )
            raise DocumentError(message)
    return many


def parse_yaml(data: bytes | str) -> Any:
    """The value that a YAML 1.2 document holds. Raises DocumentError."""
    try:
        loader = _Loader(_text(data))
        node = loader.get_single_node()
        if node is None:
            raise DocumentError("the document is empty; see examples/ for sweep files")
        _check_expansion(node)
        document = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise DocumentError(_yaml_message(error)) from None
    except yaml.reader.ReaderError as error:
        raise DocumentError(
            f"not YAML: the character at position {error.position} is not allowed in text"
        ) from None
    except (ValueError, OverflowError) as error:  # a number of thousands of digits, somewhere
        raise DocumentError(f"not YAML: {shown(str(error))}") from None
    refuse_unstorable(document)
    return document


def parse_json(data: bytes | str) -> Any:
    """The value that a JSON document holds. Raises DocumentError."""
    text = _text(data)
    if not text.strip():
        raise DocumentError("the document is empty")
    try:
        document = json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise DocumentError(f"nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        raise DocumentError(
            f"not JSON: {shown(error.msg)} in line {error.lineno}, column {error.colno}"
        ) from None
    except ValueError as error:  # a whole number of thousands of digits
        raise DocumentError(f"not JSON: {error}") from None
    refuse_unstorable(document)
    return document


def resolve_paths(document: dict[str, Any], base: Path) -> dict[str, Any]:
    """A copy of a sweep whose relative paths are absolute, read from the folder `base`.

    The model and data sets stay as they are if they look like hub ids and nothing of that name
    exists in `base`.
    """
    base = base.expanduser().resolve()
    resolved = dict(document)
    model = document.get("model")
    if isinstance(model, str) and (
        not HUB_ID.fullmatch(model) or (base / model).is_dir()  # a folder wins over a hub id
    ):
        resolved["model"] = _absolute(model, base)
    if isinstance(document.get("data"), dict):
        data = resolved["data"] = dict(document["data"])
        for name in SETS:
            if isinstance(data.get(name), (list, tuple)):
                data[name] = [_located(entry, base) for entry in data[name]]
        _make_absolute(data, "chat_template", base)
    if isinstance(document.get("evaluation"), dict):
        evaluation = resolved["evaluation"] = dict(document["evaluation"])
        for part, field in (("lm_eval", "include_path"), ("judge", "questions")):
            if isinstance(evaluation.get(part), dict):
                evaluation[part] = dict(evaluation[part])
                _make_absolute(evaluation[part], field, base)
    return resolved


def refuse_unstorable(document: Any) -> None:
    """Raise DocumentError for NaN, infinities, NUL, lone surrogates, or too deep a nesting."""
    found = itertools.islice(_unstorable(document, "", 0), MOST_ERRORS)
    errors = [FieldError(pointer=p, message=m) for p, m in found]
    if errors:
        raise DocumentError(errors[0].message, errors)


def pointer(*parts: str | int) -> str:
    """A JSON pointer (RFC 6901): pointer("space", "a/b", 0) is "/space/a~1b/0"."""
    return "".join("/" + str(p).replace("~", "~0").replace("/", "~1") for p in parts)


def shown(text: str, most: int = SHOWN) -> str:
    """What somebody wrote, cut short."""
    return text if len(text) <= most else f"{text[:most]}…"


def _load(path: Path) -> Any:
    """The value in a YAML or JSON file. Raises DocumentError, with the file's name in front."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise DocumentError(f"{path} does not exist") from None
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {error.strerror}") from None
    parse = parse_json if path.suffix == ".json" else parse_yaml
    try:
        return parse(data)
    except DocumentError as error:
        raise DocumentError(f"{path}: {error}", error.errors) from None


def _unstorable(value: Any, at: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth > MAX_DEPTH:
        yield at, f"nested deeper than {MAX_DEPTH} levels"
    elif isinstance(value, float) and not math.isfinite(value):
        yield at, f"{value} is not a number that can be used here; give a finite number"
    elif isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        yield at, "is a whole number that is too large to be used (beyond 2^63)"
    elif isinstance(value, str):
        if "\0" in value:
            yield at, "contains a NUL character; remove it"
        elif any("\ud800" <= c <= "\udfff" for c in value):
            yield at, "contains half of a surrogate pair; write the character as UTF-8"
        elif unseen := _UNSEEN.search(value):
            code = f"U+{ord(unseen[0]):04X}"
            yield (
                at,
                f"contains {code}, a character that isn't seen or turns text around; remove it",
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _unstorable(key, at, depth + 1)
            yield from _unstorable(item, at + pointer(key), depth + 1)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _unstorable(item, at + pointer(i), depth + 1)


def _text(data: bytes | str) -> str:
    if len(data) > MAX_BYTES:
        raise DocumentError(
            f"larger than {MAX_BYTES // 1024} kB; a sweep file names data files instead of holding "
            "the data"
        )
    if isinstance(data, str):
        return data
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"not UTF-8: byte {error.start} cannot be read") from None


def _located(entry: Any, base: Path) -> Any:
    """A data set with an absolute path, unless it is one of the hub."""
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str) or not entry["path"]:
        return entry
    path = entry["path"]
    if is_hub_data(path) and not (base / path).exists():
        return entry
    return {**entry, "path": _absolute(path, base)}


def _make_absolute(section: dict[str, Any], field: str, base: Path) -> None:
    if isinstance(section.get(field), str) and section[field]:
        section[field] = _absolute(section[field], base)


def _absolute(path: str, base: Path) -> str:
    return str((base / Path(path).expanduser()).resolve())


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", type(None): "nothing"}
    return names.get(type(value), "a single value")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise DocumentError(f"the key '{shown(key)}' is given twice; keep one")
        found[key] = value
    return found


# --- YAML 1.2, core schema --------------------------------------------------------------------

_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN"
)
_NULL = re.compile(r"~|null|Null|NULL|")


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with YAML 1.2's scalars and without its merge keys, dates and octals."""

    # Own tables, not the parent's: PyYAML's add_* functions copy them on the first write.
    yaml_implicit_resolvers = {}  # noqa: RUF012
    yaml_constructors = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._nodes += 1
        if self._depth > MAX_DEPTH:
            raise DocumentError(f"nested deeper than {MAX_DEPTH} levels")
        if self._nodes > MAX_NODES:
            raise DocumentError(f"holds more than {MAX_NODES:,} values; a sweep file is smaller")
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                None, None, f"the tag {event.tag} is not supported; remove it", event.start_mark
            )
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _check_expansion(root: yaml.Node) -> None:
    """Refuse a document that is endless, huge or deep once its aliases are expanded.

    An alias points backwards, so by the time it is met its target has been measured: the walk
    visits each written node once, however often it is used.
    """
    measured: dict[int, tuple[int, int]] = {}
    open_nodes: set[int] = set()

    def measure(node: yaml.Node) -> tuple[int, int]:
        """Values in the expanded node, and its depth."""
        if id(node) in open_nodes:
            raise yaml.MarkedYAMLError(None, None, "an alias contains itself", node.start_mark)
        if id(node) not in measured:
            open_nodes.add(id(node))
            parts = [measure(child) for child in _children(node)]
            open_nodes.discard(id(node))
            size = 1 + sum(size for size, _ in parts)
            depth = 1 + max((depth for _, depth in parts), default=0)
            if size > MAX_NODES:
                raise DocumentError(
                    f"holds more than {MAX_NODES:,} values once its aliases (*name) are expanded; "
                    "write the values out"
                )
            if depth > MAX_DEPTH:
                raise DocumentError(f"nested deeper than {MAX_DEPTH} levels")
            measured[id(node)] = size, depth
        return measured[id(node)]

    measure(root)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return node.value
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return []


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    found: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(None, None, "a key is plain text", key_node.start_mark)
        key = key_node.value
        if key in found:
            raise yaml.MarkedYAMLError(
                None, None, f"the key '{shown(key)}' is given twice; keep one", key_node.start_mark
            )
        found[key] = loader.construct_object(value_node, deep=True)
    return found


def _sequence(loader: _Loader, node: yaml.SequenceNode) -> list[Any]:
    return [loader.construct_object(child, deep=True) for child in node.value]


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(node.value)
    try:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    except ValueError:
        raise yaml.MarkedYAMLError(
            None, None, f"{text[:20]} is not a whole number that can be used", node.start_mark
        ) from None


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(node.value).lower()
    if text.endswith((".inf", ".nan")):
        text = text.replace(".", "")
    return float(text)


def _yaml_message(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"YAML: {shown(str(error.problem or error.context), 300)}{place}"


_TAG = "tag:yaml.org,2002:"
for _name, _pattern, _first in (
    ("bool", _BOOL, "tTfF"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("null", _NULL, ["~", "n", "N", ""]),
):
    _whole = re.compile(rf"(?:{_pattern.pattern})\Z")
    _Loader.add_implicit_resolver(_TAG + _name, _whole, list(_first))
_Loader.add_constructor(_TAG + "map", _mapping)
_Loader.add_constructor(_TAG + "seq", _sequence)
_Loader.add_constructor(_TAG + "str", lambda loader, node: str(node.value))
_Loader.add_constructor(_TAG + "bool", lambda loader, node: node.value.lower() == "true")
_Loader.add_constructor(_TAG + "int", _int)
_Loader.add_constructor(_TAG + "float", _float)
_Loader.add_constructor(_TAG + "null", lambda loader, node: None)
