"""What the Ray cluster has: one JSON line every few seconds, for as long as somebody reads them.

    {"total": {"CPU": 8.0, "GPU": 4.0, "memory": 1e10}, "nodes": [{"cpus": 8.0, "gpus": 4.0}]}

Runs as a process of its own (`python -m orchestrator.raytune.cluster`), because a Ray client hangs
for a minute when its cluster goes away, and the orchestrator must not.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

import ray

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
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            nodes.append({"cpus": has.get("CPU", 0.0), "gpus": has.get("GPU", 0.0)})
            for name in KEPT:
                total[name] += has.get(name, 0.0)
    nodes.sort(key=lambda node: (node["gpus"], node["cpus"]))  # Ray names no order
    return {"total": total, "nodes": nodes}


KEPT = ("CPU", "GPU", "memory")

if __name__ == "__main__":
    main()
