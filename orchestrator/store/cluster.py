"""The cluster as the orchestrator last saw it; its report is also the orchestrator's heartbeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import select, update

from orchestrator.store.clock import now, seconds_since
from orchestrator.store.database import ReadSession, WriteSession
from orchestrator.store.schema import cluster
from winnow.service import ClusterNode


def report(
    session: WriteSession, resources: Mapping[str, float], machines: Sequence[ClusterNode]
) -> None:
    session.execute(
        update(cluster)
        .where(cluster.c.id == 1)
        .values(
            resources=dict(resources),
            nodes=[machine.model_dump() for machine in machines],
            heartbeat=now(),
        )
    )


def last(session: ReadSession) -> tuple[dict[str, float], float | None]:
    """Resources, and seconds since the report; None if there was none yet."""
    row = session.first(
        select(cluster.c.resources, seconds_since(cluster.c.heartbeat).label("age"))
    )
    return ({}, None) if row is None else (row.resources, row.age)


def nodes(session: ReadSession) -> list[ClusterNode]:
    """The machines of that report."""
    row = session.first(select(cluster.c.nodes))
    return [] if row is None else [ClusterNode.model_validate(node) for node in row.nodes]
