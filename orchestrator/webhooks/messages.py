"""Which stored events webhooks tell of, and what a message looks like. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from winnow.types import SweepState, TrialState
from winnow.webhooks import WebhookEvent

TOLD = ("sweep.state", "trial.state", "budget.reached")
"""Types of stored events of which some are told."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a message tells of an event. `with_result`: also how the sweep ended."""

    kind: WebhookEvent
    data: dict[str, Any] = field(default_factory=dict)
    with_result: bool = False


def told(type: str, data: Mapping[str, Any]) -> Told | None:
    """What webhooks tell of a stored event; None if nothing."""
    match type, data.get("from"), data.get("to"):
        case "sweep.state", SweepState.QUEUED, SweepState.RUNNING:
            return Told("sweep.started")
        case "sweep.state", _, SweepState.PAUSED:
            return Told("sweep.paused", {"message": data.get("message")})
        case "sweep.state", _, (SweepState.COMPLETED | SweepState.FAILED | SweepState.CANCELED):
            facts = {"state": data["to"], "message": data.get("message")}
            return Told("sweep.finished", facts, with_result=True)
        case "trial.state", _, TrialState.FAILED:
            facts = {"reason": data.get("reason"), "message": data.get("message")}
            return Told("trial.failed", facts)
        case "budget.reached", _, _:
            return Told("budget.reached", {"message": data.get("message")})
        case _:
            return None


def message(kind: str, moment: datetime, data: Mapping[str, Any]) -> str:
    """The body: JSON, the same bytes at each attempt, because they are signed. `moment` is when it
    happened."""
    when = moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = {"type": kind, "timestamp": when, "data": dict(data)}
    return json.dumps(body, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
