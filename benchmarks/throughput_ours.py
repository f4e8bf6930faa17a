"""Our side of `benchmarks/throughput.py`: a real run, step by step.

    python -m benchmarks.throughput_ours SIZE FOLDER STEPS THREADS

prints one line of JSON: for each step its loss, its tokens, and when it had ended (seconds of wall
and of processor time).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.throughput_work import SIZES, config
from trainer import engine
from trainer.loop import Run


def main(name: str, folder: Path, steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    engine.join(0, 1, "127.0.0.1", 0)
    run = Run(config(SIZES[name], folder, steps))
    made: list[dict[str, Any]] = []
    while True:
        report = run.advance(0.0)
        if report.failure is not None:
            raise SystemExit(report.failure.message)
        made += [
            {
                "loss": step.loss,
                "tokens": step.input_tokens,
                "ended": time.perf_counter(),
                "cpu": time.process_time(),
            }
            for step in report.steps
        ]
        if report.status != "running":
            break
    run.close()
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    print(json.dumps({"setting": "packed", "steps": made, "memory": memory}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
