"""Serves the built dashboard: files that hold no data, under a policy that lets nothing else in."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response

from api.errors import ProblemError

HERE = Path(__file__).parent / "static"

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; font-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
}

NOT_BUILT = """<!doctype html><html lang="en"><title>winnow</title>
<h1>The dashboard is not built</h1>
<p>The API runs. To build the dashboard: <code>make dashboard</code>, then load this page again.</p>
</html>"""


def dashboard(folder: Path = HERE) -> APIRouter:
    """Routes for everything outside /v1: a file if there is one, else the dashboard's page."""
    router = APIRouter()
    root = folder.resolve()

    @router.api_route("/{path:path}", methods=["GET", "HEAD"], include_in_schema=False)
    def file(path: str) -> Response:
        if path == "v1" or path.startswith("v1/"):
            raise HTTPException(404)  # said by api.errors, for it may be 405
        index = root / "index.html"
        if not index.is_file():
            return HTMLResponse(NOT_BUILT, 503, HEADERS)
        wanted = (root / path).resolve() if "\0" not in path else root
        if wanted.is_relative_to(root) and wanted.is_file() and wanted != index:
            # Names under assets/ hold their content's hash: a browser may keep them for good.
            keep = (
                "public, max-age=31536000, immutable" if path.startswith("assets/") else "no-cache"
            )
            return FileResponse(wanted, headers={**HEADERS, "Cache-Control": keep})
        if "." in path.rsplit("/", 1)[-1] and wanted != index:
            raise ProblemError(404, "not-found", f"the dashboard has no file {path}")
        return FileResponse(index, headers={**HEADERS, "Cache-Control": "no-cache"})

    return router
