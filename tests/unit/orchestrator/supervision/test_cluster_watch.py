"""What is known of the cluster, from a process that talks, goes silent, or ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.supervision import cluster_watch
from orchestrator.supervision.cluster_watch import ClusterWatch
from orchestrator.supervision.placement import Node

TALKS = """
import json, sys, time
machine = {"name": "a", "address": "10.0.0.1", "state": "alive", "cpus": 6, "gpus": 0, "memory": 1,
    "held_cpus": 2, "held_gpus": 0, "groups": 1}
print(json.dumps({"total": {"CPU": 6.0}, "nodes": [{"cpus": 2.0, "gpus": 0.0}, {"cpus": 4.0}],
    "machines": [machine]}))
sys.stdout.flush()
open(sys.argv[1], "a").write("started ")
"""


@pytest.fixture
def watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], ClusterWatch]]:
    watches: list[ClusterWatch] = []
    monkeypatch.setattr(cluster_watch, "RESTART_SECONDS", 0.05)
    monkeypatch.setattr(cluster_watch, "STALE_SECONDS", 0.5)

    def watch(then: str) -> ClusterWatch:
        command = [sys.executable, "-c", TALKS + then, str(tmp_path / "starts")]
        monkeypatch.setattr(cluster_watch, "COMMAND", command)
        watches.append(ClusterWatch())
        return watches[-1]

    yield watch
    for each in watches:
        each.close()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_was_heard_is_told(watched: Callable[[str], ClusterWatch]) -> None:
    watch = watched("time.sleep(60)")
    wait_for(watch.nodes)
    assert watch.nodes() == [Node(2.0), Node(4.0)]
    assert watch.read() == {"CPU": 6.0}
    (machine,) = watch.machines()
    assert (machine.address, machine.cpus, machine.held_cpus) == ("10.0.0.1", 6.0, 2.0)


def test_one_that_goes_silent_is_started_anew(
    watched: Callable[[str], ClusterWatch], tmp_path: Path
) -> None:
    watch = watched("time.sleep(60)")
    wait_for(watch.nodes)
    wait_for(lambda: not watch.nodes())
    assert watch.machines() == []
    wait_for(lambda: watch.nodes() and (tmp_path / "starts").read_text().count("started") > 1)


def test_nothing_is_known_once_it_has_ended(
    watched: Callable[[str], ClusterWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_watch, "RESTART_SECONDS", 60.0)
    monkeypatch.setattr(cluster_watch, "STALE_SECONDS", 60.0)
    watch = watched("time.sleep(0.5)")
    wait_for(watch.nodes)
    wait_for(lambda: not watch.nodes())
