"""docs/operations.md and the alerts name the metrics that there are."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from orchestrator.observe.catalogue import METRICS
from orchestrator.observe.context import FIELDS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")


def test_the_table_of_metrics_is_the_catalogue() -> None:
    rows = re.findall(r"^\| `(winnow_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", PAGE, re.MULTILINE)
    assert rows == [(m.name, m.kind, ", ".join(m.labels), m.help) for m in METRICS]


def test_every_field_of_the_log_is_explained() -> None:
    for field in ("time", "level", "logger", "message", "error", *FIELDS):
        assert re.search(rf"^\|.*`{field}`.*\|", PAGE, re.MULTILINE)


def test_alerts_ask_for_metrics_and_labels_that_there_are() -> None:
    (group,) = yaml.safe_load((ROOT / "docker" / "prometheus-alerts.yml").read_text())["groups"]
    known = {m.name: m for m in METRICS}
    for rule in group["rules"]:
        assert rule["annotations"]["summary"]
        for name, labels in re.findall(r"(winnow_\w+)(?:\{(.*?)\})?", rule["expr"]):
            metric = known[re.sub(r"_bucket$", "", name)]
            named = set(re.findall(r"(\w+)(?:=~|!=|=)", labels))
            assert named <= set(metric.labels), rule["alert"]
