"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_Time = sa.DateTime(timezone=True)
_LIVE = sa.text("NOT superseded")


def upgrade() -> None:
    op.create_table(
        "cluster",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("resources", sa.JSON(), nullable=False),
        sa.Column("heartbeat", _Time, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_cluster"),
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", _Time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("name", name="uq_projects_name"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", _Time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("hash", name="uq_tokens_hash"),
    )
    op.create_table(
        "sweeps",
        sa.Column("id", sa.String(length=10), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("planned", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("revision", _Big, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("lease_expires", _Time, nullable=True),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("created_at", _Time, nullable=False),
        sa.Column("started_at", _Time, nullable=True),
        sa.Column("ended_at", _Time, nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_sweeps_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_sweeps"),
    )
    op.create_index("ix_sweeps_created_at_id", "sweeps", ["created_at", "id"], unique=False)
    op.create_index("ix_sweeps_state", "sweeps", ["state"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", _Big, autoincrement=False, nullable=False),
        sa.Column("sweep_id", sa.String(length=10), nullable=False),
        sa.Column("trial_id", sa.String(length=24), nullable=True),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("created_at", _Time, nullable=False),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name="fk_events_sweep_id"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_sweep_id_id", "events", ["sweep_id", "id"], unique=False)
    op.create_table(
        "trials",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("sweep_id", sa.String(length=10), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("version", _Big, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("total_steps", sa.Integer(), nullable=False),
        sa.Column("samples", _Big, nullable=False),
        sa.Column("total_samples", _Big, nullable=False),
        sa.Column("loss", sa.Double(), nullable=True),
        sa.Column("grad_norm", sa.Double(), nullable=True),
        sa.Column("eval_loss", sa.Double(), nullable=True),
        sa.Column("exact_match", sa.Double(), nullable=True),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("checkpoint", sa.Text(), nullable=True),
        sa.Column("created_at", _Time, nullable=False),
        sa.Column("started_at", _Time, nullable=True),
        sa.Column("ended_at", _Time, nullable=True),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name="fk_trials_sweep_id"),
        sa.PrimaryKeyConstraint("id", name="pk_trials"),
        sa.UniqueConstraint("sweep_id", "number", name="uq_trials_sweep_id_number"),
    )
    op.create_index("ix_trials_sweep_id_version", "trials", ["sweep_id", "version"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("trial_id", sa.String(length=24), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("notes", sa.JSON(), nullable=True),
        sa.Column("resumed_from", sa.Text(), nullable=True),
        sa.Column("first_step", sa.Integer(), nullable=False),
        sa.Column("started_at", _Time, nullable=False),
        sa.Column("ended_at", _Time, nullable=True),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name="fk_attempts_trial_id"),
        sa.PrimaryKeyConstraint("trial_id", "attempt", name="pk_attempts"),
        sa.UniqueConstraint("id", name="uq_attempts_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "commands",
        sa.Column("id", _Big, autoincrement=True, nullable=False),
        sa.Column("sweep_id", sa.String(length=10), nullable=False),
        sa.Column("trial_id", sa.String(length=24), nullable=True),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("issued_by", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("created_at", _Time, nullable=False),
        sa.Column("finished_at", _Time, nullable=True),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name="fk_commands_sweep_id"),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name="fk_commands_trial_id"),
        sa.PrimaryKeyConstraint("id", name="pk_commands"),
    )
    op.create_index(
        "ix_commands_pending",
        "commands",
        ["sweep_id", "id"],
        unique=False,
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "decisions",
        sa.Column("id", _Big, autoincrement=True, nullable=False),
        sa.Column("sweep_id", sa.String(length=10), nullable=False),
        sa.Column("trial_id", sa.String(length=24), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("samples", _Big, nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("acted", sa.Boolean(), nullable=False),
        sa.Column("created_at", _Time, nullable=False),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name="fk_decisions_sweep_id"),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name="fk_decisions_trial_id"),
        sa.PrimaryKeyConstraint("id", name="pk_decisions"),
    )
    op.create_index("ix_decisions_sweep_id_id", "decisions", ["sweep_id", "id"], unique=False)
    op.create_index("ix_decisions_trial_id_id", "decisions", ["trial_id", "id"], unique=False)
    op.create_table(
        "checkpoints",
        sa.Column("trial_id", sa.String(length=24), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("samples", _Big, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("bytes", _Big, nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("superseded", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created_at", _Time, nullable=False),
        sa.ForeignKeyConstraint(
            ["trial_id", "attempt"],
            ["attempts.trial_id", "attempts.attempt"],
            name="fk_checkpoints_trial_id_attempt",
        ),
        sa.PrimaryKeyConstraint("trial_id", "attempt", "step", "kind", name="pk_checkpoints"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "evaluations",
        sa.Column("trial_id", sa.String(length=24), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("split", sa.String(length=16), nullable=False),
        sa.Column("dataset", sa.String(length=64), nullable=False),
        sa.Column("samples", _Big, nullable=False),
        sa.Column("loss", sa.Double(), nullable=True),
        sa.Column("tokens", _Big, nullable=False),
        sa.Column("exact_match", sa.Double(), nullable=True),
        sa.Column("generated", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("superseded", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.ForeignKeyConstraint(
            ["trial_id", "attempt"],
            ["attempts.trial_id", "attempts.attempt"],
            name="fk_evaluations_trial_id_attempt",
        ),
        sa.PrimaryKeyConstraint(
            "trial_id", "attempt", "step", "split", "dataset", name="pk_evaluations"
        ),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "uq_evaluations_live",
        "evaluations",
        ["trial_id", "step", "split", "dataset"],
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    )
    op.create_table(
        "metrics",
        sa.Column("trial_id", sa.String(length=24), nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("samples", _Big, nullable=False),
        sa.Column("tokens", _Big, nullable=False),
        sa.Column("loss", sa.Double(), nullable=True),
        sa.Column("grad_norm", sa.Double(), nullable=True),
        sa.Column("learning_rate", sa.Double(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("memory", _Big, nullable=False),
        sa.Column("batch_samples", sa.Integer(), nullable=False),
        sa.Column("superseded", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.ForeignKeyConstraint(
            ["trial_id", "attempt"],
            ["attempts.trial_id", "attempts.attempt"],
            name="fk_metrics_trial_id_attempt",
        ),
        sa.PrimaryKeyConstraint("trial_id", "step", "attempt", name="pk_metrics"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "uq_metrics_live",
        "metrics",
        ["trial_id", "step"],
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    )
    _first_rows()


def _first_rows() -> None:
    """The project that sweeps belong to as long as nobody names one, and the cluster's only row."""
    projects = sa.table("projects", sa.column("id"), sa.column("name"), sa.column("created_at"))
    op.execute(
        projects.insert().values(
            id="default", name="default", created_at=sa.func.current_timestamp()
        )
    )
    cluster = sa.table("cluster", sa.column("id", sa.Integer), sa.column("resources", sa.JSON))
    op.execute(cluster.insert().values(id=1, resources={}))


def downgrade() -> None:
    op.drop_table("metrics")
    op.drop_table("evaluations")
    op.drop_table("checkpoints")
    op.drop_table("decisions")
    op.drop_table("commands")
    op.drop_table("attempts")
    op.drop_table("trials")
    op.drop_table("events")
    op.drop_table("sweeps")
    op.drop_table("tokens")
    op.drop_table("projects")
    op.drop_table("cluster")
