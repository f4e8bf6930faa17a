"""Examples in the API's description: bodies by the name of their schema, problems by status."""

from __future__ import annotations

from typing import Any

from winnow.types import FieldError

BODIES: dict[str, Any] = {
    "SweepSpec": {
        "name": "granite-math",
        "model": "ibm-granite/granite-3.3-2b-base",
        "recipe": "lab",
        "data": {
            "train": [{"path": "/data/math.jsonl"}],
            "eval": [{"path": "/data/gsm8k.jsonl", "name": "gsm8k"}],
        },
        "space": {
            "learning_rate": {"log_uniform": [1e-6, 1e-4]},
            "effective_batch_size": {"choice": [128, 3840]},
        },
        "search": {"sampler": "tpe", "trials": 32},
        "scheduler": {"name": "dynamics", "risk": 0.05},
        "resources": {"gpus_per_trial": 1, "max_concurrent": 8},
        "budget": {"gpu_hours": 40},
    },
    "ReplayRequest": {"scheduler": {"name": "asha", "eta": 3}},
    "Clone": {"params": {"learning_rate": 2e-5}},
    "Add": {"params": [{"learning_rate": 2e-5, "effective_batch_size": 128}]},
    "Extend": {"trials": 16},
    "Narrow": {"space": {"learning_rate": {"log_uniform": [5e-6, 5e-5]}}},
    "Set": {"max_concurrent": 4, "budget": {"gpu_hours": 60}},
    "AllowCode": {"model": "org/own-architecture", "revision": "0123456789abcdef" * 2 + "01234567"},
    "NewProject": {"id": "math", "quota": {"gpus": 8, "gpu_hours": 500}, "weight": 2.0},
    "ProjectChange": {"quota": {"gpus": 4}, "weight": 1.0},
    "NewToken": {"name": "ci", "scopes": ["read", "submit"]},
    "NewWebhook": {"url": "https://example.com/hooks/winnow", "events": ["sweep.finished"]},
    "WebhookChange": {"events": ["sweep.finished", "trial.failed"], "enabled": True},
}

PROBLEMS: dict[int, tuple[str, str, list[FieldError]]] = {
    400: (
        "unreadable",
        "not JSON: Expecting value in line 3, column 12",
        [FieldError(pointer="", message="not JSON: Expecting value in line 3, column 12")],
    ),
    401: ("unauthorized", "send the header `Authorization: Bearer TOKEN`", []),
    403: (
        "scope",
        "this needs a token with the scope `control`; this one has `read`, `submit`",
        [],
    ),
    404: ("not-found", "There is no sweep 'abc'.", []),
    405: ("method", "use GET, HEAD, OPTIONS here", []),
    408: ("timeout", "the request did not come whole in time", []),
    409: ("conflict", "Sweep h3x8k2m4p1 has ended: it is COMPLETED.", []),
    410: ("checkpoint-gone", "the state of trial h3x8k2m4p1-4 at step 40 was deleted", []),
    412: ("changed", "it was changed since you read it", []),
    413: ("too-large", "a request's body may hold 1024 kB at most", []),
    414: ("too-long", "an address is too long; ask for less", []),
    415: ("content-type", "send the body as JSON (Content-Type: application/json)", []),
    422: (
        "invalid-sweep",
        "nothing was started: one thing has to change",
        [
            FieldError(
                pointer="/space/learning_rate/log_uniform",
                message="the lower bound is above the upper one; swap them",
            )
        ],
    ),
    429: ("rate-limit", "too many requests; wait a second", []),
    431: ("too-long", "the request's headers are too long", []),
    500: ("internal", "nothing is known to be wrong with the request; see the server's log", []),
    503: ("database", "The database is not available", []),
}
