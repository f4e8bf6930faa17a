"""The receiver of docs/guide-webhooks.md takes what winnow sends, once, and nothing else."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.webhooks.addresses import Policy
from orchestrator.webhooks.schedule import DELAYS
from orchestrator.webhooks.sending import Sender
from orchestrator.webhooks.signing import new_secret
from winnow.webhooks import EVENTS, PING

PAGE = (Path(__file__).parents[3] / "docs" / "guide-webhooks.md").read_text("utf-8")
SECRET = new_secret()


@dataclass(frozen=True)
class Message:
    url: str
    id: str = "msg_1"
    body: str = '{"type":"webhook.ping","data":{"name":"größer"}}'
    kind: str = PING
    keys: tuple[str, ...] = (SECRET,)


@dataclass
class Running:
    url: str
    process: subprocess.Popen[str]


@pytest.fixture
def running(eventually: Callable[..., None]) -> Iterator[Running]:
    """The page's receiver, as a program of its own."""
    (program,) = re.findall(r"```python\n(import base64.*?)```", PAGE, re.DOTALL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"WEBHOOK_SECRET": SECRET, "PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    eventually(listens)
    yield Running(f"http://127.0.0.1:{port}/", process)
    process.kill()
    if process.stdout is not None and not process.stdout.closed:
        process.communicate()


def test_the_receiver_takes_what_is_signed_and_tells_it_once(running: Running) -> None:
    sender, late = Sender(Policy.parse("127.0.0.1")), time.time() - 1000
    message = Message(running.url)
    assert sender.send(message).status == 204
    assert sender.send(message).status == 204
    assert sender.send(replace(message, id="msg_2", keys=(new_secret(), SECRET))).status == 204
    assert sender.send(replace(message, id="msg_3", keys=(new_secret(),))).status == 401
    old = Sender(Policy.parse("127.0.0.1"), clock=lambda: late)
    assert old.send(replace(message, id="msg_4")).status == 401
    running.process.kill()
    told, _ = running.process.communicate()
    assert told.split() == [PING, PING]


def test_the_page_names_every_type_and_the_delays() -> None:
    named = re.findall(r"^\| `([a-z.]+)` \|", PAGE, re.MULTILINE)
    assert named == [*EVENTS, PING]
    (text,) = re.findall(r"After ([^(]*?) \(each", PAGE)
    units = {"s": 1, "min": 60, "h": 3600}
    told = [int(n) * units[unit] for n, unit in re.findall(r"(\d+) (s|min|h)", text)]
    assert told == list(DELAYS)
