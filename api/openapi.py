"""The API's own description, OpenAPI 3.1: routes, what they take, what they answer and refuse.

python -m api.openapi > docs/openapi.json       after a change to the API
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts

from api.access import PUBLIC, scopes_of
from api.documents import SENT
from api.errors import TITLES
from api.examples import BODIES, PROBLEMS
from winnow.types import Problem

PROBLEM = "application/problem+json"

EVERYWHERE = (400, 404, 408, 414, 429, 431, 500, 503)
"""What any address may answer: a host that is not the server's, a head that is too long or too
slow, too many requests, the server's own failures."""
WITH_TOKEN = (401, 403)
WITH_BODY = (413, 415, 422)

_TEXTS = {
    "ETag": "What the answer says, as a hash; for `If-None-Match` and `If-Match`",
    "Link": 'The next page, as `<address>; rel="next"`',
    "Location": "Where the new resource is",
    "X-Request-Id": "Names this request in the server's log",
    "Idempotency-Replayed": "`true`: this was answered before, and had no second effect",
    "RateLimit": "What is left of the limit: requests (r), and the seconds (t) until all are",
    "RateLimit-Policy": "The limit that counts here: requests (q) in so many seconds (w)",
    "Retry-After": "Seconds after which to try again",
    "Allow": "The methods of this address",
    "WWW-Authenticate": "How to sign in",
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The description of `app`, made once. Raises RuntimeError if two operations have one name."""
    if app.openapi_schema is None:
        app.openapi_schema = _made(app)
    return app.openapi_schema


def _made(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(
        title=app.title,
        version=app.version,
        routes=app.routes,
        summary="Hyperparameter sweeps for supervised fine-tuning",
        description="Guide: docs/guide-api.md. Errors are problems by RFC 9457.",
    )
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for model in (*SENT.values(), Problem):
        body = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update({**body.pop("$defs", {}), model.__name__: body})
    components["headers"] = {
        name: {"description": text, "schema": {"type": "string"}} for name, text in _TEXTS.items()
    }
    components["responses"] = {f"Problem{status}": _problem(status) for status in PROBLEMS}
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "See docs/guide-access.md"},
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": "winnow_session",
            "description": "The dashboard's sign-in; its name ends with the server's port",
        },
    }
    names: set[str] = set()
    routes = _routes(app)
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            route = routes[path, method.upper()]
            operation["operationId"] = route.name
            if route.name in names:
                raise RuntimeError(f"two operations are called {route.name}")
            names.add(route.name)
            _complete(operation, method, path, sorted(set(scopes_of(route.dependant))))
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    return made


def _routes(app: FastAPI) -> dict[tuple[str, str], Any]:
    """Routes by their address, as OpenAPI writes it, and method."""
    return {
        (str(route.path_format), method): route
        for route in iter_route_contexts(app.routes)
        if getattr(route, "dependant", None) is not None
        for method in route.methods or ()
    }


def _complete(operation: dict[str, Any], method: str, path: str, scopes: list[str]) -> None:
    responses = operation["responses"]
    responses.pop("default", None)
    public = path in PUBLIC or not scopes
    names = {parameter["name"] for parameter in operation.get("parameters", ())}
    for status in _refusals(operation, method, public, names):
        if str(status) not in responses:
            responses[str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    operation["security"] = [] if public else [{"token": scopes}, {"session": scopes}]
    for status, response in responses.items():
        if "$ref" not in response:
            response["headers"] = response.get("headers", {}) | _headers(status, response, names)
    if method == "get" and "application/json" in responses.get("200", {}).get("content", {}):
        responses["304"] = {"description": "It is as the ETag in `If-None-Match` says"}
        operation.setdefault("parameters", []).append(
            {
                "name": "If-None-Match",
                "in": "header",
                "description": "An ETag: answer only what is no longer as it was then",
                "schema": {"type": "string"},
            }
        )
    body = operation.get("requestBody", {}).get("content", {})
    for content in body.values():
        named = content["schema"].get("$ref", "").rsplit("/", 1)[-1]
        if named in BODIES:
            content["examples"] = {"example": {"value": BODIES[named]}}
    operation["responses"] = dict(sorted(responses.items()))


def _refusals(
    operation: dict[str, Any], method: str, public: bool, names: set[str]
) -> Iterator[int]:
    yield from EVERYWHERE
    if not public:
        yield from WITH_TOKEN
    if "requestBody" in operation:
        yield from WITH_BODY
    elif names or method != "get":
        yield 422
    if method != "get":
        yield 409
        yield 413
        yield 415
    if "If-Match" in names:
        yield 412
    if "archive" in operation["operationId"] or "export_model" in operation["operationId"]:
        yield 410


def _headers(status: str, response: dict[str, Any], names: set[str]) -> dict[str, Any]:
    found = ["X-Request-Id", "RateLimit", "RateLimit-Policy"]
    if status == "200" and "application/json" in response.get("content", {}):
        found.append("ETag")
        if "cursor" in names:
            found.append("Link")
    if status == "201":
        found.append("Location")
    if status.startswith("2") and "Idempotency-Key" in names:
        found.append("Idempotency-Replayed")
    return {name: {"$ref": f"#/components/headers/{name}"} for name in found}


def _problem(status: int) -> dict[str, Any]:
    named = {401: ["WWW-Authenticate"], 405: ["Allow"], 429: ["Retry-After"], 503: ["Retry-After"]}
    headers = ["X-Request-Id", *named.get(status, [])]
    kind, detail, errors = PROBLEMS[status]
    example = Problem(
        type=f"urn:winnow:problem:{kind}",
        title=TITLES.get(status, "The request was refused"),
        status=status,
        detail=detail,
        errors=errors,
        request_id="6f1c1e0e9a3b4c5d",
    )
    return {
        "description": TITLES.get(status, "The request was refused"),
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": {
            PROBLEM: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {kind: {"value": example.model_dump(mode="json")}},
            }
        },
    }


def text(description: dict[str, Any]) -> str:
    """As it is committed. The version of the program is left out: it changes with every release."""
    info = {**description["info"], "version": "1"}
    return json.dumps({**description, "info": info}, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write the description of the API to stdout."""
    from api.app import create_app
    from orchestrator.settings import Settings
    from orchestrator.store import migrate

    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/winnow.db"
        migrate(url)
        app = create_app(Settings(home=Path(folder), database_url=url))
        sys.stdout.write(text(describe(app)))


if __name__ == "__main__":
    main()
