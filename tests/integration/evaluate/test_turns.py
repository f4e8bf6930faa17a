"""Work between votes: done in order, broken off by a wish, its errors as they were raised."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from trainer.errors import DataError
from trainer.evaluate.turns import Interrupted, OtherRankFailed, heed, in_step, meanwhile
from trainer.metrics import Failure

pytestmark = [pytest.mark.deepspeed, pytest.mark.usefixtures("process_group")]


def wishes(*answers: str) -> Any:
    given = iter(answers)
    return lambda: next(given, "go")


def test_each_item_is_worked_on_in_order() -> None:
    done: list[int] = []
    in_step(iter(range(4)), done.append, wishes())
    in_step([], done.append, None)
    assert done == [0, 1, 2, 3]


@pytest.mark.parametrize("wish", ["pause", "stop"])
def test_a_wish_is_heard_before_the_next_item(wish: str) -> None:
    done: list[int] = []
    with pytest.raises(Interrupted) as heard:
        in_step(range(4), done.append, wishes("go", "go", wish))
    assert (done, heard.value.verdict) == ([0, 1], wish)


def test_a_wish_heard_within_an_item_breaks_it_off() -> None:
    done: list[int] = []
    ask = heed(wishes("stop"))
    assert ask is not None

    def work(item: int) -> None:
        ask()
        done.append(item)

    with pytest.raises(Interrupted, match="stop"):
        in_step(range(4), work)
    assert done == []
    assert heed(None) is None


def test_what_work_items_or_control_raise_comes_through() -> None:
    def fail(*_: Any) -> Any:
        raise DataError("torn", "some.jsonl", 3)

    def broken() -> Iterator[int]:
        yield 1
        fail()

    for attempt in (
        lambda: in_step([1], fail),
        lambda: in_step(broken(), print),
        lambda: in_step([1], print, fail),
        lambda: meanwhile(fail),
    ):
        with pytest.raises(DataError, match=r"some.jsonl, line 3: torn"):
            attempt()


def test_another_ranks_failure_keeps_its_words_and_its_code() -> None:
    error = OtherRankFailed(Failure("oom", "out of memory"), 3)
    assert (str(error), error.code) == ("out of memory (rank 3)", "oom")


def test_work_aside_gives_its_result_and_the_user_is_heard_while_it_lasts() -> None:
    assert meanwhile(lambda: 42, wishes()) == 42
    assert meanwhile(None, wishes()) is None
    held = threading.Event()
    try:
        with pytest.raises(Interrupted, match="pause"):
            meanwhile(lambda: held.wait(60), wishes("go", "pause"))
    finally:
        held.set()
