"""Who asks, and what they may: every route under /v1 names the scope that it needs.

A route takes one of `Reader`, `Submitter`, `Controller`, `Admin`, `Operator` as a parameter, or one
of `READ`, `SUBMIT`, `CONTROL`, `ADMIN`, `OPERATE` among its `dependencies`; `check_every_route`
refuses an application with a route that does neither. What belongs to a sweep or a trial is asked
for by `SweepId` or `TrialId`: a token of another project finds nothing there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Path, Request
from fastapi.routing import iter_route_contexts

from api.errors import ProblemError
from api.parameters import ID
from api.services import StoreOf
from orchestrator.errors import NotFound
from orchestrator.store import Token
from winnow.tokens import Scope

GRANTS: dict[str, frozenset[Scope]] = {
    "read": frozenset({"read"}),
    "submit": frozenset({"read", "submit"}),
    "control": frozenset({"read", "control"}),
    "admin": frozenset({"read", "submit", "control", "admin"}),
}
"""What each scope of a token allows. `read`: look at everything. `submit`: create sweeps.
`control`: change, stop and extend them. `admin`: projects, tokens, webhooks, settings."""

PUBLIC = frozenset({"/v1/health", "/v1/ready", "/v1/openapi.json"})
"""Answered without a token."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request comes from. `project` None: it sees all projects."""

    id: str
    name: str
    scopes: frozenset[Scope]
    project: str | None = None
    token_id: int | None = None
    session_id: int | None = None
    """Set if it came with the cookie of a session."""

    @classmethod
    def of(cls, token: Token) -> Principal:
        granted: frozenset[Scope] = frozenset().union(*(GRANTS.get(s, ()) for s in token.scopes))
        return cls(
            f"token:{token.id}", token.name, granted, token.project, token.id, token.session_id
        )

    def sees(self, project: str) -> bool:
        return self.project is None or self.project == project


class Needs:
    """A dependency: the principal, if it has the scope. `everywhere`: and isn't bound to a project.
    Raises ProblemError 403."""

    def __init__(self, scope: Scope, *, everywhere: bool = False) -> None:
        self.scope: Scope = scope
        self.everywhere = everywhere

    def __call__(self, request: Request) -> Principal:
        who: Principal = request.state.principal
        if self.scope not in who.scopes:
            raise ProblemError(
                403,
                "scope",
                f"this needs a token with the scope `{self.scope}`; this one has "
                f"{', '.join(f'`{s}`' for s in sorted(who.scopes)) or 'none'}",
                headers={
                    "WWW-Authenticate": 'Bearer realm="winnow", error="insufficient_scope", '
                    f'scope="{self.scope}"'
                },
            )
        if self.everywhere and who.project is not None:
            raise ProblemError(
                403,
                "project",
                f"this concerns all projects, and this token is bound to {who.project}; use one "
                "that isn't",
            )
        return who


READ, SUBMIT, CONTROL, ADMIN = (
    Depends(Needs(scope)) for scope in ("read", "submit", "control", "admin")
)
OPERATE = Depends(Needs("admin", everywhere=True))
"""For what concerns the whole server: projects and their quotas, settings, code that may run."""
Reader = Annotated[Principal, READ]
Submitter = Annotated[Principal, SUBMIT]
Controller = Annotated[Principal, CONTROL]
Admin = Annotated[Principal, ADMIN]
Operator = Annotated[Principal, OPERATE]


def principal(request: Request) -> Principal:
    """Who asks, whatever they may."""
    return request.state.principal


Asker = Annotated[Principal, Depends(principal)]


def visible_sweep(sweep_id: Annotated[str, Path(pattern=ID)], store: StoreOf, who: Asker) -> str:
    """The id of a sweep that the principal may see. Whether it exists is the handler's to find."""
    if who.project is not None and not who.sees(store.project_of(sweep_id)):
        raise NotFound("sweep", sweep_id)
    return sweep_id


def visible_trial(trial_id: Annotated[str, Path(pattern=ID)], store: StoreOf, who: Asker) -> str:
    if who.project is not None and not who.sees(store.project_of_trial(trial_id)):
        raise NotFound("trial", trial_id)
    return trial_id


SweepId = Annotated[str, Depends(visible_sweep)]
TrialId = Annotated[str, Depends(visible_trial)]


def scopes_of(dependant: Any) -> Iterator[Scope]:
    """The scopes that a route's dependencies ask for."""
    for below in dependant.dependencies:
        if isinstance(below.call, Needs):
            yield below.call.scope
        yield from scopes_of(below)


def check_every_route(app: FastAPI, public: Callable[[str], bool]) -> None:
    """Raise RuntimeError unless every route that isn't public names one scope.

    That scope is asked for before anything else, the body's form too: who may not ask is told
    nothing about the question.
    """
    for route in iter_route_contexts(app.routes):
        dependant = getattr(route, "dependant", None)
        if public(str(route.path)) or dependant is None:
            continue
        if len(set(scopes_of(dependant))) != 1:
            raise RuntimeError(f"{route.path} does not name the scope that it needs")
        dependant.dependencies.sort(key=lambda below: not isinstance(below.call, Needs))
