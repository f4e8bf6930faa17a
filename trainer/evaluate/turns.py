"""Ranks that work through lists of their own, and hear the user between two items.

Evaluation takes minutes, and ranks have unequal numbers of batches. After each batch all ranks
vote: is anyone asked to pause or stop, has anyone failed, has anyone work left. So a wish is heard
within one batch, and no rank waits for one that has left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import Any, Literal, TypeVar

from trainer import engine
from trainer.errors import TrainerError, as_failure
from trainer.metrics import Failure

T = TypeVar("T")
Verdict = Literal["pause", "stop"]
Control = Callable[[], Literal["go", "pause", "stop"]]


class Interrupted(Exception):
    """The user asked to pause or stop (`verdict`) during an evaluation. Raised on every rank."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict)
        self.verdict: Verdict = verdict


class OtherRankFailed(TrainerError):
    """Another rank failed; its words, and its failure code."""

    def __init__(self, failure: Failure, rank: int) -> None:
        super().__init__(failure, rank)
        self.failure = failure
        self.rank = rank
        self.code = failure.code

    def __str__(self) -> str:
        return f"{self.failure.message} (rank {self.rank})"


def in_step(
    items: Iterable[T], work: Callable[[T], object], control: Control | None = None
) -> None:
    """Do `work` on each of this rank's `items`. All ranks call together, with items of their own.

    Args:
        items: this rank's; fetched one by one, and none after the last is done.
        work: called for one item at a time; not the place for collective operations, unless all
            ranks have equally many items.
        control: asked before each item. `work` may ask it too, see `heed`.

    Raises:
        Interrupted: some rank's control answered pause or stop, or its `work` raised this; a stop
            outweighs a pause.
        Exception: this rank's `items`, `work` or `control` raised it.
        OtherRankFailed: that happened on another rank only.
    """
    error: Exception | None = None
    wish, item, waiting = "go", _END, iter(items)
    try:
        item = next(waiting, _END)
    except Exception as raised:
        error = raised
    while True:
        if error is None and wish == "go" and control is not None:
            try:
                wish = control()
            except Exception as raised:
                error = raised
        stop, pause, failed, busy = engine.sum_over_ranks(
            wish == "stop", wish == "pause", error is not None, item is not _END
        )
        if failed:
            raise _shared(error)
        if stop or pause:
            raise Interrupted("stop" if stop else "pause")
        if not busy:
            return
        if item is not _END:
            try:
                work(item)
                item = next(waiting, _END)
            except Interrupted as heard:  # on this rank; the others hear it in the next vote
                wish = heard.verdict
            except Exception as raised:
                error = raised


def heed(control: Control | None) -> Callable[[], None] | None:
    """For long `work` on one item: asks `control`, and breaks off if it answers pause or stop."""
    if control is None:
        return None

    def ask() -> None:
        wish = control()
        if wish != "go":
            raise Interrupted(wish)

    return ask


_END: Any = object()
_TICK = 0.5
"""Seconds between two votes while `meanwhile` waits."""


def _shared(mine: Exception | None) -> Exception:
    told = engine.gather(as_failure(mine) if mine is not None else None)
    if mine is not None:
        return mine
    rank = next(rank for rank, failure in enumerate(told) if failure is not None)
    return OtherRankFailed(told[rank], rank)


def meanwhile(work: Callable[[], T] | None, control: Control | None = None) -> T | None:
    """The result of `work`, run in a thread of its own while all ranks go on voting.

    For what waits on a disk or a network: the other ranks don't run into their time limit, and the
    user is heard twice a second. All ranks call together; a rank with `work` None only votes.

    Raises:
        as `in_step`. An interrupted `work` is left to itself.
    """
    outcome: Future[T] = Future()
    if work is None:
        in_step([], lambda _: None, control)
        return None

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    def ticks() -> Iterator[None]:
        while not wait([outcome], timeout=_TICK).done:
            yield
        outcome.result()  # raises here what `work` raised, so that all ranks hear of it

    threading.Thread(target=run, daemon=True, name="evaluate-meanwhile").start()
    in_step(ticks(), lambda _: None, control)
    return outcome.result()
