"""What the routes work with, made once by the composition root."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from orchestrator.admission.preflight import Preflight
from orchestrator.settings import Settings
from orchestrator.store import Store
from winnow.spec import SweepSpec

if TYPE_CHECKING:
    from api.audit import Recorder
    from api.stream import Hub
    from api.tokens import Verifier

CHECKS_AT_ONCE = 2
"""Opening data and models takes a process and its memory each; further submitters wait."""

REPLAYS_AT_ONCE = 1
"""A replay computes for seconds, and the server has streams to serve meanwhile."""


@dataclass(frozen=True)
class Services:
    settings: Settings
    store: Store
    preflight: Callable[[SweepSpec], Preflight]
    hub: Hub
    verifier: Verifier
    recorder: Recorder
    checks: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(CHECKS_AT_ONCE))
    replays: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(REPLAYS_AT_ONCE))
    analyses: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(REPLAYS_AT_ONCE))


def services(request: Request) -> Services:
    return request.app.state.services


def store(request: Request) -> Store:
    return services(request).store


ServicesOf = Annotated[Services, Depends(services)]
StoreOf = Annotated[Store, Depends(store)]
