"""Every metric that winnow gives to Prometheus: the one place that names them.

Labels have few values each, and never an id: a thousand sweeps make no more series than one. Where
a label's values are the users' (projects, reasons), the rarest are counted as `other`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of histograms' buckets, in seconds."""

Kind = Literal["counter", "gauge", "histogram"]
Source = Literal["api", "driver", "orchestrator", "database"]


@dataclass(frozen=True, slots=True)
class Metric:
    """`source`: who counts it. What drivers and orchestrators count is added up in the database,
    so it outlives them; what the API counts begins at zero with it."""

    name: str
    kind: Kind
    source: Source
    help: str
    labels: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """The name without the ending that Prometheus adds to counters."""
        return self.name.removesuffix("_total")


HTTP_REQUESTS = "winnow_http_requests_total"
HTTP_SECONDS = "winnow_http_request_seconds"
HTTP_IN_FLIGHT = "winnow_http_in_flight"
HTTP_STREAMS = "winnow_http_streams"
HTTP_REFUSED = "winnow_http_refused_total"
REPORTS = "winnow_driver_reports_total"
POINTS = "winnow_driver_points_total"
COMMIT_SECONDS = "winnow_driver_commit_seconds"
INGEST_LAG = "winnow_driver_ingest_lag_seconds"
RENEWALS = "winnow_lease_renewals_total"
TURN_SECONDS = "winnow_reconcile_seconds"
DRIVER_STARTS = "winnow_driver_starts_total"
DRIVER_CRASHES = "winnow_driver_crashes_total"
WEBHOOK_ATTEMPTS = "winnow_webhook_attempts_total"
DATABASE_UP = "winnow_database_up"
SWEEPS = "winnow_sweeps"
TRIALS = "winnow_trials"
TRIAL_ENDS = "winnow_trial_ends_total"
STOPS = "winnow_stops_total"
AUDITED = "winnow_audited_trials"
RESTARTS = "winnow_attempts_interrupted_total"
GPU_HOURS = "winnow_gpu_hours_total"
WORKER_HOURS = "winnow_worker_hours_total"
COST = "winnow_cost_total"
QUEUE = "winnow_queue_sweeps"
QUEUE_OLDEST = "winnow_queue_oldest_seconds"
DRIVERS = "winnow_drivers"
SLOTS = "winnow_slots_granted"
CLUSTER = "winnow_cluster_resources"
HEARTBEAT = "winnow_orchestrator_heartbeat_age_seconds"
EVENTS = "winnow_events_total"
DELIVERIES = "winnow_webhook_deliveries"
DELIVERY_OLDEST = "winnow_webhook_oldest_due_seconds"
WEBHOOKS = "winnow_webhooks"

METRICS = (
    Metric(
        HTTP_REQUESTS,
        "counter",
        "api",
        "Requests answered, by route template.",
        ("method", "route", "status"),
    ),
    Metric(
        HTTP_SECONDS,
        "histogram",
        "api",
        "Seconds from a request to the end of its answer; of live streams, to the beginning.",
        ("method", "route"),
    ),
    Metric(HTTP_IN_FLIGHT, "gauge", "api", "Requests that are being answered, without streams."),
    Metric(HTTP_STREAMS, "gauge", "api", "Live streams that are open."),
    Metric(
        HTTP_REFUSED,
        "counter",
        "api",
        "Requests refused: unauthorized (401), forbidden (403), too-large (413), rate-limited "
        "(429).",
        ("why",),
    ),
    Metric(REPORTS, "counter", "driver", "Reports of trials that drivers have stored."),
    Metric(POINTS, "counter", "driver", "Training steps in these reports."),
    Metric(COMMIT_SECONDS, "histogram", "driver", "Seconds to judge a report and to store it."),
    Metric(
        INGEST_LAG,
        "histogram",
        "driver",
        "Seconds from a report's arrival at its driver until it is stored.",
    ),
    Metric(
        RENEWALS,
        "counter",
        "driver",
        "Renewals of sweeps' leases by their drivers: renewed, or failed and tried again.",
        ("result",),
    ),
    Metric(TURN_SECONDS, "histogram", "orchestrator", "Seconds that a turn of the loop took."),
    Metric(DRIVER_STARTS, "counter", "orchestrator", "Drivers started."),
    Metric(DRIVER_CRASHES, "counter", "orchestrator", "Drivers that ended in an error."),
    Metric(
        WEBHOOK_ATTEMPTS,
        "counter",
        "orchestrator",
        "Webhook messages sent: delivered, refused (an answer other than 2xx), unreachable.",
        ("result",),
    ),
    Metric(DATABASE_UP, "gauge", "database", "1 if the database answers the API, else 0."),
    Metric(SWEEPS, "gauge", "database", "Sweeps, by state.", ("project", "state")),
    Metric(TRIALS, "gauge", "database", "Trials, by state.", ("project", "state")),
    Metric(
        TRIAL_ENDS,
        "counter",
        "database",
        "Trials that have ended, by why: the stopping rule's code, diverged, oom, user, budget, …",
        ("state", "reason"),
    ),
    Metric(
        STOPS,
        "counter",
        "database",
        "Decisions to stop a trial, by rule; acted is false in shadow mode and for audited trials.",
        ("rule", "acted"),
    ),
    Metric(
        AUDITED,
        "gauge",
        "database",
        "Trials that were to be stopped and ran to their end for the audit: agreed (the stop was "
        "right), false_stop (it would have lost a better trial), undecided (too few in the sweep).",
        ("outcome",),
    ),
    Metric(
        RESTARTS,
        "counter",
        "database",
        "Attempts that ended before their trial did, by why: infrastructure, preempted, oom, …",
        ("reason",),
    ),
    Metric(GPU_HOURS, "counter", "database", "GPU-hours that trials have held.", ("project",)),
    Metric(WORKER_HOURS, "counter", "database", "Hours that attempts held workers.", ("project",)),
    Metric(
        COST,
        "counter",
        "database",
        "What these GPU-hours cost, by the sweeps' own price for one.",
        ("project",),
    ),
    Metric(QUEUE, "gauge", "database", "Sweeps that wait for their first driver."),
    Metric(QUEUE_OLDEST, "gauge", "database", "Seconds that the oldest of them has waited."),
    Metric(DRIVERS, "gauge", "database", "Drivers that hold a lease."),
    Metric(SLOTS, "gauge", "database", "Trials at once that the cluster grants, all sweeps."),
    Metric(CLUSTER, "gauge", "database", "The cluster as last reported.", ("resource",)),
    Metric(HEARTBEAT, "gauge", "database", "Seconds since an orchestrator last reported."),
    Metric(EVENTS, "counter", "database", "Events stored."),
    Metric(DELIVERIES, "gauge", "database", "Webhook messages of the last days.", ("state",)),
    Metric(DELIVERY_OLDEST, "gauge", "database", "Seconds that the oldest due message has waited."),
    Metric(WEBHOOKS, "gauge", "database", "Webhooks.", ("state",)),
)
"""All of them. `docs/operations.md` lists them; a test holds both equal."""

BY_NAME = {metric.name: metric for metric in METRICS}
