"""Names of lm-evaluation-harness's tasks, groups and tags, without importing it.

The harness finds its tasks by parsing some 14,000 YAML files, which takes ten seconds. Here only
the few top-level lines that name a task are read: a second, and no torch. What is found is the
same; a test compares.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

Kind = Literal["task", "python", "group", "tag"]

_IGNORED = ("__pycache__", ".ipynb_checkpoints")
_LINES = re.compile(
    rb"""^(?P<quote>["']?)(?P<key>task|group|tag|class|include)(?P=quote)[ \t]*:"""
    rb"""(?P<value>[^\n]*(?:\n(?:[ \t]+|-)[^\n]*)*)""",
    re.MULTILINE,
)


_PLAIN = re.compile(rb"""[ \t]+(["']?)(\w*[A-Za-z]\w*_\w[\w.]*)\1[ \t]*""")


@dataclass(slots=True)
class Entry:
    """One name. A tag has no file; `members` are the tasks that carry it."""

    name: str
    kind: Kind
    file: Path | None
    members: set[str] = field(default_factory=set[str])


def harness_tasks() -> Path | None:
    """The folder of the harness's own tasks, or None if it isn't installed."""
    spec = importlib.util.find_spec("lm_eval")
    places = (spec.submodule_search_locations if spec else None) or []
    found = [Path(place) / "tasks" for place in places]
    return found[0] if found else None


def read_index(include_path: Path | None = None) -> dict[str, Entry]:
    """Every known name. Tasks in `include_path` come before the harness's own.

    Tasks are those of the installed harness; none if it isn't installed.
    """
    own = harness_tasks()
    index = {name: _copy(entry) for name, entry in _own_index(own).items()} if own else {}
    if include_path is not None:
        index |= folder_index(include_path)
    return index


def folder_index(folder: Path) -> dict[str, Entry]:
    """The names in one folder and those below it. Of two with one name the first counts."""
    index: dict[str, Entry] = {}
    for file in task_files(folder):
        keys = _keys(file, frozenset())
        kind: Kind = "python" if "class" in keys else "group" if "group" in keys else "task"
        name = keys.get("group" if kind == "group" else "task")
        if not isinstance(name, str) or name in index:
            continue
        index[name] = Entry(name, kind, file)
        tags = keys.get("tag") if kind != "group" else None
        for tag in [tags] if isinstance(tags, str) else tags or []:
            index.setdefault(tag, Entry(tag, "tag", None)).members.add(name)
    return index


def task_files(folder: Path) -> Iterator[Path]:
    """The YAML files that may hold tasks, in the harness's order."""
    found = [
        Path(at) / name
        for at, _, names in os.walk(folder)
        if not any(part in _IGNORED for part in Path(at).parts)
        for name in names
        if name.endswith(".yaml")
    ]
    yield from sorted(found, key=lambda file: file.as_posix())


def read_task(file: Path) -> dict[str, Any]:
    """A task file with what it includes; functions stay the text that names them.

    Raises:
        OSError, yaml.YAMLError, ValueError: it can't be read.
    """
    return _merged(file, frozenset())


def task_names(index: dict[str, Entry], name: str) -> set[str]:
    """The tasks behind a task, a group or a tag."""
    return set(_leaves(index, name, frozenset()))


def _leaves(index: dict[str, Entry], name: str, above: frozenset[str]) -> Iterator[str]:
    entry = index.get(name)
    if entry is None or name in above:
        return
    if entry.kind == "tag":
        yield from (member for member in entry.members if member in index)
    elif entry.kind != "group" or entry.file is None:
        yield name
    else:
        members = read_task(entry.file).get("task")
        for member in members if isinstance(members, list) else []:
            inner = (
                member.get("group") or member.get("task") if isinstance(member, dict) else member
            )
            if isinstance(inner, str):
                yield from _leaves(index, inner, above | {name})


def _copy(entry: Entry) -> Entry:
    return Entry(entry.name, entry.kind, entry.file, set(entry.members))


@functools.cache
def _own_index(folder: Path) -> dict[str, Entry]:
    return folder_index(folder)


# --- reading YAML -----------------------------------------------------------------------------


@functools.lru_cache(maxsize=50_000)
def _value(key: bytes, value: bytes) -> Any:
    plain = _PLAIN.fullmatch(value)
    if plain or key == b"class":  # most values are bare names: no need of a YAML parser
        return plain[2].decode() if plain else True
    return next(iter(yaml.load(key + b":" + value, _Loader).values()))


def _keys(file: Path, above: frozenset[Path]) -> dict[str, Any]:
    """The lines that name a task, those of included files under its own; {} if it has none."""
    found: dict[str, Any] = {}
    try:
        text = file.read_bytes()
        for match in _LINES.finditer(text):
            found[match["key"].decode()] = _value(match["key"], match["value"])
    except (OSError, yaml.YAMLError, AttributeError, StopIteration):
        return {}
    included = found.pop("include", None)
    if included is None or file in above:
        return found
    inherited: dict[str, Any] = {}
    for other in [included] if isinstance(included, str) else included:
        where = file.parent / other
        if not where.is_file():
            return {}
        inherited |= _keys(where, above | {file})
    return inherited | found


def _merged(file: Path, above: frozenset[Path]) -> dict[str, Any]:
    file = file.resolve()
    if file in above:
        raise ValueError(f"{file} includes itself")
    values = yaml.load(file.read_bytes(), _Loader)
    if not isinstance(values, dict):
        raise ValueError(f"{file} is not a task file: write `task: NAME` and the task's fields")
    included = values.pop("include", None) or []
    inherited: dict[str, Any] = {}
    for other in [included] if isinstance(included, str) else included:
        inherited |= _merged(file.parent / other, above | {file})
    return inherited | values


class _Loader(yaml.SafeLoader):
    """Safe, with `!function` (and any other tag) left as text."""


def _as_text(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


_Loader.add_multi_constructor("!", _as_text)
