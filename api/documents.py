"""Read a request's body as JSON or YAML, by its content type."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import BaseModel

from api.errors import ProblemError
from winnow.load import parse_json, parse_yaml

YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")


async def read_document(request: Request) -> Any:
    """The value in the body. Raises DocumentError, or ProblemError 415 for other content types."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ProblemError(
            415, "content-encoding", "send the body as it is, not compressed (no Content-Encoding)"
        )
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        return parse_json(await request.body())
    if media_type in YAML_TYPES:
        return parse_yaml(await request.body())
    raise ProblemError(
        415,
        "content-type",
        "send the body as JSON (Content-Type: application/json) or as YAML "
        f"(Content-Type: application/yaml), not as {media_type or 'nothing named'}",
        headers={"Accept-Post": f"application/json, {YAML_TYPES[0]}"},
    )


async def read_optional(request: Request) -> Any:
    """The value in the body; an empty mapping if there is no body."""
    return await read_document(request) if await request.body() else {}


Document = Annotated[Any, Depends(read_document)]
"""A body that has to be there."""
OptionalDocument = Annotated[Any, Depends(read_optional)]


SENT: dict[str, type[BaseModel]] = {}
"""What clients send, by name: all that any route `takes`."""


def takes(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """What OpenAPI says of a route whose body is read by hand and parsed as `model`."""
    SENT[model.__name__] = model
    schema = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    content = dict.fromkeys(("application/json", YAML_TYPES[0]), schema)
    return {"requestBody": {"required": required, "content": content}}
