"""Every route, asked by everyone who must not: nobody, wrong and ended tokens, other projects."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from fastapi.routing import iter_route_contexts

from api.access import PUBLIC, scopes_of
from tests.integration.api.conftest import Api, good_sweep
from tests.integration.store.reports import Running, evaluation, steps, stop
from trainer.metrics import Batch
from winnow.types import Quota

MARK = "theirs-only"
"""In every name that belongs to the other project."""

OF_A_PROJECT = {"sweep_id", "trial_id", "project_id", "token_id", "webhook_id", "delivery_id"}
"""Parameters of an address that name something of one project."""
OF_NOBODY = {"name": "tulu", "step": "1"}
"""Other parameters, and what they are filled with. A new one has to be put here or above."""
NOWHERE = {
    "sweep_id": "nowhere000",
    "trial_id": "nowhere000-1",
    "project_id": "nowhere",
    "token_id": "99999999",
    "webhook_id": "wh_" + "0" * 13,
    "delivery_id": "msg_" + "0" * 20,
}
ENDLESS = re.compile(r"/stream$|:follow$")


class Asked(NamedTuple):
    method: str
    path: str
    scope: str
    """What the route asks for."""


def routes(api: Api) -> list[Asked]:
    """All of them but the public ones and the dashboard's files."""
    found: list[Asked] = []
    for route in iter_route_contexts(api.app.routes):
        path = re.sub(r":[a-z]+}", "}", str(route.path))
        if path == "/{path:path}" or path == "/{path}" or path in PUBLIC:
            continue
        assert path.startswith("/v1/"), f"{path} is outside /v1, where nothing guards it"
        (scope,) = set(scopes_of(route.dependant))
        found += [Asked(m, path, scope) for m in sorted((route.methods or set()) - {"HEAD"})]
    return found


@dataclass
class Project:
    """What there is of a project, by the parameter that names it."""

    ids: dict[str, str]
    run: Running

    def address(self, path: str) -> str:
        names = re.findall(r"{(\w+)}", path)
        for name in names:
            assert name in OF_A_PROJECT or name in OF_NOBODY, (
                f"{path}: say at the top of this file whether {name} belongs to a project"
            )
        return path.format_map({**OF_NOBODY, **self.ids})


def populated(api: Api, project: str, mark: str) -> Project:
    """A project with a sweep that runs, a trial with all that a trial has, tokens and webhooks."""
    api.store.add_project(project, Quota())
    sweep = good_sweep() | {"name": f"sweep-{mark}", "project": project}
    made = api.post(sweep)
    assert made.status_code == 201, made.text
    lease = api.store.acquire_lease(made.json()["id"], f"driver-{mark}", 600)
    assert lease is not None
    run = Running(api.store, made.json()["id"], lease)
    trial, attempt = run.started()
    api.store.record(lease, trial, attempt, steps(1, 3))
    api.store.record(lease, trial, attempt, Batch("running", evaluations=(evaluation(3, 1.0),)))
    api.store.decide(lease, stop(trial), acted=False)
    api.store.add_command(run.sweep_id, trial, "pin", f"user-{mark}")
    token = api.store.access.create_token(f"token-{mark}", ("read",), project=project)
    hook = {
        "url": f"https://{mark}.example.com/",
        "project": project,
        "events": ["sweep.finished"],
    }
    webhook = api.http.post("/v1/webhooks", json=hook)
    assert webhook.status_code == 201, webhook.text
    delivery = api.http.post(f"/v1/webhooks/{webhook.json()['id']}:ping").json()
    ids = {
        "sweep_id": run.sweep_id,
        "trial_id": trial,
        "project_id": project,
        "token_id": str(token.id),
        "webhook_id": webhook.json()["id"],
        "delivery_id": delivery["id"],
    }
    return Project(ids, run)


def ask(api: Api, route: Asked, address: str, authorization: str | None) -> Any:
    headers = {} if authorization is None else {"Authorization": authorization}
    api.http.headers.pop("Authorization", None)
    return api.http.request(route.method, address, headers=headers)


def bearer(api: Api, *scopes: str, project: str | None = None, **more: Any) -> str:
    return f"Bearer {api.store.access.create_token('x', scopes, project=project, **more).token}"


def ended(api: Api) -> dict[str, str | None]:
    """Everything that opens no door, and never did or does so no more."""
    access = api.store.access
    revoked = access.create_token("revoked")
    access.revoke_token(revoked.id)
    replaced = access.create_token("replaced")
    access.rotate_token(replaced.id, grace=0)
    in_grace = access.create_token("grace is over")
    access.rotate_token(in_grace.id, grace=0.001)
    expired = access.create_token("expired", seconds=0.001)
    while not isinstance(access.check_token(str(expired.token)), str):
        pass
    while not isinstance(access.check_token(str(in_grace.token)), str):
        pass
    return {
        "nothing": None,
        "a wrong token": "Bearer wnw_" + "x" * 43,
        "another scheme": "Basic b3duZXI6cGFzcw==",
        "an expired token": f"Bearer {expired.token}",
        "a revoked token": f"Bearer {revoked.token}",
        "a rotated token": f"Bearer {replaced.token}",
        "a rotated token after its grace": f"Bearer {in_grace.token}",
    }


def test_no_route_lets_in_who_has_no_token_that_holds(api_on_both: Api) -> None:
    api = api_on_both
    theirs = populated(api, "theirs", MARK)
    keys = ended(api)
    walked = routes(api)
    assert len(walked) >= 40
    for route in walked:
        for what, key in keys.items():
            answer = ask(api, route, theirs.address(route.path), key)
            assert answer.status_code in (401, 429), (route, what, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert MARK not in answer.text


def test_every_route_refuses_a_token_without_its_scope(api: Api) -> None:
    """Whatever else may be wrong with the request: who may not ask is told nothing more."""
    theirs = populated(api, "theirs", MARK)
    lacks = {
        "submit": bearer(api, "read", "control"),
        "control": bearer(api, "read", "submit"),
        "admin": bearer(api, "read", "submit", "control"),
    }
    refused = 0
    for route in routes(api):
        if route.scope == "read":
            continue
        answer = ask(api, route, theirs.address(route.path), lacks[route.scope])
        assert answer.status_code == 403, (route, answer.status_code, answer.text)
        assert answer.json()["type"] == "urn:winnow:problem:scope"
        assert f'scope="{route.scope}"' in answer.headers["www-authenticate"]
        refused += 1
    assert refused >= 20


def test_what_is_another_projects_is_not_there(api_on_both: Api) -> None:
    """An administrator of one project is answered as if the other's things didn't exist."""
    api = api_on_both
    theirs, ours = populated(api, "theirs", MARK), populated(api, "ours", "our-own")
    nothing = Project(NOWHERE, ours.run)
    key = bearer(api, "admin", project="ours")
    asked = 0
    for route in routes(api):
        if not any("{" + name + "}" in route.path for name in OF_A_PROJECT):
            continue
        there, nowhere = (ask(api, route, p.address(route.path), key) for p in (theirs, nothing))
        # Projects are the server's owner's business, one's own too. A body may be asked for first.
        expected = (403,) if route.path.startswith("/v1/projects") else (404, 415)
        if route == ("GET", "/v1/projects/{project_id}", "read"):
            expected = (404,)
        assert there.status_code in expected, (route, there.status_code, there.text)
        assert MARK not in there.text
        assert anonymous(there, theirs) == anonymous(nowhere, nothing), route
        asked += 1
    assert asked >= 30
    assert ours.run.sweep_id != theirs.run.sweep_id


def anonymous(answer: Any, project: Project) -> tuple[int, str]:
    """An answer without what differs from request to request, and without ids."""
    text = re.sub(r'"request_id":"[^"]*"', "", answer.text)
    for name, value in sorted(project.ids.items(), key=lambda item: -len(item[1])):
        text = text.replace(f"'{value}'", name)
    return answer.status_code, text


def test_no_list_tells_of_another_project(api_on_both: Api) -> None:
    api = api_on_both
    theirs, ours = populated(api, "theirs", MARK), populated(api, "ours", "our-own")
    ask(api, Asked("POST", "", ""), f"/v1/sweeps/{theirs.run.sweep_id}:pause", api_key(api))
    ask(api, Asked("POST", "", ""), f"/v1/sweeps/{ours.run.sweep_id}:pause", api_key(api))
    key = bearer(api, "admin", project="ours")
    told = {}
    for route in routes(api):
        if route.method != "GET" or ENDLESS.search(route.path):
            continue
        answer = ask(api, route, ours.address(route.path), key)
        told[route.path] = answer.text
        for mark in (MARK, theirs.run.sweep_id, '"theirs"'):
            assert mark not in answer.text, (route, mark, answer.text)
    for path in ("/v1/sweeps", "/v1/projects", "/v1/tokens", "/v1/webhooks", "/v1/audit"):
        assert "our" in told[path], path


def test_nothing_can_be_put_into_another_project(api: Api) -> None:
    theirs = populated(api, "theirs", MARK)
    populated(api, "ours", "our-own")
    before = len(api.store.list_sweeps().items), len(api.store.access.tokens())
    headers = {"Authorization": bearer(api, "admin", project="ours")}
    hook = {"url": "https://example.com/", "project": "theirs", "events": ["sweep.finished"]}
    for path, body in (
        ("/v1/sweeps", good_sweep() | {"project": "theirs"}),
        ("/v1/sweeps:validate", good_sweep() | {"project": "theirs"}),
        ("/v1/tokens", {"name": "a way in", "project": "theirs"}),
        ("/v1/webhooks", hook),
        ("/v1/projects", {"id": "more"}),
    ):
        answer = api.http.post(path, json=body, headers=headers)
        refused = answer.status_code in (403, 422) or answer.json().get("valid") is False
        assert refused, (path, answer.status_code, answer.text)
        assert MARK not in answer.text
    after = len(api.store.list_sweeps().items), len(api.store.access.tokens())
    assert after == (before[0], before[1] + 1)
    assert theirs.run.sweep_id


def api_key(api: Api) -> str:
    return f"Bearer {api.token}"
