"""Talk to a winnow server from Python.

import winnow
client = winnow.Client()                      # the server that `winnow up` runs here
sweep = client.submit("sweep.yaml")
for update in client.watch(sweep.id):
    ...
print(client.best(sweep.id).checkpoint)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, cast

import httpx2
from pydantic import BaseModel

from winnow.code import AllowedCode
from winnow.connection import parse, raise_for_problem
from winnow.errors import ServerNotFound, WinnowError
from winnow.files import Files
from winnow.load import load_sweep_file, resolve_paths
from winnow.replays import Replay
from winnow.spec import SchedulerSpec, SweepSpec
from winnow.tokens import AuditEntry, Token, TokenSecret
from winnow.types import (
    Command,
    Curve,
    Decision,
    EvaluationPoint,
    Event,
    Health,
    Metrics,
    Page,
    Project,
    Quota,
    Recipe,
    Sweep,
    Trial,
)
from winnow.validation import Validation
from winnow.webhook_calls import WebhookCalls

SUBMIT_TIMEOUT = 300.0
"""Seconds. Before it accepts a sweep, the server opens its data and its model."""
REPLAY_TIMEOUT = 300.0
"""Seconds. A sweep of a thousand trials takes some time to read and to replay."""
STREAM_SILENCE = 35.0
"""Seconds without a byte after which a stream is opened anew. The server sends one every 10 s."""


@dataclass(frozen=True)
class Update:
    """One message of a sweep's live stream; `kind` says which field is set.

    `event`: something that happened, once and in order. `progress`: trials whose numbers or state
    changed. `sweep`: the changed summary. `points`: new points of the learning curves; merge them
    by step. `reset`: events are missing from here on, because they are no longer kept or were read
    too slowly; read the state anew. `end`: the sweep has ended and all was sent; the final `sweep`.
    """

    kind: Literal["event", "progress", "sweep", "points", "reset", "end"]
    event: Event | None = None
    trials: tuple[Trial, ...] = ()
    curves: tuple[Curve, ...] = ()
    sweep: Sweep | None = None


class Client(Files):
    """A connection to a winnow server.

    `url` and `token` default to `WINNOW_URL` and `WINNOW_TOKEN`, then to the server that
    `winnow up` runs on this machine. Methods raise ApiError if the server refuses, with its
    reason, and ServerNotFound if none answers. What fails on its way is sent again, and takes
    effect once.
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, *, timeout: float = 30.0
    ) -> None:
        super().__init__(url, token, timeout=timeout)
        self.webhooks = WebhookCalls(self._request, self._pages, parse)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def health(self) -> Health:
        """Whether the server and its parts are up. Needs no token."""
        return self._get(Health, "/v1/health")

    def submit(self, sweep: SweepSpec | Mapping[str, Any] | str | Path) -> Sweep:
        """Start a sweep from a file, a mapping or a SweepSpec.

        Relative paths in it are read from the file's folder, or from the working directory.
        """
        body = _body(sweep)
        response = self._request("POST", "/v1/sweeps", json=body, timeout=SUBMIT_TIMEOUT)
        return parse(Sweep, response)

    def validate(self, sweep: SweepSpec | Mapping[str, Any] | str | Path) -> Validation:
        """Check a sweep as `submit` does, without starting it: what it would take, what is odd."""
        body = _body(sweep)
        response = self._request("POST", "/v1/sweeps:validate", json=body, timeout=SUBMIT_TIMEOUT)
        return parse(Validation, response)

    def allowed_code(self) -> Iterator[AllowedCode]:
        """Models whose own code may run, each at one revision."""
        return self._pages(AllowedCode, "/v1/allowed-code")

    def allow_code(self, model: str, revision: str | None = None) -> AllowedCode:
        """Let a model's own code run. Of a folder, the revision is taken now if it is left out."""
        body = {"model": model, "revision": revision}
        return parse(AllowedCode, self._request("PUT", "/v1/allowed-code", json=body))

    def revoke_code(self, model: str, revision: str) -> None:
        wanted = {"model": model, "revision": revision}
        self._request("DELETE", "/v1/allowed-code", params=wanted)

    def sweeps(self) -> Iterator[Sweep]:
        """All sweeps, newest first; pages are fetched as they are needed."""
        return self._pages(Sweep, "/v1/sweeps")

    def sweep(self, sweep_id: str) -> Sweep:
        return self._get(Sweep, f"/v1/sweeps/{sweep_id}")

    def replay(
        self,
        sweep_id: str,
        scheduler: SchedulerSpec | Mapping[str, Any] | str,
        *,
        seed: int | None = None,
        workers: int | None = None,
    ) -> Replay:
        """An ended sweep under another scheduler: what that would have saved, and lost.

        `scheduler` is a name, or what a sweep file says under `scheduler`. Rungs that it doesn't
        give are the sweep's own. `workers` trials run at once; default: as many as did.
        """
        if isinstance(scheduler, str):
            scheduler = {"name": scheduler}
        elif isinstance(scheduler, SchedulerSpec):
            scheduler = scheduler.model_dump(mode="json", exclude_unset=True)
        body = {"scheduler": dict(scheduler), "seed": seed, "workers": workers}
        path = f"/v1/sweeps/{sweep_id}:replay"
        return parse(Replay, self._request("POST", path, json=body, timeout=REPLAY_TIMEOUT))

    def trials(self, sweep_id: str) -> list[Trial]:
        return list(self._pages(Trial, f"/v1/sweeps/{sweep_id}/trials"))

    def trial(self, trial_id: str) -> Trial:
        return self._get(Trial, f"/v1/trials/{trial_id}")

    def metrics(
        self,
        sweep_id: str,
        *,
        trials: list[str] | None = None,
        max_points: int = 500,
        after_step: int = 0,
        details: bool = False,
    ) -> Metrics:
        """Learning curves, thinned to at most `max_points` a trial, and all evaluations.

        `details` adds throughput, memory, padding and gradient noise to each point.
        """
        params: dict[str, Any] = {"max_points": max_points, "after_step": after_step}
        if details:
            params["details"] = "true"
        if trials is not None:
            params["trials"] = ",".join(trials)
        curves: list[Curve] = []
        evaluations: list[EvaluationPoint] = []
        while True:
            page = self._get(Metrics, f"/v1/sweeps/{sweep_id}/metrics", params)
            curves += page.curves
            evaluations += page.evaluations
            if page.next is None:
                return Metrics(curves=curves, evaluations=evaluations)
            params["cursor"] = page.next

    def decisions(self, sweep_id: str) -> list[Decision]:
        """Everything the scheduler decided about the sweep's trials, in order, with reasons."""
        return list(self._pages(Decision, f"/v1/sweeps/{sweep_id}/decisions"))

    def events(self, sweep_id: str, after: int = 0) -> list[Event]:
        """What happened to a sweep since the event `after`, in order."""
        return list(self._pages(Event, f"/v1/sweeps/{sweep_id}/events", {"after": after}))

    def recipes(self) -> list[Recipe]:
        """The recipes that a sweep can start from, with every field that they set."""
        return list(self._pages(Recipe, "/v1/recipes"))

    def best(self, sweep_id: str) -> Trial:
        """The best finished trial. Raises WinnowError if none has finished."""
        sweep = self.sweep(sweep_id)
        if sweep.summary.best_trial is None:
            raise WinnowError(
                f"no trial of sweep {sweep.name} has finished, so none is the best "
                f"(the sweep is {sweep.state.value})"
            )
        return self.trial(sweep.summary.best_trial)

    # --- changes to what runs: each returns the command, whose `result` comes a moment later ----

    def stop(self, trial_id: str) -> Command:
        """Ask for one trial to end; its sweep goes on."""
        return self._ask(trial_id, "stop")

    def cancel(self, sweep_id: str) -> Command:
        """Ask for a sweep and all its trials to end."""
        return self._ask(sweep_id, "cancel")

    def pause(self, id: str) -> Command:
        """Ask for a trial, or a whole sweep, to free its workers until it is resumed."""
        return self._ask(id, "pause")

    def resume(self, id: str) -> Command:
        """Ask for a paused trial or sweep to go on."""
        return self._ask(id, "resume")

    def revive(self, trial_id: str) -> Command:
        """Ask for a trial that was stopped, failed or was canceled to go on from where it was."""
        return self._ask(trial_id, "revive")

    def pin(self, trial_id: str) -> Command:
        """Ask that no scheduler ends this trial, and that its model is kept."""
        return self._ask(trial_id, "pin")

    def unpin(self, trial_id: str) -> Command:
        return self._ask(trial_id, "unpin")

    def clone(self, trial_id: str, params: Mapping[str, Any] | None = None) -> Command:
        """Ask for a new trial like this one, with other values for `params`."""
        return self._ask(trial_id, "clone", {"params": dict(params or {})})

    def add(
        self, sweep_id: str, params: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    ) -> list[Command]:
        """Ask for a configuration, or several, to be run beside those of the sampler.

        One command each, in their order.
        """
        many = [params] if isinstance(params, Mapping) else params
        body = {"params": [dict(one) for one in many]}
        response = self._request("POST", f"/v1/sweeps/{sweep_id}:add", json=body)
        return cast("Page[Command]", parse(Page[Command], response)).items

    def extend(self, sweep_id: str, trials: int) -> Command:
        """Ask for more trials from the sampler. An ended sweep goes on."""
        return self._ask(sweep_id, "extend", {"trials": trials})

    def narrow(self, sweep_id: str, space: Mapping[str, Any]) -> Command:
        """Ask the sampler to propose from less: what is left of each parameter that is named."""
        return self._ask(sweep_id, "narrow", {"space": dict(space)})

    def set(self, sweep_id: str, **changes: Any) -> Command:
        """Ask for another `max_concurrent`, `priority`, `weight` or `budget` (a mapping).

        What is left out stays; None for `max_concurrent`, or for a limit in `budget`, lifts it.
        """
        return self._ask(sweep_id, "set", changes)

    def commands(self, sweep_id: str, after: int = 0) -> list[Command]:
        """What was asked of a sweep and its trials, by whom, and what became of it, in order."""
        return list(self._pages(Command, f"/v1/sweeps/{sweep_id}/commands", {"after": after}))

    def wait(self, command: Command, timeout: float = 60.0) -> Command:
        """The command once it has its result. Raises WinnowError if that takes too long."""
        deadline = time.monotonic() + timeout
        path = f"/v1/sweeps/{command.sweep_id}/commands"
        while command.result is None:
            if time.monotonic() > deadline:
                raise WinnowError(
                    f"{command.kind} of {command.trial_id or command.sweep_id} was asked for, and "
                    f"nobody has carried it out within {timeout:g} s; it stays asked for. Is the "
                    "orchestrator running (`winnow up`)?"
                )
            time.sleep(0.2)
            asked = {"after": command.id - 1, "limit": 1}
            (command,) = self._get(Page[Command], path, asked).items
        return command

    # --- projects -------------------------------------------------------------------------------

    def projects(self) -> list[Project]:
        """All projects by name, each with its quota and what its sweeps use."""
        return list(self._pages(Project, "/v1/projects"))

    def project(self, name: str) -> Project:
        return self._get(Project, f"/v1/projects/{name}")

    def create_project(
        self, name: str, quota: Quota | None = None, *, weight: float = 1.0
    ) -> Project:
        body = {"id": name, "quota": (quota or Quota()).model_dump(), "weight": weight}
        return parse(Project, self._request("POST", "/v1/projects", json=body))

    def change_project(self, name: str, quota: Quota, *, weight: float = 1.0) -> Project:
        """Replace a project's quota and weight."""
        body = {"quota": quota.model_dump(), "weight": weight}
        return parse(Project, self._request("PUT", f"/v1/projects/{name}", json=body))

    # --- tokens and the audit log ---------------------------------------------------------------

    def whoami(self) -> Token:
        """The token that this client uses: its scopes, its project, when it ends."""
        return self._get(Token, "/v1/tokens/me")

    def tokens(self) -> Iterator[Token]:
        """All tokens, newest first, ended ones too."""
        return self._pages(Token, "/v1/tokens")

    def token(self, token_id: int) -> Token:
        return self._get(Token, f"/v1/tokens/{token_id}")

    def create_token(
        self,
        name: str,
        scopes: Sequence[str] = ("read",),
        *,
        project: str | None = None,
        expires_in: int | Literal["default"] | None = "default",
    ) -> TokenSecret:
        """A new token, whose text (`token`) is told only now.

        `expires_in` seconds; None: never. By default it ends in 90 days.
        """
        body: dict[str, Any] = {"name": name, "scopes": list(scopes), "project": project}
        if expires_in != "default":
            body["expires_in"] = expires_in
        return parse(TokenSecret, self._request("POST", "/v1/tokens", json=body))

    def rotate_token(
        self, token_id: int, *, grace_seconds: int = 3600, expires_in: int | None = None
    ) -> TokenSecret:
        """A token with a new text; the old one works for `grace_seconds` more.

        `expires_in`: it now ends so many seconds from now.
        """
        body = {"grace_seconds": grace_seconds, "expires_in": expires_in}
        return parse(TokenSecret, self._request("POST", f"/v1/tokens/{token_id}:rotate", json=body))

    def revoke_token(self, token_id: int) -> Token:
        """End a token, at once and for good."""
        return parse(Token, self._request("DELETE", f"/v1/tokens/{token_id}"))

    def audit(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        project: str | None = None,
        since: datetime | None = None,
    ) -> Iterator[AuditEntry]:
        """Who asked for which change, and what was answered, newest first.

        `action` as `tokens.revoke`, or `tokens.` for all that concerns tokens.
        """
        given: dict[str, Any] = {"actor": actor, "action": action, "project": project}
        given["since"] = None if since is None else since.isoformat()
        params = {name: value for name, value in given.items() if value is not None}
        return self._pages(AuditEntry, "/v1/audit", params)

    def _ask(self, id: str, action: str, body: dict[str, Any] | None = None) -> Command:
        """A trial's id is its sweep's, a dash and its number."""
        what = "trials" if "-" in id else "sweeps"
        options = {} if body is None else {"json": body}
        return parse(Command, self._request("POST", f"/v1/{what}/{id}:{action}", **options))

    def watch(self, sweep_id: str, after: int = 0, *, patience: float = 60.0) -> Iterator[Update]:
        """Follow a sweep live until it ends; events start after the id `after`.

        A lost connection is taken up again where it broke off: no event is lost or seen twice.
        Raises ServerNotFound once the server has been away for `patience` seconds.
        """
        last_id, lost_since = after, None
        while True:
            try:
                for message in self._stream(sweep_id, last_id):
                    lost_since = None
                    if message.event == "message":
                        continue
                    update = _update(message)
                    if update.event is not None:
                        if update.event.id <= last_id:
                            continue
                        last_id = update.event.id
                    elif update.kind == "reset":
                        last_id = max(last_id, int(message.id or 0))
                    yield update
                    if update.kind == "end":
                        return
            except (httpx2.TransportError, ServerNotFound) as error:
                now = time.monotonic()
                lost_since = lost_since if lost_since is not None else now
                if now - lost_since > patience:
                    raise ServerNotFound(
                        f"the connection to {self.url} was lost and could not be made again "
                        f"for {patience:g} s ({error})"
                    ) from None
            time.sleep(0.5)

    def _stream(self, sweep_id: str, last_id: int) -> Iterator[httpx2.ServerSentEvent]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last_id)}
        timeout = httpx2.Timeout(10.0, read=STREAM_SILENCE)
        url = f"/v1/sweeps/{sweep_id}/stream"
        with self._http.stream("GET", url, headers=headers, timeout=timeout) as response:
            if response.status_code >= 500:
                raise ServerNotFound(f"the server answers {response.status_code}")
            if response.is_error:
                response.read()
                raise_for_problem(response)
            yield from httpx2.EventSource(response, max_event_size=None)


def _body(sweep: SweepSpec | Mapping[str, Any] | str | Path) -> dict[str, Any]:
    if isinstance(sweep, (str, Path)):
        return load_sweep_file(sweep)
    if isinstance(sweep, SweepSpec):
        return resolve_paths(sweep.model_dump(mode="json", exclude_unset=True), Path.cwd())
    return resolve_paths(dict(sweep), Path.cwd())


class _Progress(BaseModel):
    trials: tuple[Trial, ...]


class _Points(BaseModel):
    curves: tuple[Curve, ...]


def _update(message: httpx2.ServerSentEvent) -> Update:
    match message.event:
        case "progress":
            return Update("progress", trials=_Progress.model_validate_json(message.data).trials)
        case "points":
            return Update("points", curves=_Points.model_validate_json(message.data).curves)
        case "sweep":
            return Update("sweep", sweep=Sweep.model_validate_json(message.data))
        case "reset":
            return Update("reset")
        case "end":
            return Update("end", sweep=Sweep.model_validate_json(message.data))
        case _:
            return Update("event", event=Event.model_validate_json(message.data))
