"""The tokens of a text, by where they stand in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


class Pieces:
    """A text's tokens, encoded as a whole or in pieces.

    Args:
        encodings: for each piece, the character at which it begins and its `tokenizers.Encoding`.
    """

    def __init__(self, encodings: Iterable[tuple[int, Any]]) -> None:
        self.ids: list[int] = []
        self._parts: list[tuple[int, int, int, Any]] = []
        for start, encoding in encodings:
            self._parts.append((start, len(self.ids), len(encoding), encoding))
            self.ids += encoding.ids

    def at(self, char: int) -> int:
        """The first token that shows this character; the next one if none does."""
        for number in range(len(self._parts) - 1, -1, -1):
            start, base, count, encoding = self._parts[number]
            if char < start:
                continue
            if char == start:
                return base
            token = encoding.char_to_token(char - start)
            if token is not None:
                return base + token
            last = encoding.token_to_chars(count - 1) if count else None
            for position in range(char - start + 1, last[1] if last else 0):
                token = encoding.char_to_token(position)
                if token is not None:
                    return base + token
            return base + count
        return 0

    def begins(self, token: int) -> int:
        """The character at which a token begins."""
        for start, base, _, encoding in reversed(self._parts):
            if token >= base:
                return start + encoding.token_to_chars(token - base)[0]
        raise IndexError(token)

    def splits(self, char: int) -> bool:
        """Whether a token shows characters before and after this place."""
        token = self.at(char)
        return token < len(self.ids) and self.begins(token) < char

    def span(self, begin: int, end: int) -> tuple[int, int]:
        """First token, and one past the last, that show any of these characters."""
        return self.at(begin), self.at(end) + self.splits(end)


class Borders:
    """Whether the tokens before a place in a text are those that the text before it has alone.

    A tokenizer splits at added tokens before anything else, so what comes before the last one can't
    depend on what follows: only the rest, often the same few words, has to be tokenised again.
    """

    def __init__(self, encode: Callable[[str], list[int]], added: frozenset[int]) -> None:
        self._encode = encode
        self._added = added
        self._known: dict[str, list[int]] = {}

    def holds(self, text: str, pieces: Pieces, char: int) -> bool:
        """Whether a prompt that ends at `char` has the tokens that it has in `pieces`."""
        if pieces.splits(char):
            return False
        ids, end = pieces.ids, pieces.at(char)
        first = end
        while first > 0 and ids[first - 1] not in self._added:
            first -= 1
        first = max(first - 1, 0)
        start = pieces.begins(first) if first else 0
        return self._tokens(text[start:char]) == ids[first:end]

    def _tokens(self, text: str) -> list[int]:
        if len(text) > 100:
            return self._encode(text)
        if text not in self._known:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[text] = self._encode(text)
        return self._known[text]
