"""Every route asked by everyone who must not, on one server (`tests/fixtures/doors.py`)."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.store import migrate
from tests.fixtures.doors import (
    MARK,
    UNLIMITED,
    Visit,
    bearer,
    lists,
    of_another_project,
    populated,
    routes,
    that_do_not_hold,
    without_the_scope,
)
from tests.integration.api.conftest import Api, files_are_fine, make_api
from winnow.types import Quota


@dataclass
class Walk:
    """Answers by who asked; a fault is one that should have been another."""

    routes: int = 0
    answers: dict[str, Counter[int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def visits(self) -> int:
        return sum(counts.total() for counts in self.answers.values())


def walked() -> Walk:
    """Walk over all routes of a server with three projects, on SQLite."""
    walk = Walk()
    with tempfile.TemporaryDirectory(prefix="winnow-conformance-") as folder:
        url = f"sqlite:///{folder}/winnow.db"
        migrate(url)
        for api in make_api(url, Path(folder) / "home", files_are_fine, settings=UNLIMITED):
            walk.routes = len(routes(api.app))
            for visit in _visits(api):
                walk.answers.setdefault(visit.who, Counter())[visit.status] += 1
                if visit.fault is not None:
                    method, path, _ = visit.route
                    walk.faults.append(f"{method} {path}, {visit.who}: {visit.fault}")
    return walk


def _visits(api: Api) -> Iterator[Visit]:
    ours, theirs = populated(api, "ours", "our-own"), populated(api, "theirs", MARK)
    api.store.add_project("neighbours", Quota())
    yield from that_do_not_hold(api, theirs)
    yield from without_the_scope(api, theirs)
    yield from of_another_project(api, theirs, bearer(api, "admin", project="neighbours"))
    for visit, _ in lists(api, ours, theirs, bearer(api, "admin", project="ours")):
        yield visit
