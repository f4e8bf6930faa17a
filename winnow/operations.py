"""What the server tells its operators of itself."""

from __future__ import annotations

from typing import Literal

from winnow.types import FieldError, Model


class Ready(Model):
    status: Literal["ready"]
    version: str


class DatabaseStatus(Model):
    kind: Literal["sqlite", "postgresql"]
    schema_version: str | None
    schema_wanted: str
    """What this version of winnow needs; the same unless an upgrade is under way."""
    answered_in_ms: float
    last_event: int


class DiskStatus(Model):
    """The disk of the home folder."""

    free_bytes: int
    total_bytes: int
    writable: bool


class OrchestratorStatus(Model):
    reported_seconds_ago: float | None
    silent: bool


class DriverStatus(Model):
    """A sweep's driver, which holds its lease."""

    sweep_id: str
    host: str | None
    epoch: int
    lease_seconds_left: float
    slots: int | None
    running: int
    """Trials that it runs now."""


class WebhookStatus(Model):
    """Messages to webhooks, of the last days."""

    due: int
    """On their way, or to be sent again."""
    oldest_due_seconds: float
    failed: int


class Status(Model):
    """How the parts of the server are. `problems`: what keeps it from being ready."""

    ready: bool
    problems: list[FieldError]
    version: str
    python: str
    process: int
    up_seconds: float
    database: DatabaseStatus
    disk: DiskStatus
    orchestrator: OrchestratorStatus
    cluster: dict[str, float]
    drivers: list[DriverStatus]
    waiting_sweeps: int
    oldest_waiting_seconds: float
    webhooks: WebhookStatus
