"""Where tokens stand, and whether a prompt has the tokens that it has alone."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from trainer.data.pieces import Borders, Pieces


@pytest.fixture(scope="module")
def looks_ahead() -> Any:
    """Its tokens depend on what follows them: `aa` is one token only before a `b`."""
    vocabulary = {"aa": 0, "a": 1, "b": 2, "c": 3, "<": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="c"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("a+(?=b)|."), "isolated")
    tokenizer.add_special_tokens(["<"])
    return tokenizer


def borders(tokenizer: Any) -> Borders:
    return Borders(lambda text: tokenizer.encode(text).ids, frozenset([4]))


def test_a_prompt_whose_own_tokens_differ_does_not_hold(looks_ahead: Any) -> None:
    for text, border, holds in (("<aab", 3, False), ("<aac", 3, True), ("aab", 2, False)):
        pieces = Pieces([(0, looks_ahead.encode(text))])
        assert not pieces.splits(border)
        assert borders(looks_ahead).holds(text, pieces, border) is holds


def test_a_border_within_a_token_does_not_hold(looks_ahead: Any) -> None:
    pieces = Pieces([(0, looks_ahead.encode("<aab"))])
    assert pieces.splits(2)
    assert not borders(looks_ahead).holds("<aab", pieces, 2)


def test_places_and_tokens_in_pieces(looks_ahead: Any) -> None:
    """The text is `aabca`, encoded as `aab` and `ca`."""
    pieces = Pieces([(0, looks_ahead.encode("aab")), (3, looks_ahead.encode("ca"))])
    assert pieces.ids == [0, 2, 3, 1]
    assert [pieces.at(char) for char in range(6)] == [0, 0, 1, 2, 3, 4]
    assert [pieces.begins(token) for token in range(4)] == [0, 2, 3, 4]
    assert pieces.span(1, 4) == (0, 3)
    assert pieces.span(3, 5) == (2, 4)
    assert pieces.span(0, 1) == (0, 1)
