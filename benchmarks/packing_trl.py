"""TRL's packing of whole data sets, run in its own environment by `benchmarks/packing.py`.

    PYTHON benchmarks/packing_trl.py WORK.json OUT.npz

`WORK.json` lists runs: `key`, `lengths` (a .npy file), `cap`, `strategy` and `map_batch` (samples
that are packed together; null is all). For each, `KEY/seconds` is written, which includes moving
the tokens, for TRL does both at once; and `KEY/samples`, how many samples each row has (`bfd`), or
`KEY/count`, how many rows there are.
"""

import json
import sys
import tempfile
import time

import datasets
import numpy as np
import pyarrow as pa
from trl import pack_dataset  # pyright: ignore[reportMissingImports]


def main() -> None:
    work_file, out = sys.argv[1:]
    with open(work_file, encoding="utf-8") as file:
        runs = json.load(file)
    datasets.disable_progress_bars()
    results: dict[str, np.ndarray] = {}
    for number, run in enumerate(runs, start=1):
        lengths = np.load(run["lengths"])
        with tempfile.TemporaryDirectory() as folder:
            seconds, packed = pack(lengths, run, folder)
            results[f"{run['key']}/seconds"] = np.array(seconds)
            if run["strategy"] == "bfd":
                column = packed.data.column("seq_lengths").combine_chunks()
                if isinstance(column, pa.ChunkedArray):
                    column = column.chunk(0)
                results[f"{run['key']}/samples"] = np.diff(column.offsets.to_numpy())
            else:
                results[f"{run['key']}/count"] = np.array(len(packed))
            del packed
        print(f"{number}/{len(runs)} {run['key']} {seconds:.1f} s", flush=True)
    np.savez(out, **results)  # pyright: ignore[reportArgumentType] (no key is allow_pickle)


def pack(lengths: np.ndarray, run: dict, folder: str) -> tuple[float, datasets.Dataset]:
    """Pack tokens of one byte each, so that as little as possible is moved."""
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    tokens = pa.array(np.zeros(int(offsets[-1]), dtype=np.int8))
    column = pa.LargeListArray.from_arrays(pa.array(offsets), tokens)
    data = datasets.Dataset(pa.table({"input_ids": column}))
    began = time.perf_counter()
    packed = pack_dataset(
        data,
        seq_length=run["cap"],
        strategy=run["strategy"],
        map_kwargs={
            "batch_size": run["map_batch"] or len(lengths),
            "cache_file_name": f"{folder}/packed.arrow",
        },
    )
    return time.perf_counter() - began, packed


if __name__ == "__main__":
    main()
