"""Whose a key is, and for how long."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.store import Answer, Once, Store


def answer(result: Any) -> Answer:
    return Answer(201, {}, '{"id":"made"}')


def claim(store: Store, principal: str = "token:1", request: str = "f") -> Any:
    return store.requests.claim(principal, "the-first", request, answer)


def kept(store: Store, once: Any) -> None:
    assert isinstance(once, Once)
    store._db.transact(lambda session: once.keep(session, None))


def test_a_key_is_of_the_one_who_sent_it(store: Store) -> None:
    """Others can send the same one: they have their own effect, and see nobody's answer."""
    kept(store, claim(store))
    assert isinstance(claim(store, "token:2", "another"), Once)
    assert claim(store, "token:2", "another") == "in-flight"
    assert claim(store) == Answer(201, {}, '{"id":"made"}')


def test_a_key_is_kept_for_a_day(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(store, claim(store))
    assert claim(store, request="another") == "different"
    monkeypatch.setattr("orchestrator.store.idempotency.KEPT_SECONDS", -1.0)  # a day later
    assert isinstance(claim(store, request="another"), Once)


def test_what_is_too_old_is_forgotten_and_nothing_else(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(store, claim(store))
    monkeypatch.setattr("orchestrator.store.requests.TRIM_SECONDS", -1.0)  # at every claim
    claim(store, "token:2")
    assert isinstance(claim(store), Answer)
