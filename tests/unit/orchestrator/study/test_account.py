"""When the scheduler's account of its evidence is stored, and what never gets out of it."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.study.account import Account


class Talkative:
    """A scheduler whose account is what the test says."""

    def __init__(self, said: Any) -> None:
        self.said = said
        self.asked = 0

    def summary(self) -> dict[str, Any]:
        self.asked += 1
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


def test_it_is_stored_when_it_has_changed_and_no_second_time():
    now = [0.0]
    scheduler = Talkative({"n": 1})
    account = Account(scheduler, clock=lambda: now[0])
    account.touch()
    assert account.news() == {"n": 1}
    now[0] = 10.0
    account.touch()
    assert account.news() is None, "it says the same"
    scheduler.said = {"n": 2}
    assert account.news() is None, "nothing happened since it was asked"
    now[0] = 20.0
    account.touch()
    assert account.news() == {"n": 2}


def test_it_is_asked_for_at_most_once_a_second_but_always_at_the_end():
    now = [0.0]
    scheduler = Talkative({"n": 1})
    account = Account(scheduler, clock=lambda: now[0])
    for step in range(100):
        now[0] = step / 100
        scheduler.said = {"n": step}
        account.touch()
        account.news()
    assert scheduler.asked == 1
    now[0] = 1.0
    assert account.news() == {"n": 99}, "what was not told then is told as soon as it may be"
    scheduler.said = {"n": "last"}
    assert account.news(last=True) == {"n": "last"}


def test_numbers_that_no_database_takes_become_null():
    account = Account(
        Talkative({"p": math.nan, "interval": (0.0, math.inf), "by": {1: [-math.inf]}})
    )
    account.touch()
    assert account.news() == {"p": None, "interval": [0.0, None], "by": {"1": [None]}}


def test_a_scheduler_that_fails_at_it_is_asked_no_more_and_ends_nothing(caplog):
    scheduler = Talkative(ZeroDivisionError("a bug"))
    account = Account(scheduler)
    for _ in range(3):
        account.touch()
        assert account.news(last=True) is None
    assert scheduler.asked == 1
    assert "could not sum up" in caplog.text


def test_a_scheduler_without_an_account_has_none():
    account = Account(object())
    account.touch()
    assert account.news(last=True) is None
