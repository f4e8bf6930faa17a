"""Conditions are read without running code; what is wrong is named with its position."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.expression import MAX_LENGTH, ExpressionError, parse

VALUES = {"a": 2, "b": 0.5, "name": "linear", "nothing": None, "on": True}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a * b < 1.5", True),
        ("a * b < 1", False),
        ("0 < b < a <= 2", True),
        ("0 < a < b", False),
        ("name == 'linear'", True),
        ("name != 'linear' or a // 2 == 1", True),
        ("name in ['cosine', 'linear'] and not a > 2", True),
        ("name not in ('cosine', 'linear')", False),
        ("nothing is None", True),
        ("nothing is not None", False),
        ("nothing == None and a != None", True),
        ("on == True and on != 1", True),  # unlike Python's
        ("log10(b * 2) == 0 and log2(a) == 1 and sqrt(a + 2) == a", True),
        ("log(a) > 0.69 and abs(-a) == a and round(b + 0.1, 1) == 0.6", True),
        ("min(a, b) == b and max(a, b, 1) == a", True),
        ("a ** -1 == b and 7 % 4 == 3 and a == 2", True),
        ("-a < +b", True),
        ("name is None or a / 0 > 1 or True", None),
    ],
)
def test_an_expression_means_what_it_says(text: str, expected: bool | None) -> None:
    expression = parse(text)
    if expected is None:
        with pytest.raises(ExpressionError, match="divides by zero"):
            expression.holds(VALUES)
    else:
        assert expression.holds(VALUES) is expected


def test_a_part_that_does_not_matter_is_not_computed() -> None:
    assert not parse("a != 2 and 1 / (a - 2) > 3").holds(VALUES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = 1", r"at position 3.*write == to compare"),
        ("a <", r"at its end"),
        ("a.real < 1", r"at position 1 \('a.real < 1'\): dots"),
        ("1 < a[0]", r"at position 5"),
        ("__import__('os').system('x') < 1", r"can't be called|dots"),
        ("open('x') == 1", r"open can't be called; there are min, max"),
        ("a < max(b)", r"at position 5.*max takes 2 to 20 numbers, got 1"),
        ("min < 1", r"min is a function: write min\(…\)"),
        ("a + 1", r"is a value, not a condition"),
        ("a and b", r"at position 1.*and, or take conditions"),
        ("not a", r"at position 5.*not takes a condition"),
        ("1 < 2", r"names no parameter"),
        ("'x' * 3 == name", r"at position 1.*text can only be compared"),
        ("a in name", r"at position 6.*after in goes a list"),
        ("a is 2", r"write == instead of is"),
        ("a if b else 1", r"this isn't allowed"),
        ("[x for x in a] == 1", r"this isn't allowed"),
        ("(lambda: a)() < 1", r"can't be called"),
        ("f'{a}' == name", r"this isn't allowed"),
        ("(a := 1) < 2", r"this isn't allowed"),
        ("a << 2 < 1", r"this isn't allowed"),
        ("a < 1e999", r"number is too large"),
        ("a < 1j", r"write a number"),
        ("(" * 300 + "a < 1" + ")" * 300, r"characters; 500 are the most"),
        ("-" * 200 + "a < 1", r"too long or nested too deeply"),
        (" + ".join(["a"] * 120) + " < 1", r"too long or nested too deeply"),
        ("ü < 1 and a.b", r"at position 11"),
        ("a < 1\x00", r"can't be read"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ExpressionError, match=said):
        parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing < 1", r"nothing can be null.*write nothing is None or"),
        ("name < 1", r"at position 1.*name is 'linear', not a number"),
        ("name + 1 < 1", r"name is 'linear', not a number"),
        ("on + 1 < 3", r"on is True, not a number"),
        ("a < log(b - 1)", r"at position 5.*has no value"),
        ("(b - 1) ** 0.5 < 1", r"has no value"),
        ("a ** 999 ** 9 > 1", r"too large"),
        ("1e99 * 1e99 > a", r"too large"),
    ],
)
def test_what_cannot_be_computed_says_why(text: str, said: str) -> None:
    with pytest.raises(ExpressionError, match=said):
        parse(text).holds(VALUES)


@pytest.mark.parametrize(
    "text", ["a" + " ** 9" * 28 + " < 1", "9" * 99 + " * a" * 25 + " > 0", "round(a, 9 ** 90) < 1"]
)
def test_the_worst_that_fits_is_read_and_computed_at_once(text: str) -> None:
    """Python itself would never end."""
    for _ in range(100):
        with contextlib.suppress(ExpressionError):
            parse(text).holds({"a": 9e99})


@given(st.text(max_size=MAX_LENGTH + 5))
@settings(max_examples=300, deadline=None)
def test_no_text_does_anything_but_be_read_or_refused(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        parse(text).holds(dict.fromkeys(parse(text).names, 1))
