"""What the scheduler section of a sweep file refuses, and that it names the field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from winnow.spec import SCHEDULER_FIELDS, SchedulerName, SchedulerSpec

FIELDS = sorted(set(SchedulerSpec.model_fields) - {"name", "mode"})
OTHER_VALUES: dict[str, Any] = {
    "eta": 3,
    "rungs": [0.3],
    "first_rung": 0.2,
    "risk": 0.2,
    "keep": 0.3,
    "p_value": 0.3,
    "audit": 0.3,
    "transfer": False,
}
"""For each field a value that is not its default."""


def problem(**fields: Any) -> tuple[str, str]:
    """Where and what the first error is."""
    with pytest.raises(ValidationError) as refused:
        SchedulerSpec.model_validate(fields)
    error = refused.value.errors()[0]
    return ".".join(map(str, error["loc"])), error["msg"]


def test_every_scheduler_is_documented_with_fields_that_exist() -> None:
    assert set(SCHEDULER_FIELDS) == set(get_args(SchedulerName))
    assert set().union(*SCHEDULER_FIELDS.values()) == set(FIELDS) == set(OTHER_VALUES)


@pytest.mark.parametrize("name", SCHEDULER_FIELDS)
def test_each_scheduler_takes_its_own_fields(name: str) -> None:
    own = {field: OTHER_VALUES[field] for field in SCHEDULER_FIELDS[name]}  # type: ignore[index]
    spec = SchedulerSpec.model_validate({"name": name, "mode": "shadow", **own})
    for field, value in own.items():
        assert getattr(spec, field) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("name", "field"),
    [(n, f) for n, own in SCHEDULER_FIELDS.items() for f in FIELDS if f not in own],
)
def test_a_field_that_the_scheduler_does_not_read_is_refused(name: str, field: str) -> None:
    _, message = problem(name=name, **{field: OTHER_VALUES[field]})
    assert f"{field}: scheduler {name} doesn't read it; leave it out. It reads " in message
    assert "rungs" in message


def test_a_scheduler_that_does_not_exist_is_refused_with_those_that_do() -> None:
    where, message = problem(name="sha")
    assert where == "name"
    for name in SCHEDULER_FIELDS:
        assert f"'{name}'" in message


def test_a_field_that_does_not_exist_is_refused_by_name() -> None:
    where, message = problem(name="asha", grace_period=3)
    assert where == "grace_period"
    assert "not permitted" in message


@pytest.mark.parametrize("risk", [0, 1, -0.1, 1.5, float("nan")])
def test_risk_is_a_chance_strictly_between_0_and_1(risk: float) -> None:
    where, message = problem(name="dynamics", risk=risk)
    assert where == "risk"
    assert "than" in message or "finite" in message


@pytest.mark.parametrize("audit", [1, 1.0, 2, -0.1])
def test_an_audit_of_all_trials_would_end_none_and_is_refused(audit: float) -> None:
    where, message = problem(name="asha", audit=audit)
    assert where == "audit"
    assert "less than 1" in message or "greater than or equal to 0" in message


@pytest.mark.parametrize(
    "rungs", [[0.5, 0.25], [0.25, 0.25], [0, 0.5], [0.5, 1], [-0.1], [0.5, float("nan")]]
)
def test_rungs_are_rising_fractions(rungs: list[float]) -> None:
    _, message = problem(name="asha", rungs=rungs)
    assert "rungs" in message or "finite" in message


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("asha", "eta", 1),
        ("asha", "eta", 11),
        ("asha", "eta", 2.5),
        ("one-epoch", "first_rung", 0),
        ("one-epoch", "first_rung", 1),
        ("one-epoch", "keep", 0),
        ("one-epoch", "keep", 1),
        ("wilcoxon", "p_value", 0),
        ("wilcoxon", "p_value", 1),
        ("asha", "mode", "watch"),
    ],
)
def test_values_outside_their_range_are_refused_by_name(name: str, field: str, value: Any) -> None:
    where, _ = problem(name=name, **{field: value})
    assert where == field


def test_the_guide_lists_every_scheduler_with_the_fields_that_it_reads() -> None:
    guide = Path(__file__).resolve().parents[3] / "docs" / "guide-sweep-file.md"
    text = guide.read_text(encoding="utf-8")
    section = text[text.index("## Which rule ends trials early") :]
    rows = {
        row[1].strip().strip("`"): row[3]
        for line in section.splitlines()
        if len(row := line.split("|")) == 6 and row[1].strip().startswith("`")
    }
    del rows["name"]
    listed = {name: re.findall(r"`(\w+)`", fields) for name, fields in rows.items()}
    assert listed == {name: list(fields) for name, fields in SCHEDULER_FIELDS.items()}
