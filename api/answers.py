"""Answers that are not JSON: files, and messages as they come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AT_ONCE = {"X-Accel-Buffering": "no"}
"""A header that asks proxies to pass on what comes as it comes."""

FILE = {"type": "string", "format": "binary"}
"""What OpenAPI says of a file."""


def sends(
    description: str, schemas: Mapping[str, dict[str, Any]]
) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route that answers so; `schemas` by media type."""
    content = {kind.partition(";")[0]: {"schema": schema} for kind, schema in schemas.items()}
    return {200: {"description": description, "content": content}}


def as_file(name: str) -> dict[str, str]:
    """A header by which browsers save the answer under that name."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
    return {"Content-Disposition": f'attachment; filename="{safe}"'}
