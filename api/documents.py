"""Read a request's body as JSON or YAML, by its content type."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from api.errors import ProblemError
from winnow.load import parse_json, parse_yaml

YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")


async def read_document(request: Request) -> Any:
    """The value in the body. Raises DocumentError, or ProblemError 415 for other content types."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        return parse_json(await request.body())
    if media_type in YAML_TYPES:
        return parse_yaml(await request.body())
    raise ProblemError(
        415,
        "content-type",
        "send the sweep as JSON (Content-Type: application/json) or as YAML "
        f"(Content-Type: application/yaml), not as {media_type or 'nothing named'}",
        headers={"Accept-Post": f"application/json, {YAML_TYPES[0]}"},
    )
