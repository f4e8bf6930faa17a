"""Trials over several nodes, a node that dies, and GPUs that are pretended: on a real Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store import Store
from orchestrator.supervision.grants import needs_of
from orchestrator.supervision.placement import Node, most_that_fit
from winnow.service import ClusterNode
from winnow.types import SweepState, TrialState

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed, pytest.mark.timeout(900)]


def run(scenario: str, folder: Path) -> tuple[dict[str, Any], Store]:
    """What the scenario saw, and the database that it left."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fixtures.nodes", scenario, str(folder)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=880,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1]), Store(f"sqlite:///{folder / 'winnow.db'}")


def test_a_trial_over_two_nodes_goes_on_on_what_is_left_when_one_dies(tmp_path: Path) -> None:
    seen, store = run("lose-a-node", tmp_path)
    assert len(set(seen["placed"])) == 2
    assert [node["cpus"] for node in seen["before"]] == [0, 1, 1, 1]
    assert [node["cpus"] for node in seen["after"]] == [0, 1, 1]
    sweep = store.get_sweep(seen["sweep"])
    assert sweep.state is SweepState.COMPLETED
    (row,) = [t for t in store.sweep_rows(sweep.id).trials if t.kind == "search"]
    assert row.state is TrialState.COMPLETED
    assert row.attempts[0].reason == "infrastructure"
    assert row.attempts[-1].resumed_from is not None
    assert row.attempts[-1].first_step > 1
    assert [step.step for step in row.steps] == list(range(1, 121))
    store.close()


def test_trials_on_pretended_gpus_never_share_one_and_never_outnumber_them(tmp_path: Path) -> None:
    seen, store = run("gpus", tmp_path)
    (node,) = seen["nodes"]
    assert node == {"cpus": 6.0, "gpus": 4.0}
    # While trials ran: two at most, each with two GPUs.
    machine = ClusterNode.model_validate(seen["machines"][0])
    assert (machine.state, machine.cpus, machine.gpus) == ("alive", 6.0, 4.0)
    assert machine.held_gpus == 2 * machine.groups
    assert 1 <= machine.groups <= 2
    sweep = store.get_sweep(seen["sweep"])
    # The share that such a cluster would give the sweep: two trials of two GPUs.
    assert most_that_fit([Node(**node)], needs_of(sweep.spec), limit=10) == 2
    assert sweep.state is SweepState.COMPLETED
    assert store.most_at_once(sweep.id) <= 2
    assert seen["looks"]
    for devices in seen["looks"]:
        assert len(devices) == len(set(devices)) <= 4
        assert set(devices) <= {"0", "1", "2", "3"}
    assert max(len(devices) for devices in seen["looks"]) == 4
    store.close()
