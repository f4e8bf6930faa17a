"""The API's own description, OpenAPI 3.1: routes, what they take, what they answer and refuse."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.documents import SENT


def describe(app: FastAPI) -> dict[str, Any]:
    """OpenAPI with the schemas of what is sent, which request bodies read by hand leave out."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        components = schema.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        for model in SENT.values():
            body = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update({**body.pop("$defs", {}), model.__name__: body})
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"token": []}]
        app.openapi_schema = schema
    return app.openapi_schema
