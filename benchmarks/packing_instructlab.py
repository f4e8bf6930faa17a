"""The packers of instructlab-training, run in its own environment by `benchmarks/packing.py`.

    PYTHON benchmarks/packing_instructlab.py WORK.json OUT.npz

`WORK.json` lists cells: `key`, `lengths` (a .npy file, in the order of the stream), `batch_size`,
`ranks`, `cap`, `padded`, `steps`. For each, the plan of the first `steps` effective batches is
written, one entry a sample: `KEY/rank` and `KEY/micro_batch`; and `KEY/seconds`, a step's planning
time on each rank it was timed on. A rank plans for itself there and keeps its own part, so all
ranks are asked one after the other and each one's time stands for the step's.
"""

import json
import sys
import time

import numpy as np
from instructlab.training.batch_packer import (  # pyright: ignore[reportMissingImports]
    batch_lengths_to_minibatches_lpt,
)
from instructlab.training.padded_batch_packer import (  # pyright: ignore[reportMissingImports]
    batch_lengths_to_minibatches_padded,
)


def main() -> None:
    work_file, out = sys.argv[1:]
    with open(work_file, encoding="utf-8") as file:
        cells = json.load(file)
    for pack in (batch_lengths_to_minibatches_lpt, batch_lengths_to_minibatches_padded):
        pack([5, 4, 3, 2, 1], 8, 2, 0)  # compile
    results: dict[str, np.ndarray] = {}
    for number, cell in enumerate(cells, start=1):
        began = time.monotonic()
        plan_cell(cell, results)
        print(f"{number}/{len(cells)} {cell['key']} {time.monotonic() - began:.1f} s", flush=True)
    np.savez(out, **results)  # pyright: ignore[reportArgumentType] (no key is allow_pickle)


def plan_cell(cell: dict, results: dict[str, np.ndarray]) -> None:
    size = cell["batch_size"]
    lengths = np.load(cell["lengths"], mmap_mode="r")[: size * cell["steps"]]
    rank = np.full(len(lengths), -1, dtype=np.int32)
    micro_batch = np.full(len(lengths), -1, dtype=np.int32)
    pack = (
        batch_lengths_to_minibatches_padded if cell["padded"] else batch_lengths_to_minibatches_lpt
    )
    seconds = []
    for step in range(cell["steps"]):
        batch = lengths[step * size : (step + 1) * size].tolist()
        for r in range(cell["ranks"]):
            began = time.perf_counter()
            parts = pack(batch, cell["cap"], cell["ranks"], r)
            seconds.append(time.perf_counter() - began)
            for number, part in enumerate(parts):
                for i in part:
                    if i >= 0:
                        rank[step * size + i] = r
                        micro_batch[step * size + i] = number
    results[f"{cell['key']}/rank"] = rank
    results[f"{cell['key']}/micro_batch"] = micro_batch
    results[f"{cell['key']}/seconds"] = np.array(seconds)


if __name__ == "__main__":
    main()
