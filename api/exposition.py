"""The fleet's metrics for Prometheus, read from the database when they are asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from orchestrator.errors import StoreUnavailable
from orchestrator.observe import catalogue
from orchestrator.observe.catalogue import BY_NAME, FAST, METRICS
from orchestrator.store import Store
from orchestrator.store.fleet import Fleet

FRESH_SECONDS = 5.0
"""How long what was read is given again: scrapes by several don't add up."""
RESOURCES = ("CPU", "GPU")
"""Of the cluster; others may have any name."""


def make_registry(store: Store) -> CollectorRegistry:
    """What the API process tells of itself and of the fleet."""
    disable_created_metrics()  # a series more for each counter, which few use
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(FleetCollector(store))
    return registry


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """All metrics in the format that the scraper asks for, and its content type."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class Port:
    """The metrics on a port of their own, without a token: at `/metrics`, and anywhere else."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        self._server, self._thread = start_http_server(port, host, registry)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


class FleetCollector(Collector):
    """Reads the database at most every FRESH_SECONDS; one reader at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._fleet: Fleet | None = None
        self._read = -FRESH_SECONDS

    def collect(self) -> Iterable[Metric]:
        fleet = self._look()
        up = GaugeMetricFamily(catalogue.DATABASE_UP, BY_NAME[catalogue.DATABASE_UP].help)
        up.add_metric([], 0.0 if fleet is None else 1.0)
        return [up, *(_families(fleet) if fleet is not None else ())]

    def _look(self) -> Fleet | None:
        with self._lock:
            if time.monotonic() - self._read >= FRESH_SECONDS:
                try:
                    self._fleet = self._store.fleet.look()
                except StoreUnavailable:
                    self._fleet = None
                self._read = time.monotonic()
            return self._fleet


def _families(fleet: Fleet) -> Iterable[Metric]:
    alone = ()
    figures: dict[str, Mapping[tuple[str, ...], float]] = {
        catalogue.SWEEPS: fleet.sweeps,
        catalogue.TRIALS: fleet.trials,
        catalogue.TRIAL_ENDS: fleet.ends,
        catalogue.STOPS: fleet.stops,
        catalogue.AUDITED: fleet.audited,
        catalogue.RESTARTS: fleet.interrupted,
        catalogue.GPU_HOURS: fleet.gpu_hours,
        catalogue.WORKER_HOURS: fleet.worker_hours,
        catalogue.COST: fleet.cost,
        catalogue.QUEUE: {alone: fleet.queue},
        catalogue.QUEUE_OLDEST: {alone: fleet.queue_oldest},
        catalogue.DRIVERS: {alone: fleet.drivers},
        catalogue.SLOTS: {alone: fleet.slots},
        catalogue.CLUSTER: {(n,): v for n, v in fleet.resources.items() if n in RESOURCES},
        catalogue.HEARTBEAT: {} if fleet.heartbeat_age is None else {alone: fleet.heartbeat_age},
        catalogue.EVENTS: {alone: fleet.last_event},
        catalogue.DELIVERIES: fleet.deliveries,
        catalogue.DELIVERY_OLDEST: {alone: fleet.delivery_oldest},
        catalogue.WEBHOOKS: fleet.webhooks,
    }
    for name, values in figures.items():
        metric = BY_NAME[name]
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = kind(metric.family, metric.help, labels=metric.labels)
        for labels, value in sorted(values.items()):
            family.add_metric(list(labels), value)
        yield family
    for metric in METRICS:
        if metric.source in ("driver", "orchestrator"):
            yield _told(metric, fleet.telemetry.get(metric.source, {}).get(metric.name, {}))


def _told(metric: catalogue.Metric, series: Mapping[str, Any]) -> Metric:
    """What drivers or orchestrators have counted. Those without labels begin at 0, so that their
    first step is seen."""
    if metric.kind == "histogram":
        family = HistogramMetricFamily(metric.family, metric.help, labels=metric.labels)
        for labels, counts in (series or {"": [0] * (len(FAST) + 2)}).items():
            bounds, total, buckets = [*map(str, FAST), "+Inf"], 0, []
            if len(counts) != len(bounds) + 1:
                continue  # of another version
            for bound, count in zip(bounds, counts[:-1], strict=True):
                total += count
                buckets.append((bound, total))
            family.add_metric(_values(metric, labels), buckets, counts[-1])
        return family
    family = CounterMetricFamily(metric.family, metric.help, labels=metric.labels)
    for labels, value in (series or ({} if metric.labels else {"": 0})).items():
        family.add_metric(_values(metric, labels), value)
    return family


def _values(metric: catalogue.Metric, labels: str) -> list[str]:
    return labels.split("|") if metric.labels else []
