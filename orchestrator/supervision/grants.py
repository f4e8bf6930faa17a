"""Which slots each sweep is granted, turn by turn: what the sharing rules need to remember.

The rules themselves are in `share`. This keeps what they can't see in one look: what each sweep is
owed, and whether it used the slots that it had. It is forgotten with the process,
which costs some fairness for a while and nothing else; two orchestrators that remember differently
reckon with the same rows, and a slot is too sticky to be passed to and fro between them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.store import Claimable, Driver, Store
from orchestrator.supervision.placement import Needs, Node
from orchestrator.supervision.share import Claimant, Party, Share, admit, divide, settle
from winnow.spec import Resources
from winnow.types import Project

log = logging.getLogger(__name__)

IDLE_SECONDS = 20.0
"""After this long without using a slot, a driver is taken to have no use for it."""
FIRST_PROBE_SECONDS = 30.0
LAST_PROBE_SECONDS = 600.0
"""A sweep that left slots idle is offered one more after this long, then after twice as long, …"""
PROJECTS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Grant:
    """What a sweep may run now, and why not more."""

    slots: int
    why: str | None


@dataclass
class _Demand:
    """How many slots a sweep turns out to use: scheduler-paused trials count as open, but wait."""

    cap: float = math.inf
    idle_since: float | None = None
    patience: float = FIRST_PROBE_SECONDS
    probe_at: float = 0.0

    @property
    def uses(self) -> int | None:
        """How many slots the sweep is likely to use; None if all that it asks for."""
        return None if math.isinf(self.cap) else int(self.cap)

    def look(self, now: float, slots: int, running: int) -> None:
        """Note how many of its slots the sweep uses at this moment."""
        self.cap = max(self.cap, running)
        if running >= min(slots, self.cap):
            self.idle_since = None
            if running >= self.cap and now >= self.probe_at:
                self.cap += 1
        elif self.idle_since is None:
            self.idle_since = now
        elif now - self.idle_since >= IDLE_SECONDS:
            if self.cap - running > 1:  # not just a probe that failed
                self.patience = FIRST_PROBE_SECONDS
            self.cap, self.idle_since = max(1, running), None
            self.probe_at = now + self.patience
            self.patience = min(LAST_PROBE_SECONDS, 2 * self.patience)


@dataclass
class Grants:
    """Divides the cluster between the sweeps, and writes down what changed."""

    store: Store
    quantum: float
    _credits: dict[str, float] = field(default_factory=dict)
    _demands: dict[str, _Demand] = field(default_factory=dict)
    _shares: dict[str, Share] = field(default_factory=dict)
    _told: dict[str, Grant] = field(default_factory=dict)
    _last: float | None = None
    _parties: dict[str, Party] | None = None
    _read: float = 0.0

    def turn(
        self,
        nodes: Sequence[Node],
        driven: Sequence[Driver],
        waiting: Sequence[Claimable | Driver],
        now: float,
    ) -> dict[str, Grant]:
        """Grant every sweep its slots, those that have a driver and those that wait for one.

        `now`: seconds of a clock that only goes forward.
        """
        if self._last is not None:
            elapsed = min(now - self._last, self.quantum)
            self._credits = settle(self._credits, self._shares, elapsed, self.quantum)
        self._last = now
        claimants = self._claimants(driven, waiting, now)
        projects = self._projects(now)
        self._shares = divide(nodes, claimants, projects, self.quantum)
        granted = admit(nodes, claimants, projects, self._shares)
        grants = {
            c.id: Grant(granted[c.id], _why(self._shares[c.id], granted[c.id])) for c in claimants
        }
        news = {
            c.id: grants[c.id]
            for c in claimants
            if self._told.get(c.id) != grants[c.id] or c.held != grants[c.id].slots
        }
        if news:  # one transaction, however many wait: who is first in line changes what all hear
            self.store.grant_all({i: (grant.slots, grant.why) for i, grant in news.items()})
            self._told |= news
        self._told = {sweep_id: self._told[sweep_id] for sweep_id in grants}
        return grants

    def _claimants(
        self, driven: Sequence[Driver], waiting: Sequence[Claimable | Driver], now: float
    ) -> list[Claimant]:
        ids = {_id(sweep) for sweep in (*driven, *waiting)}
        self._demands = {i: self._demands.get(i) or _Demand() for i in ids}
        for driver in driven:
            self._demands[driver.sweep_id].look(now, driver.claim.slots or 0, driver.claim.running)
        found: list[tuple[Claimable | Driver, int]] = [(d, d.claim.running) for d in driven]
        # Of a sweep that nobody drives, nothing runs: its rows are yet to be put right.
        found += [(w, 0) for w in waiting]
        oldest_first = sorted(found, key=lambda f: (f[0].claim.created_at, _id(f[0])))
        return [self._claimant(sweep, running) for sweep, running in oldest_first]

    def _claimant(self, sweep: Claimable | Driver, running: int) -> Claimant:
        sweep_id, claim = _id(sweep), sweep.claim
        return Claimant(
            id=sweep_id,
            project=claim.project,
            needs=needs_of(sweep.spec),
            open_trials=claim.open_trials,
            priority=claim.priority,
            weight=claim.weight,
            max_concurrent=claim.max_concurrent,
            held=claim.slots or 0,
            running=running,
            uses=self._demands[sweep_id].uses,
            credit=self._credits.get(sweep_id, 0.0),
        )

    def _projects(self, now: float) -> dict[str, Party]:
        """Quotas and use; read now and then, because adding up GPU-hours takes time."""
        if self._parties is None or now - self._read >= PROJECTS_SECONDS:
            self._parties, self._read = parties(self.store.projects()), now
        return self._parties


def needs_of(spec: Mapping[str, object]) -> Needs:
    """What one trial of a sweep takes."""
    resources = Resources.model_validate(spec.get("resources") or {})
    return Needs(
        ranks=resources.ranks,
        cpus=resources.cpus_per_worker,
        gpus=1.0 if resources.gpus_per_trial else 0.0,
    )


def parties(projects: Iterable[Project]) -> dict[str, Party]:
    """Projects as the sharing rules see them."""
    return {p.id: Party(p.weight, p.quota, p.used.gpu_hours or 0.0) for p in projects}


def _id(sweep: Claimable | Driver) -> str:
    return sweep.sweep_id if isinstance(sweep, Driver) else sweep.id


def _why(share: Share, granted: int) -> str | None:
    if granted >= share.slots:
        return share.why
    missing = share.slots - granted
    return f"{missing} slot{'' if missing == 1 else 's'} more when other sweeps' trials have left"
