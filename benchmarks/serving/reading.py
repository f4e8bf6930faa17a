"""What a page asks for, over HTTP on loopback: how long it takes, and how much is sent."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from benchmarks.serving.filling import Filled
from benchmarks.serving.server import Server

TRIALS_A_PAGE = 50
MAX_POINTS = 256
FIELDS = (
    "number,kind,state,reason,params,attempt,step,total_steps,samples,total_samples,loss,grad_norm,"
    "eval_loss,exact_match,value,pinned"
)


@dataclass
class Sample:
    """Seconds and bytes of every time something was asked for."""

    seconds: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)

    def take(self, ask: Callable[[], int]) -> None:
        began = time.perf_counter()
        size = ask()
        self.seconds.append(time.perf_counter() - began)
        self.bytes.append(size)

    def summary(self) -> dict[str, Any]:
        return {
            "p50_s": round(percentile(self.seconds, 50), 4),
            "p99_s": round(percentile(self.seconds, 99), 4),
            "bytes_max": max(self.bytes),
            "times": len(self.seconds),
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent are not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def read(server: Server, filled: Filled, times: int, seed: int = 0) -> dict[str, Any]:
    """Everything that is read, each `times` times."""
    draw = random.Random(seed)
    at = f"/v1/sweeps/{filled.sweep_id}"
    found: dict[str, Sample] = {}

    with server.client() as http:

        def get(path: str, **query: Any) -> httpx2.Response:
            answer = http.get(path, params=query)
            answer.raise_for_status()
            return answer

        def curves(ids: Sequence[str]) -> int:
            # What a chart of 300 pixels' width shows, with the digits that can be seen.
            query = {"trials": ",".join(ids), "columns": "loss,grad_norm", "digits": 5}
            return len(get(f"{at}/metrics", max_points=MAX_POINTS, **query).content)

        def some() -> list[str]:
            return [f"{filled.sweep_id}-{n}" for n in draw.sample(range(filled.trials), 50)]

        def page(sort: str, cursor: str | None) -> int:
            """The sweep, a page of its leaderboard, that page's curves, the last decisions."""
            sent = len(get(at).content)
            query = {"sort": sort, "kind": "search", "limit": TRIALS_A_PAGE, "fields": FIELDS}
            trials = get(f"{at}/trials", **query, **({"cursor": cursor} if cursor else {}))
            sent += len(trials.content) + len(get(f"{at}/decisions", limit=50).content)
            return sent + curves([trial["id"] for trial in trials.json()["items"]])

        def anywhere() -> str:
            return str(draw.randrange(filled.trials - TRIALS_A_PAGE - 1))

        asked: dict[str, Callable[[], Callable[[], int]]] = {
            "list": lambda: lambda: len(get("/v1/sweeps", limit=50).content),
            "sweep": lambda: lambda: len(get(at).content),
            "trials": lambda: lambda: len(get(f"{at}/trials", sort="score", limit=50).content),
            "curves": lambda: (lambda ids: lambda: curves(ids))(some()),
            "page": lambda: (lambda cursor: lambda: page("number", cursor))(anywhere()),
            "best_page": lambda: lambda: page("score", None),
            "importance": lambda: lambda: len(get(f"{at}/importance").content),
        }
        first = Sample()
        first.take(asked["importance"]())
        for name, prepare in asked.items():
            found[name] = Sample()
            for _ in range(times):
                found[name].take(prepare())
    return {name: sample.summary() for name, sample in found.items()} | {
        "importance_first_s": round(first.seconds[0], 3)
    }
