"""Everything winnow keeps, in SQLite or PostgreSQL. The only package that knows SQL.

    migrate(url)            bring the schema up to date; once, before anything else
    store = Store(url)      what everybody uses

Reads for the API return `winnow.types`; what drivers and the orchestrator need is in `records`.
Tables are in `schema`, sessions and retries in `database`; then one module a table family.
"""

from orchestrator.store.curves import DETAILS, MAIN, Axis, Wanted
from orchestrator.store.driver import DriverTransaction
from orchestrator.store.idempotency import Answer, Once
from orchestrator.store.leaderboard import FIELDS, KEYS, Order
from orchestrator.store.migrations import migrate
from orchestrator.store.records import (
    AttemptRow,
    Audited,
    CheckpointRow,
    Claim,
    Claimable,
    Command,
    Desk,
    Driver,
    Lease,
    Refusal,
    StoredDecision,
    SweepRows,
    Token,
    TrialRow,
    Usage,
)
from orchestrator.store.results import Results
from orchestrator.store.store import Store
from orchestrator.store.sweeps import Listing
from orchestrator.store.writer import Writer

__all__ = [
    "DETAILS",
    "FIELDS",
    "KEYS",
    "MAIN",
    "Answer",
    "AttemptRow",
    "Audited",
    "Axis",
    "CheckpointRow",
    "Claim",
    "Claimable",
    "Command",
    "Desk",
    "Driver",
    "DriverTransaction",
    "Lease",
    "Listing",
    "Once",
    "Order",
    "Refusal",
    "Results",
    "Store",
    "StoredDecision",
    "SweepRows",
    "Token",
    "TrialRow",
    "Usage",
    "Wanted",
    "Writer",
    "migrate",
]
