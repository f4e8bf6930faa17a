"""optuna-dashboard and MLflow on as much of the same as they can finish, each by its own API.

*optuna-dashboard*: one page load is `GET /api/studies/ID`: all trials with all that they reported.
*MLflow*: one page is `runs/search` for 50 runs, and for each of two metrics the request that its
own page makes for their charts (`get-history-bulk-interval`), thinned out by its server to as many
points as ours. Ingest is `log_batch` with the 1000 values that it takes at most, straight to its
store as our driver writes, and through its server.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.peers import environment
from benchmarks.serving.reading import MAX_POINTS, TRIALS_A_PAGE, Sample
from benchmarks.serving.server import free_port

OPTUNA = ("optuna-dashboard", "optuna-dashboard==0.21.0")
MLFLOW = ("mlflow", "mlflow==3.17.2")
HERE = Path(__file__).parent
START_SECONDS = 180
LONGEST_SECONDS = 90


class RivalFailed(Exception):
    """A peer could not be measured. The message says why."""


def optuna_dashboard(folder: Path, trials: int, steps: int, times: int) -> dict[str, Any]:
    python = environment(*OPTUNA, torch=False)
    database = folder / "study.db"
    _run([str(python), str(HERE / "optuna_study.py"), str(database), str(trials), str(steps)])
    port = free_port()
    command = [
        str(python.with_name("optuna-dashboard")), f"sqlite:///{database}", "--port", str(port),
        "--host", "127.0.0.1",
    ]  # fmt: skip
    page, importance = Sample(), Sample()
    with _server(
        command, f"http://127.0.0.1:{port}", "/api/studies", folder / "optuna.log"
    ) as http:
        study = http.get("/api/studies").json()["study_summaries"][0]["study_id"]
        for _ in _turns(times):
            page.take(lambda: _size(http.get(f"/api/studies/{study}")))
        importance.take(lambda: _size(http.get(f"/api/studies/{study}/param_importances")))
    return {
        "name": OPTUNA[1].replace("==", " "),
        "trials": trials,
        "points": trials * steps,
        "page": page.summary(),
        "importance_s": round(importance.seconds[0], 3),
    }


def mlflow(folder: Path, runs: int, steps: int, times: int, seconds: float) -> dict[str, Any]:
    python = environment(*MLFLOW, torch=False, pinned=False)
    database = folder / "runs.db"
    said = _run([str(python), str(HERE / "mlflow_runs.py"), str(database), str(runs), str(steps)])
    experiment = said.split()[-1]
    port = free_port()
    command = [
        str(python), "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}",
        "--default-artifact-root", str(folder / "artifacts"), "--host", "127.0.0.1",
        "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    page = Sample()
    with _server(command, f"http://127.0.0.1:{port}", "/health", folder / "mlflow.log") as http:
        for _ in _turns(times):
            page.take(lambda: _mlflow_page(http, experiment))
        served = _mlflow_ingest(http, experiment, seconds)
    alone = [str(python), str(HERE / "mlflow_ingest.py"), str(database), experiment, str(seconds)]
    return {
        "name": MLFLOW[1].replace("==", " "),
        "runs": runs,
        "points": runs * steps,
        "page": page.summary(),
        "points_per_s": round(float(_run(alone).split()[-1])),
        "points_per_s_over_http": round(served),
    }


def _mlflow_page(http: httpx2.Client, experiment: str) -> int:
    query = {"experiment_ids": [experiment], "max_results": TRIALS_A_PAGE}
    found = http.post("/api/2.0/mlflow/runs/search", json=query)
    sent = _size(found)
    ids = [run["info"]["run_id"] for run in found.json()["runs"]]
    for metric in ("loss", "grad_norm"):
        asked = [("run_ids", id) for id in ids]
        asked += [("metric_key", metric), ("max_results", str(MAX_POINTS))]
        path = "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval"
        sent += _size(http.get(path, params=asked))  # type: ignore[arg-type]
    return sent


def _mlflow_ingest(http: httpx2.Client, experiment: str, seconds: float) -> float:
    """Points a second; a point has a loss and a norm, so it is two of MLflow's metrics."""
    made = http.post("/api/2.0/mlflow/runs/create", json={"experiment_id": experiment})
    run = made.json()["run"]["info"]["run_id"]
    step, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        metrics = [
            {"key": key, "value": 1.0 + 1 / n, "timestamp": n, "step": n}
            for n in range(step + 1, step + 501)
            for key in ("loss", "grad_norm")
        ]
        _size(http.post("/api/2.0/mlflow/runs/log-batch", json={"run_id": run, "metrics": metrics}))
        step += 500
    return step / took


def _turns(times: int) -> Iterator[int]:
    """So many times, but none begins after LONGEST_SECONDS."""
    until = time.monotonic() + LONGEST_SECONDS
    for turn in range(times):
        if turn and time.monotonic() > until:
            return
        yield turn


def _size(answer: httpx2.Response) -> int:
    if answer.status_code != 200:
        raise RivalFailed(f"{answer.request.url}: {answer.status_code} {answer.text[:500]}")
    return len(answer.content)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, check=False, env=_environment()
    )
    if done.returncode:
        raise RivalFailed(f"{command[1]}: {done.stderr[-2000:]}")
    return done.stdout


def _environment() -> dict[str, str]:
    """Without what MLflow's server runs beside it: jobs' workers and telemetry only slow it."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


@contextlib.contextmanager
def _server(command: Sequence[str], url: str, path: str, log: Path) -> Iterator[httpx2.Client]:
    """A peer's server, with its workers, until the block ends."""
    with log.open("w") as file:
        process = subprocess.Popen(
            list(command), stdout=file, stderr=file, env=_environment(), start_new_session=True
        )
        headers = {"Accept-Encoding": "identity"}
        try:
            with httpx2.Client(base_url=url, headers=headers, timeout=300) as http:
                _wait(process, http, path, log)
                yield http
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], http: httpx2.Client, path: str, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(httpx2.TransportError):
            if http.get(path).status_code == 200:
                return
        time.sleep(0.2)
    raise RivalFailed(f"it did not start: {log.read_text('utf-8')[-2000:]}")
