"""Changes are asked for: a request becomes a command, which the sweep's driver carries out.

A route that asks for one takes `ask: AskOf`, and `CONTROL` among its dependencies. With an
Idempotency-Key it is asked for once, with `If-Match` only of what still is as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends

from api.access import Asker, Principal
from api.idempotency import OnceOf
from api.resources import IfMatch, Unchanged
from api.services import StoreOf
from orchestrator.store import Once, Store
from winnow.types import Command, CommandKind, Page

Payload = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """Asks in the name of whoever sent the request. Raises Conflict where the state forbids it, and
    ProblemError 412 if somebody else has changed it meanwhile."""

    store: Store
    who: Principal
    once: Once | None
    unchanged: Unchanged | None

    def sweep(self, sweep_id: str, kind: CommandKind, payload: Payload | None = None) -> Command:
        return self.store.requests.ask(
            sweep_id, None, kind, self.who.name, payload, once=self.once, unchanged=self.unchanged
        )

    def sweep_each(
        self, sweep_id: str, kind: CommandKind, payloads: Sequence[Payload]
    ) -> Page[Command]:
        """One command a payload, in their order; all of them, or none."""
        return self.store.requests.ask_all(
            sweep_id, kind, self.who.name, payloads, once=self.once, unchanged=self.unchanged
        )

    def to_cancel(self, sweep_id: str) -> Command:
        """A sweep that nobody has begun ends at once."""
        return self.store.requests.cancel(
            sweep_id, self.who.name, once=self.once, unchanged=self.unchanged
        )

    def trial(self, trial_id: str, kind: CommandKind, payload: Payload | None = None) -> Command:
        sweep_id = self.store.get_trial(trial_id).sweep_id
        return self.store.requests.ask(
            sweep_id,
            trial_id,
            kind,
            self.who.name,
            payload,
            once=self.once,
            unchanged=self.unchanged,
        )


def _asking(store: StoreOf, who: Asker, once: OnceOf, unchanged: IfMatch) -> Ask:
    return Ask(store, who, once, unchanged)


AskOf = Annotated[Ask, Depends(_asking)]
