"""Conditions in a sweep file: small expressions over parameters, read without running any code.

    learning_rate * effective_batch_size < 0.1
    schedule != 'constant' and log10(learning_rate) < -4
    strategy in ['phased', 'difficulty']

Numbers, text in quotes, True, False and None; + - * / // % **; comparisons, also chained; and, or,
not, in; min, max, abs, log, log10, log2, sqrt, round. Python's parser reads it, and an interpreter
of these few nodes computes it. Text, nodes, depth and the size of numbers are bounded, so reading
and computing take microseconds whatever is written.
"""

from __future__ import annotations

import ast
import itertools
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

MAX_LENGTH = 500
MAX_NODES = 150
MAX_DEPTH = 30
MAX_NUMBER = 1e100
"""Largest number that may be written or computed."""

Value = bool | int | float | str | None


class ExpressionError(ValueError):
    """An expression that can't be read, or computed for some values. Its message says where."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A condition that has been read. `names` are the parameters it needs."""

    text: str
    names: frozenset[str]
    _tree: ast.expr = field(repr=False, compare=False)

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether it is true of `values`, which has all of `names`.

        Raises:
            ExpressionError: it can't be computed for them.
        """
        found = _Reading(self.text).compute(self._tree, values)
        assert isinstance(found, bool)
        return found

    def compared(self) -> list[tuple[str, str, int]]:
        """(parameter, text, position) for each text that a parameter is compared with."""
        found: list[tuple[str, str, int]] = []
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                for one, other in itertools.pairwise(sides):
                    found += _text_against_name(one, other) + _text_against_name(other, one)
        return found


def parse(text: str) -> Expression:
    """Read a condition.

    Raises:
        ExpressionError: it isn't one, or uses more than what is allowed here.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(
            f"has {len(text):,} characters; {MAX_LENGTH} are the most, so split it into several"
        )
    text = " ".join(text.split("\n")).strip()
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        hint = "; write == to compare" if _single_equals(text) else ""
        raise ExpressionError(
            f"{_at(text, (error.offset or len(text) + 1) - 1)} it can't be read{hint}; write e.g. "
            "learning_rate * effective_batch_size < 0.1"
        ) from None
    except (ValueError, MemoryError, RecursionError):
        raise ExpressionError("can't be read; write it more simply") from None
    reading = _Reading(text)
    reading.check(tree)
    if not _is_condition(tree):
        raise ExpressionError("is a value, not a condition; compare it with something, e.g. … < 1")
    if not reading.names:
        raise ExpressionError("names no parameter, so it is always the same; leave it out")
    return Expression(text, frozenset(reading.names), tree)


def suggestion(name: str, known: list[str]) -> str:
    """' (did you mean x?)' if a known name is close to `name`, else nothing."""
    close = get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


# --- reading ----------------------------------------------------------------------------------


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "min": (min, 2, 20),
    "max": (max, 2, 20),
    "abs": (abs, 1, 1),
    "log": (math.log, 1, 1),
    "log10": (math.log10, 1, 1),
    "log2": (math.log2, 1, 1),
    "sqrt": (math.sqrt, 1, 1),
    "round": (round, 1, 2),
}
"""Function, and how few and how many numbers it takes."""


class _Reading:
    """One expression being checked or computed; it knows the text, for messages."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._nodes = 0
        self.names: set[str] = set()

    def check(self, node: ast.AST, depth: int = 0) -> None:
        """Raise ExpressionError unless everything below `node` is allowed."""
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise ExpressionError("is too long or nested too deeply; split it into several")
        match node:
            case ast.Constant(value=value):
                self._check_constant(node, value)
            case ast.Name(id=name):
                if name in _FUNCTIONS:
                    raise self.error(node, f"{name} is a function: write {name}(…)")
                self.names.add(name)
            case ast.BoolOp(values=values):
                for value in values:
                    if not _is_condition(value):
                        raise self.error(value, "and, or take conditions; compare it with a value")
                    self.check(value, depth + 1)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                if not _is_condition(operand):
                    raise self.error(operand, "not takes a condition; compare it with a value")
                self.check(operand, depth + 1)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                self.check(operand, depth + 1)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                for side in (left, right):
                    if isinstance(side, ast.Constant) and isinstance(side.value, str):
                        raise self.error(side, "text can only be compared, not computed with")
                    self.check(side, depth + 1)
            case ast.Compare(left=left, ops=ops, comparators=others):
                self._check_comparison(left, ops, others, depth)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
                _, few, many = _FUNCTIONS[name]
                if not few <= len(args) <= many:
                    count = str(few) if few == many else f"{few} to {many}"
                    raise self.error(node, f"{name} takes {count} numbers, got {len(args)}")
                for argument in args:
                    self.check(argument, depth + 1)
            case ast.Call(func=func):
                name = func.id if isinstance(func, ast.Name) else "this"
                raise self.error(node, f"{name} can't be called; there are {', '.join(_FUNCTIONS)}")
            case ast.Attribute() | ast.Subscript():
                raise self.error(node, "dots and [ ] after a name aren't allowed")
            case ast.List() | ast.Tuple() | ast.Set():
                raise self.error(node, "a list only goes after in")
            case _:
                raise self.error(
                    node,
                    "this isn't allowed; there are numbers, text in quotes, parameters, "
                    "+ - * / // % **, comparisons, and, or, not, in, and the functions "
                    f"{', '.join(_FUNCTIONS)}",
                )

    def _check_constant(self, node: ast.AST, value: object) -> None:
        if value is None or isinstance(value, bool | str):
            return
        if not isinstance(value, int | float):
            raise self.error(node, "write a number, text in quotes, True, False or None")
        if not abs(value) <= MAX_NUMBER:
            raise self.error(node, f"the number is too large; {MAX_NUMBER:g} is the largest")

    def _check_comparison(
        self, left: ast.expr, ops: list[ast.cmpop], others: list[ast.expr], depth: int
    ) -> None:
        self.check(left, depth + 1)
        for op, other in zip(ops, others, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                if not isinstance(other, ast.List | ast.Tuple | ast.Set):
                    raise self.error(other, "after in goes a list: in ['linear', 'cosine']")
                for element in other.elts:
                    self.check(element, depth + 1)
                continue
            is_none = isinstance(other, ast.Constant) and other.value is None
            if isinstance(op, ast.Is | ast.IsNot) and not is_none:
                raise self.error(other, "write == instead of is")
            self.check(other, depth + 1)

    # --- computing ----------------------------------------------------------------------------

    def compute(self, node: ast.expr, values: Mapping[str, Value]) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return values[name]
            case ast.BoolOp(op=ast.And(), values=parts):
                return all(self.compute(part, values) for part in parts)
            case ast.BoolOp(values=parts):
                return any(self.compute(part, values) for part in parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self.compute(operand, values)
            case ast.UnaryOp(op=op, operand=operand):
                number = self._number(operand, values)
                return -number if isinstance(op, ast.USub) else number
            case ast.BinOp(left=left, op=op, right=right):
                sides = (self._number(left, values), self._number(right, values))
                if isinstance(op, ast.Pow):  # whole numbers to a power grow without end
                    sides = (float(sides[0]), float(sides[1]))
                return self._bounded(node, _ARITHMETIC[type(op)], *sides)
            case ast.Compare():
                return self._compare(node, values)
            case ast.Call(func=ast.Name(id=name), args=args):
                numbers = [self._number(argument, values) for argument in args]
                if name == "round" and len(numbers) == 2:
                    numbers[1] = int(max(-20, min(20, numbers[1])))
                return self._bounded(node, _FUNCTIONS[name][0], *numbers)
            case _:
                raise AssertionError(ast.dump(node))

    def _compare(self, node: ast.Compare, values: Mapping[str, Value]) -> bool:
        left, left_node = self.compute(node.left, values), node.left
        for op, other in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                assert isinstance(other, ast.List | ast.Tuple | ast.Set)
                within = any(_equal(left, self.compute(e, values)) for e in other.elts)
                if within != isinstance(op, ast.In):
                    return False
                continue
            right = self.compute(other, values)
            if type(op) in _ORDER:
                for side, at in ((left, left_node), (right, other)):
                    if isinstance(side, bool) or not isinstance(side, int | float):
                        raise self._no_number(at, side)
                if not _ORDER[type(op)](left, right):
                    return False
            elif _equal(left, right) != isinstance(op, ast.Eq | ast.Is):
                return False
            left, left_node = right, other
        return True

    def _number(self, node: ast.expr, values: Mapping[str, Value]) -> int | float:
        found = self.compute(node, values)
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise self._no_number(node, found)
        return found

    def _no_number(self, node: ast.expr, value: object) -> ExpressionError:
        what = "nothing (null)" if value is None else repr(value)
        name = ast.get_source_segment(self._text, node) or "this"
        if value is None and isinstance(node, ast.Name):
            return self.error(
                node, f"{name} can be null, which has no size; write {name} is None or …"
            )
        return self.error(node, f"{name} is {what}, not a number")

    def _bounded(self, node: ast.expr, action: Callable[..., Any], *numbers: int | float) -> Any:
        try:
            found = action(*numbers)
        except ZeroDivisionError:
            raise self.error(node, "divides by zero") from None
        except (OverflowError, ValueError):
            found = math.nan
        if isinstance(found, complex) or not abs(found) <= MAX_NUMBER:
            given = ", ".join(f"{number:g}" for number in numbers)
            raise self.error(node, f"has no value, or one that is too large, for {given}")
        return found

    def error(self, node: ast.AST, message: str) -> ExpressionError:
        raw = int(getattr(node, "col_offset", 0))
        # Python counts bytes of UTF-8.
        column = len(self._text.encode()[:raw].decode(errors="ignore"))
        return ExpressionError(f"{_at(self._text, column)} {message}")


def _is_condition(node: ast.AST) -> bool:
    match node:
        case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
            return True
        case ast.Constant(value=value):
            return isinstance(value, bool)
        case _:
            return False


def _equal(one: object, other: object) -> bool:
    """True and 1 differ, 1 and 1.0 don't."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _text_against_name(name: ast.expr, other: ast.expr) -> list[tuple[str, str, int]]:
    if not isinstance(name, ast.Name):
        return []
    inside = other.elts if isinstance(other, ast.List | ast.Tuple | ast.Set) else [other]
    return [
        (name.id, one.value, one.col_offset)
        for one in inside
        if isinstance(one, ast.Constant) and isinstance(one.value, str)
    ]


def _single_equals(text: str) -> bool:
    bare = text
    for pair in ("==", "!=", "<=", ">="):
        bare = bare.replace(pair, "  ")
    return "=" in bare


def _at(text: str, column: int) -> str:
    """Where in the text: its position, from 1, and what stands there."""
    rest = text[max(0, column) :].strip()[:20]
    return f"at position {column + 1} ('{rest}'):" if rest else "at its end:"
