"""Run with the peer's python: runs as our trials are, in MLflow's own SQLite store.

    python mlflow_runs.py runs.db RUNS STEPS

One run is stored by MLflow, the others are copies of its rows with ids and values of their own.
Prints the experiment's id.
"""

import random
import sqlite3
import sys
import uuid

from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]
from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

path, runs, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = MlflowClient(f"sqlite:///{path}")
experiment = client.create_experiment("large", artifact_location="/tmp/none")
run = client.create_run(experiment).info.run_id
for key in ("loss", "grad_norm"):
    for first in range(1, steps + 1, 1000):
        last = min(first + 999, steps)
        points = [Metric(key, 1.0 + 1 / n, n, n) for n in range(first, last + 1)]
        client.log_batch(run, metrics=points)
params = {"learning_rate": "1e-05", "effective_batch_size": "16", "schedule": "linear"}
client.log_batch(run, params=[Param(key, value) for key, value in params.items()])
client.set_terminated(run)

draw = random.Random(0)
db = sqlite3.connect(path)
db.row_factory = sqlite3.Row
db.execute("PRAGMA synchronous = OFF")
ids = [uuid.UUID(int=draw.getrandbits(128)).hex for _ in range(runs - 1)]
for table in ("runs", "params", "tags", "metrics", "latest_metrics"):
    rows = [dict(r) for r in db.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (run,))]
    if not rows:
        continue
    names = list(rows[0])
    marks = ", ".join("?" * len(names))

    def made(rows=rows, names=names):
        for id in ids:
            for row in rows:
                copy = {**row, "run_uuid": id}
                if "is_nan" in row:
                    copy["value"] = draw.gauss(1.5, 0.3)
                yield tuple(copy[name] for name in names)

    db.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", made())
db.commit()
print(experiment)
