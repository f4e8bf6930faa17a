"""The composition root: settings in, application out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api import errors, idempotency
from api.access import PUBLIC, check_every_route
from api.audit import Recorder
from api.dashboard import HERE, dashboard
from api.exposition import Port, make_registry
from api.guard import Guard, rules
from api.observed import HttpMetrics, Observed, RouteNoted
from api.openapi import describe
from api.resources import Resources
from api.routers import (
    audit,
    changes,
    checkpoints,
    cluster,
    code,
    exports,
    health,
    history,
    importance,
    leaderboard,
    logs,
    metrics,
    projects,
    prometheus,
    recipes,
    session,
    stream,
    sweeps,
    tokens,
    trials,
    validate,
    webhooks,
)
from api.services import Services
from api.stream import Hub
from api.tokens import Verifier, ensure_token
from orchestrator.admission.preflight import Preflight, preflight
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

    `check_files` replaces opening a sweep's data and model (`orchestrator.admission.preflight`).
    """
    store = Store(settings.database_url)
    cache = str(settings.home / "cache" / "tokens")
    verifier, recorder = Verifier(store.access), Recorder(store.access)

    metrics_of = make_registry(store)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ensure_token(store, settings.home)
        recorder.start()
        port = settings.metrics_port
        apart = None if port is None else Port(metrics_of, settings.metrics_host, port)
        yield
        if apart is not None:
            apart.close()
        recorder.stop()
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
        preflight=check_files
        or partial(
            preflight,
            cache_dir=cache,
            here=settings.ray_is_here,
            roots=settings.roots,
            passed=settings.environment,
        ),
        hub=Hub(store),
        verifier=verifier,
        recorder=recorder,
    )
    errors.install(app)
    idempotency.install(app)

    app.add_middleware(RouteNoted)
    app.add_middleware(Resources, routes=app)
    app.add_middleware(Guard, rules=rules(settings, verifier, recorder))
    app.state.metrics = metrics_of
    app.add_middleware(Observed, metrics=HttpMetrics(metrics_of))
    if settings.proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.proxies))
    for router in (
        r.router
        for r in (
            health,
            prometheus,
            recipes,
            projects,
            tokens,
            session,
            audit,
            validate,
            sweeps,
            changes,
            webhooks,
            trials,
            leaderboard,
            importance,
            metrics,
            stream,
            history,
            checkpoints,
            code,
            logs,
            exports,
            cluster,
        )
    ):
        # Straight into the application: each level of routers works out all its routes again.
        app.include_router(
            router,
            prefix="/v1",
            responses={"default": {"model": Problem, "description": "application/problem+json"}},
        )
    app.include_router(dashboard(static))
    check_every_route(app, lambda path: path in PUBLIC or not path.startswith("/v1/"))
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    return app
