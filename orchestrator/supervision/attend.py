"""Commands to a sweep that nobody drives: queued, paused, ended, or without slots.

The orchestrator takes the sweep for a moment and carries them out with the code that a driver uses.
"""

from __future__ import annotations

import logging

from orchestrator.errors import LeaseLost
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.study import Study
from orchestrator.supervision.launch import Holder

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds to wait for the database: the orchestrator has other sweeps to look after."""


def attend(store: Store, sweep_id: str, settings: Settings) -> bool:
    """Carry out what is asked of a sweep. False if somebody drives it: then its driver does it.

    Raises StoreUnavailable if the database is away; nothing is half done then.
    """
    lease = store.acquire_lease(
        sweep_id, Holder.me(slots=0), max(settings.lease_seconds, 2 * PATIENCE), attend=True
    )
    if lease is None:
        return False
    try:
        study = Study(
            store,
            lease,
            settings.home,
            checkpoint_seconds=settings.checkpoint_seconds,
            patience=PATIENCE,
        )
        study.drain_commands()
    except LeaseLost as error:
        log.warning("%s", error)
        return False
    finally:
        store.release(lease)
    return True
