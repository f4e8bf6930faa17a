"""What a family of cases is given: where to work, on which databases, and what is done already."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import isolate
from tests.faults.isolate import Case, Result
from tests.faults.servers import Databases


@dataclass
class Context:
    """One run of the fault tests. `done` holds the ids of cases that an earlier run finished."""

    home: Path
    stores: Databases
    databases: tuple[str, ...]
    seed: int
    quick: bool
    at_once: int = 2
    done: frozenset[str] = frozenset()
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def run(self, cases: Iterable[Case], *, again: bool = False) -> Iterator[Result]:
        """Run those of `cases` that are not done yet; all of them with `again`."""
        left = [case for case in cases if again or case.id not in self.done]
        yield from isolate.run(left, self.stores, self.home / "cases", self.seed, self.at_once)


@dataclass(frozen=True)
class Family:
    """Cases of one kind. `results` runs those that are due, one result at a time."""

    name: str
    about: str
    """A sentence for the report: what is done, and what must hold."""
    results: Callable[[Context], Iterator[Result]]
    ray: bool = False
    """Whether it needs a real Ray."""


def simply(plan: Callable[[Context], Iterable[Case]]) -> Callable[[Context], Iterator[Result]]:
    """A family whose cases can be listed beforehand."""

    def results(context: Context) -> Iterator[Result]:
        yield from context.run(plan(context))

    return results
