"""The rules that end trials early, as the API tells of them."""

from __future__ import annotations

import importlib
import inspect
import re
from functools import cache

from orchestrator.errors import NotFound
from winnow.scheduling import DYNAMICS_AUDIT, SCHEDULER_FIELDS, SchedulerName, SchedulerSpec
from winnow.service import SchedulerField, SchedulerInfo

_MODULES: dict[SchedulerName, str] = {
    "rate-batch-curve": "rate_batch",
    "random": "random_halving",
}
"""Where a rule lives, if not in the module of its name."""


@cache
def get(name: str) -> SchedulerInfo:
    """One rule. Raises NotFound."""
    if name not in SCHEDULER_FIELDS:
        raise NotFound("scheduler", name)
    module = _MODULES.get(name, name.replace("-", "_"))
    text = inspect.getdoc(importlib.import_module(f"orchestrator.schedulers.{module}")) or ""
    first, _, rest = text.partition("\n\n")
    summary = re.sub(r"^`[^`]*`(, the default)?: ", "", " ".join(first.split()))
    schema = SchedulerSpec.model_json_schema()["properties"]
    fields = [
        SchedulerField(
            name=field,
            default=_default(name, field),
            json_schema={k: v for k, v in schema[field].items() if k not in ("title", "default")},
        )
        for field in SCHEDULER_FIELDS[name]
    ]
    return SchedulerInfo(
        name=name, summary=summary[:1].upper() + summary[1:], description=rest, fields=fields
    )


def known() -> list[SchedulerInfo]:
    """All of them, the default first."""
    return [get(name) for name in SCHEDULER_FIELDS]


def _default(name: str, field: str) -> object:
    if (name, field) == ("dynamics", "audit"):
        return DYNAMICS_AUDIT
    value = SchedulerSpec.model_fields[field].default
    return list(value) if isinstance(value, tuple) else value
