"""`Store`: everything that winnow keeps, behind one door."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import select

from orchestrator.errors import StoreUnavailable
from orchestrator.store import (
    cluster,
    commands,
    decisions,
    events,
    leases,
    metrics,
    projects,
    restart,
    sweeps,
    trials,
)
from orchestrator.store.access import Access
from orchestrator.store.code import Code
from orchestrator.store.curves import DETAILS, MAIN, Curves, Wanted
from orchestrator.store.database import Database, ReadSession, WriteSession
from orchestrator.store.driver_writes import DriverWrites
from orchestrator.store.exports import Exports
from orchestrator.store.fleet import FleetReader
from orchestrator.store.history import History
from orchestrator.store.idempotency import Once
from orchestrator.store.leaderboard import Leaderboard
from orchestrator.store.live import Live
from orchestrator.store.outbox import Outbox
from orchestrator.store.pace import Pace
from orchestrator.store.records import (
    CheckpointRow,
    Claimable,
    Command,
    Desk,
    Driver,
    FinishedSweep,
    Lease,
    SweepRows,
    Token,
    Usage,
)
from orchestrator.store.requests import Requests
from orchestrator.store.results import ResultsReader
from orchestrator.store.sweeps import Listing
from orchestrator.store.webhooks import Webhooks
from trainer.metrics import Evaluation, StepRecord
from winnow import types
from winnow.service import ClusterNode
from winnow.types import CommandKind, TrialKind, TrialState


class Store(DriverWrites):
    """Sweeps, trials, metrics, decisions, events, commands and leases in one database.

    `url` is `sqlite:///path` or `postgresql://…`; the schema must be there (see `migrate`). Safe to
    share between threads; each process opens its own. Unknown ids raise NotFound; a database that
    can't be reached raises StoreUnavailable; when a method raises, it has written nothing.
    """

    def __init__(self, url: str) -> None:
        super().__init__(Database(url))
        self.metrics = Curves(self._db)
        self.leaderboard = Leaderboard(self._db)
        self.live = Live(self._db)
        self.results = ResultsReader(self._db)
        self.access = Access(self._db)
        self.webhooks = Webhooks(self._db)
        self.outbox = Outbox(self._db)
        self.fleet = FleetReader(self._db)
        self.pace = Pace(self._db)
        self.code = Code(self._db)
        self.requests = Requests(self._db)
        self.history = History(self._db)
        self.exports = Exports(self._db)

    def close(self) -> None:
        self._db.close()

    def ping(self) -> bool:
        """Whether the database answers."""
        try:
            with self._db.read() as session:
                return session.scalar(select(1)) == 1
        except StoreUnavailable:
            return False

    # --- sweeps -------------------------------------------------------------------------------

    def create_sweep(
        self,
        spec: dict[str, Any],
        planned: int,
        name: str,
        facts: dict[str, Any] | None = None,
        *,
        once: Once | None = None,
    ) -> types.Sweep:
        """A new QUEUED sweep of `planned` search trials. `spec` is stored as it is, and so are
        `facts`: what the check of its data and model found, for its driver."""
        sweep_id = sweeps.new_id()

        def work(session: WriteSession) -> types.Sweep:
            sweeps.create(session, sweep_id, name, spec, planned, facts or {})
            return sweeps.get(session, sweep_id)

        return self._db.transact(work, once)

    def get_sweep(self, sweep_id: str) -> types.Sweep:
        with self._db.read() as session:
            return sweeps.get(session, sweep_id)

    def current_spec(self, sweep_id: str) -> dict[str, Any]:
        """The sweep as submitted, but with the space, budget, sharing and concurrency of now."""
        with self._db.read() as session:
            return sweeps.current_spec(session, sweep_id)

    def list_sweeps(
        self, limit: int = 50, after: str | None = None, wanted: Listing | None = None
    ) -> types.Page[types.Sweep]:
        """Newest first, unless `wanted` says otherwise. `after`: the previous page's `next`."""
        with self._db.read() as session:
            return sweeps.page(session, limit, after, wanted or Listing())

    def project_of(self, sweep_id: str) -> str:
        with self._db.read() as session:
            return sweeps.project_of(session, sweep_id)

    def project_of_trial(self, trial_id: str) -> str:
        with self._db.read() as session:
            return trials.project_of(session, trial_id)

    def cancel_queued(self, sweep_id: str) -> bool:
        """Cancel a sweep that no driver has begun. False if it isn't QUEUED (any more): then add
        a `cancel` command for its driver."""
        return self._db.transact(lambda s: leases.cancel_queued(s, sweep_id))

    # --- projects -----------------------------------------------------------------------------

    def projects(self) -> list[types.Project]:
        """All projects by name, with what their sweeps use."""
        with self._db.read() as session:
            return projects.listed(session)

    def add_project(
        self,
        project_id: str,
        quota: types.Quota,
        weight: float = 1.0,
        *,
        once: Once | None = None,
    ) -> types.Project:
        """A new project. Conflict if there is one of that name."""
        return self._db.transact(lambda s: projects.add(s, project_id, quota, weight), once)

    def change_project(
        self,
        project_id: str,
        quota: types.Quota,
        weight: float,
        *,
        unchanged: Callable[[types.Project], None] | None = None,
    ) -> types.Project:
        """Replace a project's quota and weight. `unchanged` is asked of the project as it is, in
        the same transaction, and raises if it isn't as the caller believes."""
        return self._db.transact(lambda s: projects.change(s, project_id, quota, weight, unchanged))

    # --- trials and what they reported --------------------------------------------------------

    def get_trial(self, trial_id: str) -> types.Trial:
        with self._db.read() as session:
            return trials.get(session, trial_id)

    def list_trials(
        self,
        sweep_id: str,
        *,
        states: Sequence[TrialState] | None = None,
        kinds: Sequence[TrialKind] | None = None,
        limit: int = 1000,
        after: str | None = None,
    ) -> types.Page[types.Trial]:
        """By number. `after` is the `next` of the previous page."""
        with self._sweep(sweep_id) as session:
            return trials.page(session, sweep_id, states, kinds, limit, after)

    def trials_changed_since(
        self, sweep_id: str, version: int = 0
    ) -> tuple[list[types.Trial], int]:
        """Trials that changed after `version`, by number, and the version to ask with next time."""
        with self._sweep(sweep_id) as session:
            return trials.changed_since(session, sweep_id, version)

    def curves(
        self,
        sweep_id: str,
        trial_ids: Sequence[str] | None = None,
        after_step: int | Mapping[str, int] | None = None,
        max_points: int = 500,
        details: bool = False,
    ) -> list[types.Curve]:
        """Learning curves by trial number, of the trials (default: all) that have points to show.

        Only steps after `after_step` (one for all, or by trial id; a trial that the mapping lacks
        gives all of its steps); what is then left is thinned out to `max_points` a trial, keeping
        extremes. Superseded points are left out. `details` adds throughput, memory and noise.
        """
        wanted = Wanted(
            (*MAIN, *DETAILS) if details else MAIN, max_points=max_points, after_step=after_step
        )
        page = self.metrics.read(sweep_id, trial_ids, wanted, evaluations=False)
        return [types.Curve.model_validate(points.asdict()) for points in page.curves]

    def evaluations(
        self, sweep_id: str, trial_ids: Sequence[str] | None = None
    ) -> list[types.EvaluationPoint]:
        """Evaluations by trial number, then step. Superseded ones are left out."""
        page = self.metrics.read(sweep_id, trial_ids, Wanted(after_step=2**31))
        return [types.EvaluationPoint.model_validate(row) for row in page.evaluations]

    def decisions(
        self, sweep_id: str, trial_id: str | None = None, after_id: int = 0, limit: int = 1000
    ) -> list[types.Decision]:
        """Decisions in the order they were made, those with an id above `after_id`."""
        with self._sweep(sweep_id) as session:
            if trial_id is not None:
                trials.row_of(session, trial_id, sweep_id)
            return decisions.listed(session, sweep_id, trial_id, after_id, limit)

    def events_after(
        self, sweep_id: str | None, last_id: int = 0, limit: int = 1000
    ) -> list[types.Event]:
        """Events with an id above `last_id`, in order; of all sweeps if `sweep_id` is None.

        Ids have no gaps and are in commit order: a reader that remembers the last one misses none.
        """
        with self._db.read() as session:
            if sweep_id is not None:
                sweeps.row_of(session, sweep_id)
            return events.after(session, sweep_id, last_id, limit)

    def last_event_id(self, sweep_id: str | None = None) -> int:
        """Where to start to hear only of what is yet to come; 0 if nothing has happened."""
        with self._db.read() as session:
            return events.last_id(session, sweep_id)

    # --- leases -------------------------------------------------------------------------------

    def acquire_lease(
        self, sweep_id: str, holder: object, seconds: float, *, attend: bool = False
    ) -> Lease | None:
        """Take the sweep if it is QUEUED or RUNNING and nobody holds it; None otherwise.

        `holder` says who takes it; its str() is stored, and told by `live_drivers`.

        The sweep becomes RUNNING. Trials that a former driver left RUNNING become PENDING again,
        with their attempts closed: their workers are gone, or will be refused.

        `attend`: take it in any state, and leave it in that, to carry out commands only.
        """
        return self._db.transact(
            lambda s: leases.acquire(s, sweep_id, str(holder), seconds, attend=attend)
        )

    def renew(self, lease: Lease, seconds: float) -> bool:
        """Extend a lease to `seconds` from now. False if it is lost: the driver must end itself."""
        return self._db.transact(lambda s: leases.renew(s, lease, seconds))

    def release(self, lease: Lease) -> bool:
        """Give a lease back. False if it had passed on already."""
        return self._db.transact(lambda s: leases.release(s, lease))

    def expire_lease(self, sweep_id: str, epoch: int) -> bool:
        """End the lease of a holder that is proved dead. False if it isn't the current one."""
        return self._db.transact(lambda s: leases.expire(s, sweep_id, epoch))

    def claimable(self) -> list[Claimable]:
        """Sweeps that wait for a driver: QUEUED or RUNNING without a live lease, oldest first."""
        with self._db.read() as session:
            return leases.claimable(session)

    def live_drivers(self) -> list[Driver]:
        """All leases that are held now."""
        with self._db.read() as session:
            return leases.live_drivers(session)

    def unattended(self) -> list[str]:
        """Sweeps that nobody drives, and that have commands waiting."""
        with self._db.read() as session:
            return leases.unattended(session)

    def grant(self, sweep_id: str, slots: int, why: str | None = None) -> None:
        """Say how many trials a sweep may run at once; if it could use more, why it may not."""
        self.grant_all({sweep_id: (slots, why)})

    def grant_all(self, grants: Mapping[str, tuple[int, str | None]]) -> None:
        """`grant` for many sweeps at once, by id: (slots, why)."""
        self._db.transact(lambda s: leases.grant(s, grants))

    # --- what drivers read -------------------------------------------------------------------

    def finished_before(self, sweep_id: str, limit: int = 500) -> list[FinishedSweep]:
        """Completed sweeps of the same project that ended before this one was first driven, or by
        now if none has driven it; newest first."""
        with self._db.read() as session:
            return sweeps.finished_before(session, sweep_id, limit)

    def most_at_once(self, sweep_id: str) -> int:
        """How many of a sweep's search trials ran at the same time, at most; 0 if none ran."""
        with self._db.read() as session:
            return trials.most_at_once(session, sweep_id)

    def sweep_rows(self, sweep_id: str) -> SweepRows:
        """All that a driver needs to start, or to go on after another one."""
        with self._db.read() as session:
            return restart.rows(session, sweep_id)

    # --- commands, tokens, cluster ------------------------------------------------------------

    def add_command(
        self,
        sweep_id: str,
        trial_id: str | None,
        kind: CommandKind,
        by: str,
        payload: Mapping[str, Any] | None = None,
    ) -> Command:
        """Ask for something to happen to a trial, or to the sweep (`trial_id` None).

        Conflict if it can't in the state that it is in. A request that still waits is not doubled,
        unless two of its kind are two wishes. See `winnow.types.Command` for `payload`.
        """
        return self._db.transact(lambda s: commands.add(s, sweep_id, trial_id, kind, by, payload))

    def commands(self, sweep_id: str, after_id: int = 0, limit: int = 1000) -> list[types.Command]:
        """What was asked of a sweep and its trials, in order, those with an id above `after_id`."""
        with self._sweep(sweep_id) as session:
            return commands.listed(session, sweep_id, after_id, limit)

    def completed_twin(self, project: str, fingerprint: str, sweep_id: str) -> str | None:
        """A completed trial of the project with this fingerprint, whose result can be taken over;
        one of this sweep rather than another's, and of those the newest."""
        with self._db.read() as session:
            return trials.completed_twin(session, project, fingerprint, sweep_id)

    def checkpoint_rows(self, sweep_id: str) -> tuple[list[CheckpointRow], set[str]]:
        """All checkpoints of a sweep, and the trials of it whose result another has taken over."""
        with self._db.read() as session:
            return metrics.checkpoint_rows(session, sweep_id), trials.reused(session, sweep_id)

    def records_of(self, trial_id: str) -> tuple[tuple[StepRecord, ...], tuple[Evaluation, ...]]:
        """A trial's steps and evaluations that count, by rising step."""
        with self._db.read() as session:
            sweep_id = trials.row_of(session, trial_id).sweep_id
            return (
                metrics.load_steps(session, sweep_id, trial_id).get(trial_id, ()),
                metrics.load_evaluations(session, sweep_id, trial_id).get(trial_id, ()),
            )

    def usage(self, sweep_id: str) -> Usage:
        """What a sweep has used of the cluster so far, by the database's clock."""
        with self._db.read() as session:
            return projects.usage(session, sweep_id)

    def desk(self, sweep_id: str) -> Desk:
        """What lies on a driver's desk: its slots and the commands that wait. One read."""
        with self._db.read() as session:
            row = sweeps.row_of(session, sweep_id)
            return Desk(row.slots, row.max_concurrent, tuple(commands.pending(session, sweep_id)))

    def pending_commands(self, sweep_id: str) -> list[Command]:
        """Commands that wait to be carried out, oldest first."""
        with self._db.read() as session:
            return commands.pending(session, sweep_id)

    def finish_command(self, command_id: int, result: str) -> None:
        """Say what became of a command. (In `guarded`, together with its effect.)"""
        self._db.transact(lambda s: commands.finish(s, command_id, result))

    def create_token(self, name: str) -> str:
        """The text of a new token that may do everything. See `access` for others."""
        text = self.access.create_token(name).token
        assert text is not None
        return text

    def verify_token(self, text: str) -> Token | None:
        """The token that `text` is, or None."""
        found = self.access.check_token(text)
        return found if isinstance(found, Token) else None

    def report_cluster(
        self, resources: Mapping[str, float], machines: Sequence[ClusterNode] = ()
    ) -> None:
        """The orchestrator's report of what the Ray cluster has, and its heartbeat."""
        self._db.transact(lambda s: cluster.report(s, resources, machines))

    def cluster(self) -> tuple[dict[str, float], float | None]:
        """Resources as last reported, and seconds since then (None: never)."""
        with self._db.read() as session:
            return cluster.last(session)

    def cluster_nodes(self) -> list[ClusterNode]:
        """The machines as last reported."""
        with self._db.read() as session:
            return cluster.nodes(session)

    @contextmanager
    def _sweep(self, sweep_id: str) -> Iterator[ReadSession]:
        with self._db.read() as session:
            sweeps.row_of(session, sweep_id)
            yield session
