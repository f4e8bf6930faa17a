"""What of an answer is compared: all of it, its last number, a pattern's match, or a letter.

Reference and answer go through the same extractor. Numbers are compared by value, so "1,000" is
"$1,000.00"; letters and other text as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any

from trainer.config import Extract
from trainer.errors import ConfigError

REGEX_SECONDS = 1.0
"""Longest that a user's pattern may take on one answer."""
REGEX_PATIENCE = 3
"""How many answers of a set may exceed that before the pattern is refused."""


class Extractor:
    """Takes from answers what is compared.

    Args:
        how: kind, and for `regex` the pattern.
        pointer: JSON pointer of `how` in the configuration, for errors.

    Raises:
        ConfigError: the pattern can't be used.
    """

    def __init__(self, how: Extract, pointer: str = "") -> None:
        self.kind = how.kind
        self._pointer = pointer
        self._timeouts = 0
        self._pattern: Any = None
        if how.kind == "regex":
            self._pattern = _compile(how.pattern or "", pointer)

    def __call__(self, answer: str) -> str | None:
        """What is compared of `answer`, in a normal form; None if there is nothing.

        Raises:
            ConfigError: the pattern took too long too often.
        """
        if self.kind == "regex":
            return self._last_match(answer)
        return _KINDS[self.kind](answer)

    def agree(self, answer: str, reference: str) -> bool:
        """Whether `answer` is right. One in which nothing is found is wrong."""
        found = self(answer)
        return found is not None and found == self(reference)

    def _last_match(self, answer: str) -> str | None:
        last = None
        try:
            for last in self._pattern.finditer(answer, timeout=REGEX_SECONDS):  # noqa: B007
                pass
        except TimeoutError:
            self._timeouts += 1
            if self._timeouts > REGEX_PATIENCE:
                raise ConfigError(
                    f"extract: the pattern {self._pattern.pattern!r} takes more than "
                    f"{REGEX_SECONDS:g} s on an answer; avoid nested repetition such as (a+)+",
                    self._pointer,
                ) from None
            return None
        if last is None:
            return None
        groups = [group for group in last.groups() if group is not None]
        if self._pattern.groups:
            return groups[0].strip() if groups else None
        return last.group().strip()


def reference_problem(how: Extract, references: Iterable[str], sample: int = 1000) -> str | None:
    """Why a set can't be judged with `how`, or None: in none of its references is anything found.

    Args:
        how: the set's extractor.
        references: its reference answers; the first `sample` are looked at.
    """
    extractor = Extractor(how)
    seen = 0
    for reference in islice(references, sample):
        if extractor(reference) is not None:
            return None
        seen += 1
    if not seen:
        return None
    what = {"regex": f"match of {how.pattern!r}", "choice": "letter", "last_number": "number"}
    return (
        f"extract finds no {what.get(how.kind, 'text')} in any of the first {seen:,} reference "
        "answers, so every answer would count as wrong; choose another kind of extract"
    )


def _compile(pattern: str, pointer: str) -> Any:
    import regex  # like re, with a time limit; transformers depends on it

    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise ConfigError(f"extract: the pattern can't be used: {error}", pointer) from None


# --- whole ------------------------------------------------------------------------------------


def _whole(answer: str) -> str | None:
    return answer.strip() or None


# --- numbers ----------------------------------------------------------------------------------

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = re.compile(
    rf"""
    (?<![\w.])(?P<sign>[-+])?[$€£¥]?(?P<inner>[-+])?   # -5, -$5, $-5; but 10-5 ends in 5
    (?P<value>{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)(?P<power>[eE][-+]?[0-9]{{1,3}}(?![\w.]))?
    |
    (?P<plain>{_DIGITS}(?:\.[0-9]+)?)                  # glued to a word: x5, v1.5, 10-5
    """,
    re.VERBOSE,
)


def _last_number(answer: str) -> str | None:
    # GSM8K marks the answer; what follows the number there is not part of it.
    _, marked, after = answer.rpartition("####")
    text = after if marked else answer
    # LaTeX writes 1{,}000 and 1,\!000; a minus may be U+2212.
    text = text.replace("{,}", ",").replace("\\!", "").replace("\\$", "$").replace("\u2212", "-")
    found = list(_NUMBER.finditer(text))
    if not found:
        return _last_number(answer.replace("####", " ")) if marked else None
    match = found[0] if marked else found[-1]
    digits = (match["value"] or match["plain"]).replace(",", "")
    negative = "-" in ((match["sign"] or "") + (match["inner"] or ""))
    try:
        value = Decimal(("-" if negative else "") + digits + (match["power"] or ""))
    except InvalidOperation:
        return None
    if not value:
        return "0"
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


# --- choices ----------------------------------------------------------------------------------

_WRAPPED = r"[\s*_`\"'(\[{{$]*(?:\\(?:boxed|text|mathbf|textbf)\{{[\s(]*)*\(?"
_LETTER = r"(?P<letter>[A-Z])(?![\w'’])"
_AFTER_ANSWER = re.compile(
    r"\b(?i:answer|option|choice)\b(?i:[^.\n]{0,40}?\b(?:is|be|was|are)\b|\s*[:=-]|)"
    + _WRAPPED.replace("{{", "{").replace("}}", "}")
    + r"(?i:(?:option|choice|letter)\s*)?[\s*(]*"
    + _LETTER
)
_MARKED = re.compile(
    r"(?:\*\*|__|\\boxed\{|\\text\{)\s*\(?(?P<letter>[A-Z])[).:]?\s*(?:\*\*|__|\}|(?<=[.):])\s)"
)
_LEADING = re.compile(r"\s*[(\[]?(?P<letter>[A-Z])(?:[)\].:,]|\s*$)")
_OWN_LINE = re.compile(r"^[\s(\[*]*(?P<letter>[A-Z])[)\].:*\s]*$", re.MULTILINE)
_BRACKETED = re.compile(r"\((?P<letter>[A-Z])\)")
_ALONE = re.compile(r"[\s(\[*\"'`]*(?P<letter>[A-Za-z])[)\].:*\"'`\s]*")


def _choice(answer: str) -> str | None:
    alone = _ALONE.fullmatch(answer)
    if alone:
        return alone["letter"].upper()
    for pattern in (_AFTER_ANSWER, _MARKED):
        last = _last(pattern, answer)
        if last:
            return last
    leading = _LEADING.match(answer)
    if leading:
        return leading["letter"]
    return _last(_OWN_LINE, answer) or _last(_BRACKETED, answer)


def _last(pattern: re.Pattern[str], answer: str) -> str | None:
    letter = None
    for match in pattern.finditer(answer):
        letter = match["letter"]
    return letter


_KINDS: dict[str, Callable[[str], str | None]] = {
    "whole": _whole,
    "last_number": _last_number,
    "choice": _choice,
}
