"""Say what is wrong with a sweep, or a request about one, in the words of whoever wrote it.

Pydantic finds the faults; here each becomes a JSON pointer into what the user sent, and a sentence
with a way out.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from winnow.load import MOST_ERRORS, SHOWN, pointer, shown
from winnow.spec import KINDS, Choice, Fixed, IntUniform, LogUniform, SweepSpec, Uniform
from winnow.types import FieldError

M = TypeVar("M", bound=BaseModel)
Location = tuple[int | str, ...]

LONGEST_KEY = 200
LONGEST_MESSAGE = 1000

_PARAMETER_KINDS: dict[str, type[BaseModel]] = {
    "uniform": Uniform,
    "log_uniform": LogUniform,
    "int_uniform": IntUniform,
    "choice": Choice,
    "fixed": Fixed,
}
_NEEDED = {
    "/name": "give the sweep a name",
    "/model": "name a model: the absolute path of its folder, or a hub id",
    "/data": "say what to train and to judge on: {train: [{path: …}], eval: [{path: …}]}",
    "/data/train": "list at least one file to train on: [{path: train.jsonl}]",
    "/scheduler": "say under which rule: {name: asha}",
    "/data/eval": "list at least one file to choose the winner on: [{path: eval.jsonl}]",
    "/params": "give the values: {params: {learning_rate: 2.0e-5}}",
    "/trials": "say how many trials more: {trials: 8}",
    "/space": "say what is left of it: {space: {learning_rate: {log_uniform: [1.0e-5, 1.0e-4]}}}",
    "/id": "give the project a name",
}
_PATTERNS = {
    "base_url": "give an address that begins with http:// or https://",
    # What was given is not repeated: it may be the key itself.
    "api_key_env": "give the name of an environment variable, such as JUDGE_API_KEY",
    "name": "holds a slash, < or >, line breaks or control characters; use plain text in one line",
    "project": "give the name of a project: small letters, digits, dots and dashes, at most 32",
    "id": "give it a name of small letters, digits, dots and dashes, at most 32 of them",
    "": "holds < or >, line breaks or control characters; use plain text in one line",
}
_PREFIX = re.compile(r"([a-z_]+(?:\.[a-z_]+)*): ")


def parse_spec(document: Any) -> tuple[SweepSpec | None, list[FieldError]]:
    """The sweep that a document describes, or everything that is wrong with it."""
    return parse_as(SweepSpec, document)


def parse_as(model: type[M], document: Any) -> tuple[M | None, list[FieldError]]:
    """The value that a document describes, or everything that is wrong with it.

    Types are strict: "4" and true are not numbers.
    """
    try:
        return model.model_validate(_frozen(document), strict=True), []
    except ValidationError as error:
        return None, explain(error, document, model)


def explain(
    error: ValidationError, document: Any, root: type[BaseModel] = SweepSpec
) -> list[FieldError]:
    """One entry a fault, by pointer; several faults of one value that mean the same are merged."""
    found: dict[tuple[str, str], FieldError] = {}
    for item in error.errors(include_url=False):
        if len(found) >= MOST_ERRORS:
            break
        kind, context = item["type"], item.get("ctx") or {}
        location = _location(item["loc"])
        if kind.endswith("_type") and location and _is_scalar_slot(location):
            at, message = _cut(location, document), "give a number, text, true, false or null"
        elif kind == "value_error":
            said = str(context.get("error", item["msg"]))
            at, message = _split_prefix(location, said, document, root)
        elif kind == "too_short" and _lookup(location, document):
            continue  # its items were refused, each with an error of its own
        else:
            at, message = location, _sentence(item, location, context, root)
        at, message = _within_bounds(at), shown(message, LONGEST_MESSAGE)
        where = pointer(*at)
        found.setdefault((where, message), FieldError(pointer=where, message=message))
    return list(found.values())


def _within_bounds(at: Location) -> Location:
    """Without keys that nobody would read."""
    for i, part in enumerate(at):
        if len(str(part)) > LONGEST_KEY:
            return at[:i]
    return at


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` or nothing."""
    word = word[:SHOWN]
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _sentence(
    item: Mapping[str, Any], at: Location, context: Mapping[str, Any], root: type[BaseModel]
) -> str:
    kind, msg = item["type"], item["msg"]
    got = f"got {_show(item['input'])}"
    tag = item["loc"][2] if len(at) < len(item["loc"]) else None
    match kind:
        case "extra_forbidden":
            known = _known_keys(root, at[:-1], tag)
            hint = did_you_mean(str(at[-1]), known) or ";"
            return f"unknown key '{shown(str(at[-1]))}'{hint} known: {', '.join(known)}"
        case "missing" if at and at[-1] in (0, 1):
            return "give two numbers: [low, high]"
        case "missing":
            return f"is missing; {_NEEDED.get(pointer(*at), 'give it a value')}"
        case "too_short" | "string_too_short":
            return f"is empty; {_NEEDED.get(pointer(*at), 'give at least one value')}"
        case "too_long" if context.get("max_length", 2) != 2:
            return f"holds more than {context['max_length']:,} entries; leave some out"
        case "too_long":
            return f"give two numbers: [low, high], {got}"
        case "string_too_long":
            return f"is longer than {context.get('max_length')} characters; shorten it"
        case "string_pattern_mismatch":
            named = len(at) > 1 or at in (("project",), ("id",))
            return _PATTERNS.get(str(at[-1]) if at and named else "", _PATTERNS[""])
        case "literal_error":
            expected = str(context.get("expected", ""))
            options = re.findall(r"'([^']*)'", expected)
            hint = did_you_mean(item["input"], options) if isinstance(item["input"], str) else ""
            return f"give one of {expected}, {got}{hint}"
        case "int_type" | "int_from_float" | "int_parsing":
            return f"give a whole number, {got}"
        case "float_type" | "float_parsing":
            return f"give a number, {got}"
        case "finite_number":
            return f"give a finite number, {got}"
        case "string_type":
            return f"give text, {got}"
        case "bool_type":
            return f"give true or false, {got}"
        case "tuple_type" if at and at[-1] in KINDS and at[-1] != "choice":
            return f"give two numbers: [low, high], {got}"
        case "tuple_type":
            return f"give a list, {got}"
        case "model_type" | "model_attributes_type":
            known = _known_keys(root, at)
            return f"give a mapping with some of the keys {', '.join(known)}, {got}"
        case "greater_than":
            return f"give a number above {context['gt']:g}, {got}"
        case "greater_than_equal":
            return f"give a number of at least {context['ge']:g}, {got}"
        case "less_than":
            return f"give a number below {context['lt']:g}, {got}"
        case "less_than_equal":
            return f"give a number of at most {context['le']:g}, {got}"
        case _:
            return f"{msg}, {got}" if kind != "parameter_kind" else f"{msg}; {got}"


def _show(value: Any) -> str:
    """A value as the user wrote it, cut short, with its kind where that is the point."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return str(value).lower()
        case str():
            return f"the text '{value[:40]}{'…' if len(value) > 40 else ''}'"
        case dict():
            return (
                f"a mapping with the keys {', '.join(shown(str(k)) for k in list(value)[:5])}"
                if value
                else "{}"
            )
        case list() | tuple():
            return f"a list of {len(value)}"
        case int() if abs(value) >= 10**15:
            return "a number of more than 15 digits"
        case _:
            return str(value)


def _location(loc: Location) -> Location:
    """Without the tag that pydantic puts between a parameter's name and its fields."""
    if len(loc) > 2 and loc[0] == "space" and loc[2] in _PARAMETER_KINDS:
        return (*loc[:2], *loc[3:])
    return loc


def _is_scalar_slot(location: Location) -> bool:
    """Whether this is one arm of `Scalar`: choice items, fixed values, a trial's parameters."""
    return location[0] in ("space", "params") and location[-1] in (
        "bool",
        "int",
        "float",
        "str",
        "none",
    )


def _cut(location: Location, document: Any) -> Location:
    """The part of a location that exists in the document."""
    for i, part in enumerate(location):
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            return location[:i]
    return location


def _lookup(location: Location, document: Any) -> Any:
    return _walk(_cut(location, document), document) if location else document


def _walk(location: Location, document: Any) -> Any:
    for part in location:
        document = document[part]
    return document


def _split_prefix(
    location: Location, message: str, document: Any, root: type[BaseModel]
) -> tuple[Location, str]:
    """A rule over several fields names the one to change in front: "search.trials: …"."""
    if match := _PREFIX.match(message):
        named = tuple(match[1].split("."))
        if location and not isinstance(_lookup(location, document), dict):
            return _cut(location, document), message[match.end() :]  # Written short, as one value.
        if not location and named[0] not in root.model_fields:
            named = ("space", *named)
        return location + named, message[match.end() :]
    return _cut(location, document), message


def _known_keys(root: type[BaseModel], location: Location, tag: Any = None) -> list[str]:
    """The keys that the mapping at a location may have; `tag` is the kind of a parameter."""
    if tag in _PARAMETER_KINDS:
        return list(_PARAMETER_KINDS[tag].model_fields)
    model = root
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model_in(a))), None)


def _frozen(value: Any) -> Any:
    """Lists as tuples: strict mode wants the types that the fields have."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    return value
