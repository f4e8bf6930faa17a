"""What the Ray cluster has: one JSON line every few seconds, for as long as somebody reads them.

Runs as a process of its own (`python -m orchestrator.raytune.cluster`), because a Ray client hangs
for a minute when its cluster goes away, and the orchestrator must not.
"""

from __future__ import annotations

import json
import logging
import sys
import time

import ray

from orchestrator.raytune.workers import die_with_parent
from orchestrator.settings import Settings


def main(every: float = 5.0) -> None:
    """Print the cluster's total resources again and again, until the parent ends."""
    die_with_parent()
    ray.init(
        address=Settings().ray_address,
        namespace="winnow",
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    while True:
        total = ray.cluster_resources()
        sys.stdout.write(json.dumps({k: v for k, v in total.items() if k in KEPT}) + "\n")
        sys.stdout.flush()
        time.sleep(every)


KEPT = ("CPU", "GPU", "memory")

if __name__ == "__main__":
    main()
