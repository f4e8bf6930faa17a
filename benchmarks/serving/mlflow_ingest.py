"""Run with the peer's python: what MLflow stores a second, without a server before it.

    python mlflow_ingest.py runs.db EXPERIMENT SECONDS

One run logs loss and norm of 500 steps at a time: `log_batch` takes 1000 values at most. Prints
the steps a second.
"""

import sys
import time

from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]
from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

path, experiment, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
client = MlflowClient(f"sqlite:///{path}")
run = client.create_run(experiment).info.run_id
step, began = 0, time.perf_counter()
while (took := time.perf_counter() - began) < seconds:
    points = [
        Metric(key, 1.0 + 1 / n, n, n)
        for n in range(step + 1, step + 501)
        for key in ("loss", "grad_norm")
    ]
    client.log_batch(run, metrics=points)
    step += 500
client.set_terminated(run)
print(step / took)
