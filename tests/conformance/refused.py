"""Every bad input sent to a server, with the time that each answer took."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.settings import Settings
from orchestrator.store import migrate
from tests.fixtures.bad_bytes import BYTES, exchanged
from tests.fixtures.bad_places import make_places
from tests.fixtures.bad_requests import (
    BadInput,
    bad_places,
    bad_requests,
    fault_of,
    never_opened,
    send,
)
from tests.fixtures.doors import UNLIMITED
from tests.integration.api.conftest import Api, LiveServer, make_api

ROOT = Path(__file__).parents[2]
SOON = 1.0
"""Seconds in which each has to be answered."""

NAMED: dict[str, Sequence[str]] = {
    "YAML bombs": (
        *("aliases that multiply", "an alias of itself", "an alias of its own mapping"),
        *("merge keys that multiply", "ten thousand anchors", "too many values"),
    ),
    "grids of 10⁹ and more": (
        *("a grid of 10^9", "a grid of 10^18 under constraints", "a million million trials"),
    ),
    "depth of 10⁵": (
        *("depth in JSON", "depth in JSON, closed", "depth by brackets", "depth by braces"),
        *("depth by dashes", "depth by question marks", "depth by objects"),
    ),
    "NUL": (
        *("NUL", "NUL in a key", "NUL in YAML", "an escaped NUL in YAML", "an encoded NUL"),
        *("a path with NUL", "a cursor of NUL", "an expression with NUL", "a header with NUL"),
    ),
    "bidirectional text": (
        *("text turned around in the name", "text isolated in the name", "a path turned around"),
        *("an id turned around", "a token with a script"),
    ),
    "`..`": (
        *("a step up", "a path up", "a path up at its end", "a path from nowhere", "a model up"),
        *("a template up", "tasks up", "questions up", "a store up", "a revision that steps up"),
        *("a hub id with a step up", "code of a step up", "a step up from the root"),
    ),
    "`%2e`": (
        *("an encoded step up", "a step up, encoded twice", "a model with an escape"),
        *("an encoded step up from the root", "a recipe of another tree"),
    ),
    "`#`": (
        *("a fragment", "an encoded fragment", "a model with a fragment"),
        *("a judge with a fragment",),
    ),
    "links out of the roots": (
        *("a link to a file outside", "a file in a linked folder", "a link to a link outside"),
        *("a link up and down again", "a template by a link", "a model by a link"),
        *("tasks by a link", "questions by a link"),
    ),
    "addresses inside the network (SSRF)": (
        *("a judge on loopback", "a judge on loopback in one number", "a judge in a cluster"),
        *("a judge on loopback in IPv4 in IPv6", "a judge on the metadata service"),
        *("a judge on the metadata service by NAT64", "a judge in a private network"),
        *("a webhook on loopback", "a webhook on the metadata service", "a webhook of a file"),
        *("a path on the web", "a store on the web"),
    ),
    "a rebound name of the server": ("another host", "an address in full elsewhere"),
    "scripts in names": (
        *("a script in the name", "an image in the name", "a script in the name of a set"),
        *("a script as an id", "a header in the name"),
    ),
    "huge numbers": (
        *("1e400", "a number of 5,000 digits", "2^63", "trials of 2^63", "a rate of 1e308"),
        *(
            "1e400 in YAML",
            "a number of many digits in YAML",
            "a hexadecimal number of many digits",
        ),
        *("a tower of powers", "a token of many digits", "events after 10^400"),
        *("a length of many digits", "a project with a weight of 1e400"),
    ),
    "NaN and infinity": (
        *("no number", "an infinity", "an infinity below", "no number in YAML"),
        *("an infinity in YAML", "a limit of NaN", "a project with a quota of NaN"),
    ),
}
"""What has to be among them, by name."""

CONNECTIONS = {
    "a webhook's redirect is not followed": (
        "tests/integration/webhooks/test_sending.py::test_redirects_are_not_followed"
    ),
    "a webhook's name that resolves to something else the second time (rebinding)": (
        "tests/integration/webhooks/test_sending.py"
        "::test_a_name_that_answers_differently_the_second_time_wins_nothing"
    ),
    "a webhook's name one of whose addresses is private": (
        "tests/integration/webhooks/test_sending.py"
        "::test_one_private_address_of_a_name_is_enough_to_refuse_it"
    ),
    "a judge's name that leads inside when the connection is made; no redirects": (
        "tests/unit/orchestrator/admission/test_confinement.py"
        "::test_a_name_that_leads_inside_is_refused_when_the_connection_is_made"
    ),
    "a link that is turned between the look and the use": (
        "tests/unit/trainer/test_roots.py"
        "::test_a_link_turned_between_the_look_and_the_use_is_noticed"
    ),
}
"""What can only be refused when a connection or a file is opened: the test that shows it."""


@dataclass(frozen=True)
class Refusal:
    family: str
    name: str
    status: int
    """0: the connection was closed."""
    seconds: float
    fault: str | None


@dataclass
class Refusals:
    answers: list[Refusal] = field(default_factory=list)
    connections: dict[str, bool] = field(default_factory=dict)
    """What is refused later, and whether its test passed."""

    @property
    def faults(self) -> list[str]:
        wrong = [f"{r.name}: {r.fault}" for r in self.answers if r.fault is not None]
        return wrong + [
            f"{what}: its test fails" for what, ok in self.connections.items() if not ok
        ]

    def named(self, what: str) -> list[Refusal]:
        """The answers to what NAMED lists. KeyError if one is not among them."""
        known = {refusal.name: refusal for refusal in self.answers}
        return [known[name] for name in NAMED[what]]


def refused() -> Refusals:
    """Send all of them."""
    found = Refusals()
    with tempfile.TemporaryDirectory(prefix="winnow-conformance-") as scratch:
        folder = Path(scratch)
        for api in _server(folder / "open", UNLIMITED):
            found.answers += _sent(api, bad_requests())
        root, settings = make_places(folder / "files")
        for api in _server(folder / "confined", UNLIMITED | settings):
            found.answers += _sent(api, bad_places(root))
        found.answers += _bytes_sent(folder / "bytes")
    found.connections = _connections()
    return found


def _server(folder: Path, settings: Mapping[str, Any]) -> Iterator[Api]:
    folder.mkdir()
    url = f"sqlite:///{folder}/winnow.db"
    migrate(url)
    yield from make_api(url, folder / "home", never_opened, settings=settings)


def _sent(api: Api, inputs: Sequence[BadInput]) -> Iterator[Refusal]:
    api.http.get("/v1/sweeps")  # the first request imports and connects
    api.http.post("/v1/sweeps:validate", json={})
    for bad in inputs:
        answer = send(api, bad)
        fault = fault_of(answer, bad.at) or _late(answer.seconds)
        yield Refusal(bad.family, bad.name, answer.status, answer.seconds, fault)
    if api.store.list_sweeps().items:
        yield Refusal("afterwards", "what was kept", 0, 0.0, "a sweep was made")


def _bytes_sent(folder: Path) -> Iterator[Refusal]:
    folder.mkdir()
    url = f"sqlite:///{folder}/winnow.db"
    migrate(url)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = LiveServer(Settings(home=folder / "home", database_url=url, **UNLIMITED), port)
    server.start()
    try:
        exchanged(port, b"GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", server.token)
        for name, sent in BYTES.items():
            began = time.monotonic()
            answer = exchanged(port, sent, server.token)
            seconds = time.monotonic() - began
            status = int(answer.split(b" ")[1]) if answer else 0
            fault = None if status == 0 or 400 <= status < 500 else f"{answer[:200]}"
            yield Refusal(
                "bytes that are no request", name, status, seconds, fault or _late(seconds)
            )
    finally:
        server.stop()


def _late(seconds: float) -> str | None:
    return f"answered after {seconds:.2f} s" if seconds >= SOON else None


def _connections() -> dict[str, bool]:
    """Run the tests of CONNECTIONS."""
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *CONNECTIONS.values()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()

    def passed(test: str) -> bool:
        said = [line for line in lines if line.split(" ")[1:2] and test in line.split(" ")[1]]
        return bool(said) and all(line.startswith("PASSED ") for line in said)

    return {what: passed(test) for what, test in CONNECTIONS.items()}
