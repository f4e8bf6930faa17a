"""Counters and histograms of a process, to be added to those of all its kind.

A driver lives for one sweep, so what it counts is carried to the database every few seconds and
added there (`reporting.py`). What has not been carried when it is killed is lost.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

from orchestrator.observe.catalogue import BY_NAME, FAST

Figures = dict[str, dict[str, Any]]
"""By metric, then by its labels' values with `|` between: a number, or for a histogram a list of
its buckets' counts (the last one without an upper bound) and the sum."""


Read = Mapping[str, Mapping[str, Any]]


class Tally:
    """Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._figures: Figures = {}

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Add to a counter. `labels`: values, in the order of the catalogue."""
        assert BY_NAME[name].kind == "counter"
        with self._lock:
            series = self._figures.setdefault(name, {})
            key = "|".join(labels)
            series[key] = series.get(key, 0) + by

    def observe(self, name: str, seconds: float, *labels: str) -> None:
        """Add to a histogram."""
        assert BY_NAME[name].kind == "histogram"
        with self._lock:
            series = self._figures.setdefault(name, {})
            buckets = series.setdefault("|".join(labels), [0] * (len(FAST) + 1) + [0.0])
            buckets[bisect_left(FAST, seconds)] += 1
            buckets[-1] += seconds

    def take(self) -> Figures:
        """What was counted since the last time."""
        with self._lock:
            taken, self._figures = self._figures, {}
        return taken

    def give_back(self, figures: Figures) -> None:
        """What was taken could not be carried anywhere."""
        with self._lock:
            self._figures = added(figures, self._figures)


def added(first: Read, second: Read) -> Figures:
    """The sum of two processes' figures. Histograms with other buckets begin anew."""
    total: Figures = {name: dict(series) for name, series in first.items()}
    for name, series in second.items():
        known = total.setdefault(name, {})
        for labels, value in series.items():
            before = known.get(labels)
            if isinstance(value, list):
                if not isinstance(before, list) or len(before) != len(value):
                    before = [0] * len(value)
                known[labels] = [a + b for a, b in zip(before, value, strict=True)]
            else:
                known[labels] = value + (before if isinstance(before, int | float) else 0)
    return total
