"""The tables, as SQLAlchemy Core sees them. `migrations/` builds them; a test holds both equal.

Times are UTC, by the database's clock. Numbers that were not finite are NULL. A point or
evaluation that a later attempt computed again stays, marked `superseded`; a partial unique index
lets only one of them count.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

from orchestrator.store.clock import UtcTime, now

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

DEFAULT_PROJECT = "default"

_Big = BigInteger().with_variant(Integer(), "sqlite")
_Json = JSON(none_as_null=True)


def _created() -> Column:
    return Column("created_at", UtcTime(), nullable=False, default=now())


projects = Table(
    "projects",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    # The most that its sweeps may have at once or in all: {gpus, trials, gpu_hours}, each optional.
    Column("quota", _Json, nullable=False, default=dict, server_default=text("'{}'")),
    Column("weight", Double, nullable=False, default=1.0, server_default=text("1")),
    _created(),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", Text, nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("scopes", _Json, nullable=False, server_default=text("'[\"admin\"]'")),
    # Its first characters, by which people tell tokens apart.
    Column("prefix", String(16), nullable=False, default="", server_default=text("''")),
    # NULL: all projects.
    Column("project_id", String(32)),
    Column("created_by", Text),
    Column("expires_at", UtcTime()),
    # To the minute or so: not every request writes.
    Column("last_used_at", UtcTime()),
    Column("revoked_at", UtcTime()),
    # The text that it had before it was rotated, which works on until then.
    Column("previous_hash", String(64)),
    Column("previous_expires_at", UtcTime()),
    _created(),
    Index("uq_tokens_previous_hash", "previous_hash", unique=True),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    # Of the cookie's text. A session can do what its token can, and ends with it.
    Column("hash", String(64), nullable=False, unique=True),
    Column("token_id", Integer, ForeignKey(tokens.c.id), nullable=False),
    _created(),
    Column("expires_at", UtcTime(), nullable=False),
    Column("last_used_at", UtcTime()),
)

sweeps = Table(
    "sweeps",
    metadata,
    Column("id", String(10), primary_key=True),
    Column("project_id", String(32), ForeignKey(projects.c.id), nullable=False),
    Column("name", Text, nullable=False),
    Column("spec", _Json, nullable=False),
    # What the check of data and model found, e.g. the number of training samples.
    Column("facts", _Json, nullable=False),
    Column("planned", Integer, nullable=False),
    # What the scheduler started from: ids of earlier sweeps and what was learned of them. NULL
    # until the first driver has looked.
    Column("prior", _Json),
    # The scheduler's own account of its evidence; for readers only.
    Column("scheduler_summary", _Json),
    # What may change while it runs; `spec` stays as it was submitted. `max_concurrent` NULL: as
    # many as it gets; `space` NULL: the one of `spec`; `budget` NULL: none.
    Column("priority", Integer, nullable=False, default=0, server_default=text("0")),
    Column("weight", Double, nullable=False, default=1.0, server_default=text("1")),
    Column("max_concurrent", Integer),
    Column("budget", _Json),
    Column("space", _Json),
    # What the orchestrator grants: trials at once, and if fewer than it could use, why.
    Column("slots", Integer),
    Column("why_pending", Text),
    # What was spent and is projected; see `orchestrator.budget`.
    Column("account", _Json),
    Column("state", String(16), nullable=False),
    Column("message", Text),
    # Rises with every transaction of a driver; `trials.version` is taken from it.
    Column("revision", _Big, nullable=False),
    # The lease. `epoch` rises with every driver; `lease_expires` NULL means that nobody holds it.
    Column("epoch", Integer, nullable=False),
    Column("lease_expires", UtcTime()),
    Column("holder", Text),
    _created(),
    Column("started_at", UtcTime()),
    Column("ended_at", UtcTime()),
    # Its events up to this one may be gone; see `events.trim`.
    Column("trimmed_event_id", _Big, nullable=False, default=0, server_default=text("0")),
    Index("ix_sweeps_created_at_id", "created_at", "id"),
    Index("ix_sweeps_state", "state"),
)

trials = Table(
    "trials",
    metadata,
    Column("id", String(24), primary_key=True),
    Column("sweep_id", String(10), ForeignKey(sweeps.c.id), nullable=False),
    Column("number", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    Column("message", Text),
    Column("params", _Json, nullable=False),
    Column("config", _Json, nullable=False),
    Column("version", _Big, nullable=False),
    # The version at which points last stopped counting: while it stays, a curve only grows.
    Column("rewound", _Big, nullable=False, default=0, server_default=text("0")),
    # Progress, updated with every recorded batch.
    Column("attempt", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    Column("total_steps", Integer, nullable=False),
    Column("samples", _Big, nullable=False),
    Column("total_samples", _Big, nullable=False),
    Column("loss", Double),
    Column("grad_norm", Double),
    Column("eval_loss", Double),
    Column("exact_match", Double),
    Column("value", Double),
    # The further objectives by metric, where the sweep has any.
    Column("also", _Json),
    Column("seconds", Double, nullable=False),
    Column("checkpoint", Text),
    # Never ended by a scheduler.
    Column("pinned", Boolean, nullable=False, default=False, server_default=false()),
    # The trial that it was cloned from, and the one whose result it took over.
    Column("parent", String(24)),
    Column("reused_from", String(24)),
    # What makes its result the same as another's; see `orchestrator.fingerprint`.
    Column("fingerprint", String(64)),
    Column("why_pending", Text),
    _created(),
    Column("started_at", UtcTime()),
    Column("ended_at", UtcTime()),
    UniqueConstraint("sweep_id", "number"),
    Index("ix_trials_fingerprint", "fingerprint"),
    Index("ix_trials_sweep_id_version", "sweep_id", "version"),
    Index("ix_trials_sweep_id_value", "sweep_id", "value", "number"),
    # Holds all that a sweep's summary adds up.
    Index("ix_trials_summary", "sweep_id", "kind", "state", "samples", "total_samples", "seconds"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("trial_id", String(24), ForeignKey(trials.c.id), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("epoch", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    Column("message", Text),
    Column("detail", Text),
    Column("notes", _Json),
    Column("resumed_from", Text),
    Column("first_step", Integer, nullable=False),
    Column("started_at", UtcTime(), nullable=False, default=now()),
    Column("ended_at", UtcTime()),
    sqlite_with_rowid=False,
)


def _attempt_key() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["trial_id", "attempt"], [attempts.c.trial_id, attempts.c.attempt])


metrics = Table(
    "metrics",
    metadata,
    Column("trial_id", String(24), primary_key=True),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("samples", _Big, nullable=False),
    Column("tokens", _Big, nullable=False),
    Column("loss", Double),
    Column("grad_norm", Double),
    Column("learning_rate", Double, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("memory", _Big, nullable=False),
    Column("batch_samples", Integer, nullable=False),
    Column("input_tokens", _Big, nullable=False, server_default=text("0")),
    Column("padding", Double, nullable=False, server_default=text("0")),
    Column("data_wait", Double, nullable=False, server_default=text("0")),
    Column("mfu", Double),
    Column("grad_sq", Double),
    Column("noise", Double),
    Column("superseded", Boolean, nullable=False, default=False, server_default=false()),
    _attempt_key(),
    Index(
        "uq_metrics_live",
        "trial_id",
        "step",
        unique=True,
        sqlite_where=text("NOT superseded"),
        postgresql_where=text("NOT superseded"),
    ),
    sqlite_with_rowid=False,
)

curve_pieces = Table(
    "curve_pieces",
    metadata,
    Column("trial_id", String(24), ForeignKey(trials.c.id), primary_key=True),
    # Its points are above the last step of the piece before, up to this one.
    Column("last_step", Integer, primary_key=True, autoincrement=False),
    Column("points", Integer, nullable=False),
    # Columns of numbers; see `pieces`.
    Column("coarse", LargeBinary, nullable=False),
    Column("whole", LargeBinary, nullable=False),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("trial_id", String(24), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("split", String(16), primary_key=True),
    Column("dataset", String(64), primary_key=True),
    Column("samples", _Big, nullable=False),
    Column("loss", Double),
    Column("tokens", _Big, nullable=False),
    Column("exact_match", Double),
    Column("generated", Integer, nullable=False),
    Column("seconds", Double, nullable=False),
    # Figures by metric, of benchmarks and judged answers.
    Column("scores", _Json, nullable=False, server_default=text("'{}'")),
    Column("superseded", Boolean, nullable=False, default=False, server_default=false()),
    _attempt_key(),
    Index(
        "uq_evaluations_live",
        "trial_id",
        "step",
        "split",
        "dataset",
        unique=True,
        sqlite_where=text("NOT superseded"),
        postgresql_where=text("NOT superseded"),
    ),
    sqlite_with_rowid=False,
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("trial_id", String(24), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(16), primary_key=True),
    Column("samples", _Big, nullable=False),
    Column("path", Text, nullable=False),
    Column("bytes", _Big, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("superseded", Boolean, nullable=False, default=False, server_default=false()),
    # Found unreadable when a trial was to go on from it.
    Column("damaged", Boolean, nullable=False, default=False, server_default=false()),
    # No longer on disk: housekeeping has deleted it, or is about to.
    Column("deleted", Boolean, nullable=False, default=False, server_default=false()),
    _created(),
    _attempt_key(),
    sqlite_with_rowid=False,
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", _Big, primary_key=True, autoincrement=True),
    Column("sweep_id", String(10), ForeignKey(sweeps.c.id), nullable=False),
    Column("trial_id", String(24), ForeignKey(trials.c.id), nullable=False),
    Column("action", String(16), nullable=False),
    Column("rule", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("samples", _Big, nullable=False),
    Column("evidence", _Json, nullable=False),
    Column("acted", Boolean, nullable=False),
    _created(),
    Index("ix_decisions_sweep_id_id", "sweep_id", "id"),
    Index("ix_decisions_trial_id_id", "trial_id", "id"),
)

events = Table(
    "events",
    metadata,
    # Given out under a lock that is held until commit: without gaps, in commit order.
    Column("id", _Big, primary_key=True, autoincrement=False),
    Column("sweep_id", String(10), ForeignKey(sweeps.c.id), nullable=False),
    Column("trial_id", String(24)),
    Column("type", String(32), nullable=False),
    Column("data", _Json, nullable=False),
    _created(),
    Index("ix_events_sweep_id_id", "sweep_id", "id"),
)

commands = Table(
    "commands",
    metadata,
    Column("id", _Big, primary_key=True, autoincrement=True),
    Column("sweep_id", String(10), ForeignKey(sweeps.c.id), nullable=False),
    Column("trial_id", String(24), ForeignKey(trials.c.id)),
    Column("kind", String(16), nullable=False),
    Column("payload", _Json),
    Column("issued_by", Text, nullable=False),
    Column("result", Text),
    _created(),
    Column("finished_at", UtcTime()),
    Index(
        "ix_commands_pending",
        "sweep_id",
        "id",
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
)

cluster = Table(
    "cluster",
    metadata,
    # One row, number 1, made by the first migration.
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("resources", _Json, nullable=False),
    # Its machines, as winnow.service.ClusterNode.
    Column("nodes", _Json, nullable=False, server_default=text("'[]'")),
    Column("heartbeat", UtcTime()),
)

audit = Table(
    "audit",
    metadata,
    Column("id", _Big, primary_key=True, autoincrement=True),
    # Who: a token's name, and which token it was.
    Column("actor", Text, nullable=False),
    Column("token_id", Integer),
    # What: the operation, the path it was asked of, and the status that was answered.
    Column("action", String(64), nullable=False),
    Column("target", Text),
    Column("project_id", String(32)),
    Column("status", Integer, nullable=False),
    Column("request_id", String(64)),
    Column("address", Text),
    Column("detail", _Json),
    _created(),
    Index("ix_audit_project_id_id", "project_id", "id"),
    Index("ix_audit_actor_id", "actor", "id"),
    Index("ix_audit_created_at", "created_at"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("principal", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    # Of method, path and body: the same key for something else is refused.
    Column("fingerprint", String(64), nullable=False),
    # The answer, written in the transaction of the effect. `status` NULL: it is being worked on,
    # by a process that is taken for dead at `claimed_until`.
    Column("status", Integer),
    Column("headers", _Json),
    Column("body", Text),
    Column("claimed_until", UtcTime()),
    _created(),
    Index("ix_idempotency_keys_created_at", "created_at"),
)

allowed_code = Table(
    "allowed_code",
    metadata,
    # Models whose own code may run in trials, each at one revision.
    Column("model", String(255), primary_key=True),
    Column("revision", String(64), primary_key=True),
    Column("allowed_by", Text, nullable=False),
    _created(),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String(16), primary_key=True),
    # NULL: of all projects.
    Column("project_id", String(32)),
    Column("url", Text, nullable=False),
    # What its messages are signed with. It has to be known in clear to sign.
    Column("secret", Text, nullable=False),
    # The one before, which signs as well for a while after a change.
    Column("previous_secret", Text),
    Column("previous_until", UtcTime()),
    Column("description", Text),
    Column("events", _Json, nullable=False),
    Column("enabled", Boolean, nullable=False),
    # Since when every delivery has failed; and why winnow itself disabled it.
    Column("failing_since", UtcTime()),
    Column("disabled_reason", Text),
    Column("created_by", Text, nullable=False),
    # All events up to this one have become deliveries, or concern it not.
    Column("last_event_id", _Big, nullable=False),
    _created(),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(24), primary_key=True),
    Column("webhook_id", String(16), ForeignKey(webhooks.c.id), nullable=False),
    # NULL: of no event, but asked for by a user (a ping).
    Column("event_id", _Big),
    Column("kind", String(32), nullable=False),
    Column("body", Text, nullable=False),
    # pending, delivered, failed (given up).
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", UtcTime()),
    # Somebody sends it, and is taken for dead after this.
    Column("claimed_until", UtcTime()),
    Column("last_at", UtcTime()),
    Column("last_status", Integer),
    Column("last_error", Text),
    _created(),
    Column("delivered_at", UtcTime()),
    UniqueConstraint("webhook_id", "event_id", "kind"),
    Index("ix_deliveries_state_next_at", "state", "next_at"),
    Index("ix_deliveries_webhook_id_created_at", "webhook_id", "created_at"),
)

telemetry = Table(
    "telemetry",
    metadata,
    # Counters of all drivers (`driver`) and all orchestrators (`orchestrator`) ever: they only
    # rise. Two rows, made by the migration.
    Column("process", String(16), primary_key=True),
    Column("figures", _Json, nullable=False),
)
