"""What the Ray cluster has: one JSON line every few seconds, for as long as somebody reads them.

    {"total": {"CPU": 8.0, "GPU": 4.0, "memory": 1e10}, "nodes": [{"cpus": 8.0, "gpus": 4.0}],
     "machines": [{"name": "gpu-1", "address": "10.0.0.5", "state": "alive", …}]}

Runs as a process of its own (`python -m orchestrator.raytune.cluster`), because a Ray client hangs
for a minute when its cluster goes away, and the orchestrator must not.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util import placement_group_table

from orchestrator.raytune.workers import die_with_parent
from orchestrator.settings import Settings


def main(every: float = 2.0) -> None:
    """Print what the cluster and its living nodes have again and again, until the parent ends."""
    die_with_parent()
    ray.init(
        address=Settings().ray_address,
        namespace="winnow",
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    while True:
        sys.stdout.write(json.dumps(look()) + "\n")
        sys.stdout.flush()
        time.sleep(every)


def look() -> dict[str, Any]:
    """What the cluster this process has joined has now."""
    total: dict[str, float] = dict.fromkeys(KEPT, 0.0)
    nodes: list[dict[str, float]] = []
    known = ray.nodes()
    for node in known:
        if node["Alive"]:
            has = node["Resources"]
            nodes.append({"cpus": has.get("CPU", 0.0), "gpus": has.get("GPU", 0.0)})
            for name in KEPT:
                total[name] += has.get(name, 0.0)
    nodes.sort(key=lambda node: (node["gpus"], node["cpus"]))  # Ray names no order
    return {"total": total, "nodes": nodes, "machines": _machines(known)}


def _machines(known: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All that are or were in the cluster, as `winnow.service.ClusterNode`, the living first; a
    dead one is left out once a living one has its address."""
    held = _held()
    found = [_machine(node, held.get(node["NodeID"], [])) for node in known]
    found.sort(key=lambda m: (m["state"], m["name"], m["address"]))
    alive = {m["address"] for m in found if m["state"] == "alive"}
    return [m for m in found if m["state"] == "alive" or m["address"] not in alive][:MOST]


def _machine(
    node: Mapping[str, Any], held: Sequence[tuple[str, Mapping[str, float]]]
) -> dict[str, Any]:
    has = node["Resources"]
    return {
        "name": node["NodeManagerHostname"],
        "address": node["NodeManagerAddress"],
        "state": "alive" if node["Alive"] else "dead",
        "cpus": has.get("CPU", 0.0),
        "gpus": has.get("GPU", 0.0),
        "memory": has.get("memory", 0.0),
        "held_cpus": sum(bundle.get("CPU", 0.0) for _, bundle in held),
        "held_gpus": sum(bundle.get("GPU", 0.0) for _, bundle in held),
        "groups": len({group for group, _ in held}),
    }


def _held() -> dict[str, list[tuple[str, Mapping[str, float]]]]:
    """Bundles of the placement groups that hold something, by node, each with its group."""
    found: dict[str, list[tuple[str, Mapping[str, float]]]] = {}
    for group, row in placement_group_table().items():
        if row["state"] == "CREATED":
            for index, node in row["bundles_to_node_id"].items():
                found.setdefault(node, []).append((group, row["bundles"][index]))
    return found


KEPT = ("CPU", "GPU", "memory")
MOST = 1000
"""Machines that are told of."""

if __name__ == "__main__":
    main()
