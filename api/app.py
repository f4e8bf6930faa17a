"""The composition root: settings in, application out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import APIRouter, FastAPI

from api import errors, idempotency
from api.access import PUBLIC, Principal, check_every_route
from api.dashboard import HERE, dashboard
from api.guard import LOOPBACK, Guard
from api.openapi import describe
from api.resources import Resources
from api.routers import (
    changes,
    health,
    history,
    metrics,
    projects,
    recipes,
    sweeps,
    trials,
    validate,
    webhooks,
)
from api.services import Services
from api.tokens import ensure_token
from orchestrator.preflight import Preflight, preflight
from orchestrator.settings import Settings
from orchestrator.store import Store
from winnow import __version__
from winnow.spec import SweepSpec
from winnow.types import Problem


def create_app(
    settings: Settings,
    *,
    check_files: Callable[[SweepSpec], Preflight] | None = None,
    static: Path = HERE,
) -> FastAPI:
    """The API and the dashboard on the database that `settings` name. Its schema must be there.

    `check_files` replaces opening a sweep's data and model (`orchestrator.preflight`).
    """
    store = Store(settings.database_url)
    cache = str(settings.home / "cache" / "tokens")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ensure_token(store, settings.home)
        yield
        store.close()

    app = FastAPI(
        title="winnow",
        version=__version__,
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.services = Services(
        settings=settings,
        store=store,
        preflight=check_files or partial(preflight, cache_dir=cache, here=settings.ray_is_here),
    )
    errors.install(app)
    idempotency.install(app)

    def verify(token: str) -> Principal | None:
        found = store.verify_token(token)
        return None if found is None else Principal.of(found)

    loopback_only = settings.host in LOOPBACK
    app.add_middleware(Resources, routes=app)
    app.add_middleware(Guard, verify=verify, allowed_hosts=LOOPBACK if loopback_only else None)
    v1 = APIRouter(
        prefix="/v1",
        responses={"default": {"model": Problem, "description": "application/problem+json"}},
    )
    for router in (
        r.router
        for r in (
            health,
            recipes,
            projects,
            validate,
            sweeps,
            changes,
            webhooks,
            trials,
            metrics,
            history,
        )
    ):
        v1.include_router(router)
    app.include_router(v1)
    app.include_router(dashboard(static))
    check_every_route(app, lambda path: path in PUBLIC or not path.startswith("/v1/"))
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    return app
