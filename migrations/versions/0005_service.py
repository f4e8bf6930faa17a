"""Scoped tokens and sessions, the audit log, idempotency, allowed code, and webhooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_Time = sa.DateTime(timezone=True)
_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    # Tokens that exist are their servers' owners'.
    op.add_column(
        "tokens",
        sa.Column("scopes", _JSON, nullable=False, server_default=sa.text("'[\"admin\"]'")),
    )
    op.add_column(
        "tokens", sa.Column("prefix", sa.String(16), nullable=False, server_default=sa.text("''"))
    )
    op.add_column("tokens", sa.Column("project_id", sa.String(32), nullable=True))
    op.add_column("tokens", sa.Column("created_by", sa.Text(), nullable=True))
    op.add_column("tokens", sa.Column("expires_at", _Time, nullable=True))
    op.add_column("tokens", sa.Column("last_used_at", _Time, nullable=True))
    op.add_column("tokens", sa.Column("revoked_at", _Time, nullable=True))
    op.add_column("tokens", sa.Column("previous_hash", sa.String(64), nullable=True))
    op.add_column("tokens", sa.Column("previous_expires_at", _Time, nullable=True))
    op.create_index("uq_tokens_previous_hash", "tokens", ["previous_hash"], unique=True)
    op.create_table(
        "sessions",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("token_id", sa.Integer(), nullable=False),
        sa.Column("created_at", _Time, nullable=False),
        sa.Column("expires_at", _Time, nullable=False),
        sa.Column("last_used_at", _Time, nullable=True),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name="fk_sessions_token_id"),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.UniqueConstraint("hash", name="uq_sessions_hash"),
    )
    op.create_table(
        "audit",
        sa.Column("id", _Big, autoincrement=True, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Integer(), nullable=True),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("project_id", sa.String(32), nullable=True),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("detail", _JSON, nullable=True),
        sa.Column("created_at", _Time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_project_id_id", "audit", ["project_id", "id"])
    op.create_index("ix_audit_actor_id", "audit", ["actor", "id"])
    op.create_index("ix_audit_created_at", "audit", ["created_at"])
    op.create_table(
        "idempotency_keys",
        sa.Column("principal", sa.String(64), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("headers", _JSON, nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("claimed_until", _Time, nullable=True),
        sa.Column("created_at", _Time, nullable=False),
        sa.PrimaryKeyConstraint("principal", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "allowed_code",
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("revision", sa.String(64), nullable=False),
        sa.Column("allowed_by", sa.Text(), nullable=False),
        sa.Column("created_at", _Time, nullable=False),
        sa.PrimaryKeyConstraint("model", "revision", name="pk_allowed_code"),
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("previous_secret", sa.Text(), nullable=True),
        sa.Column("previous_until", _Time, nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("events", _JSON, nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("failing_since", _Time, nullable=True),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("last_event_id", _Big, nullable=False),
        sa.Column("created_at", _Time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(24), nullable=False),
        sa.Column("webhook_id", sa.String(16), nullable=False),
        sa.Column("event_id", _Big, nullable=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", _Time, nullable=True),
        sa.Column("claimed_until", _Time, nullable=True),
        sa.Column("last_at", _Time, nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", _Time, nullable=False),
        sa.Column("delivered_at", _Time, nullable=True),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name="fk_deliveries_webhook_id"),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.UniqueConstraint(
            "webhook_id", "event_id", "kind", name="uq_deliveries_webhook_id_event_id_kind"
        ),
    )
    op.create_index("ix_deliveries_state_next_at", "deliveries", ["state", "next_at"])
    op.create_index(
        "ix_deliveries_webhook_id_created_at", "deliveries", ["webhook_id", "created_at"]
    )
    op.create_table(
        "telemetry",
        sa.Column("process", sa.String(16), nullable=False),
        sa.Column("figures", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("process", name="pk_telemetry"),
    )
    op.execute("INSERT INTO telemetry (process, figures) VALUES ('driver', '{}')")
    op.execute("INSERT INTO telemetry (process, figures) VALUES ('orchestrator', '{}')")
    op.create_table(
        "curve_pieces",
        sa.Column("trial_id", sa.String(24), nullable=False),
        sa.Column("last_step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("points", sa.Integer(), nullable=False),
        sa.Column("coarse", sa.LargeBinary(), nullable=False),
        sa.Column("whole", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name="fk_curve_pieces_trial_id"),
        sa.PrimaryKeyConstraint("trial_id", "last_step", name="pk_curve_pieces"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Losses don't get smaller by trying.
        for column in ("coarse", "whole"):
            op.execute(f"ALTER TABLE curve_pieces ALTER COLUMN {column} SET STORAGE EXTERNAL")
    op.add_column(
        "cluster", sa.Column("nodes", _JSON, nullable=False, server_default=sa.text("'[]'"))
    )
    # Reading 10,000 trials: what has only grown, how they are sorted, what is added up.
    for table, column in (("trials", "rewound"), ("sweeps", "trimmed_event_id")):
        op.add_column(table, sa.Column(column, _Big, nullable=False, server_default=sa.text("0")))
    op.create_index("ix_trials_sweep_id_value", "trials", ["sweep_id", "value", "number"])
    op.create_index(
        "ix_trials_summary",
        "trials",
        ["sweep_id", "kind", "state", "samples", "total_samples", "seconds"],
    )


def downgrade() -> None:
    op.drop_index("ix_trials_summary", "trials")
    op.drop_index("ix_trials_sweep_id_value", "trials")
    op.drop_column("trials", "rewound")
    op.drop_column("sweeps", "trimmed_event_id")
    op.drop_column("cluster", "nodes")
    for table in (
        "curve_pieces",
        "telemetry",
        "deliveries",
        "webhooks",
        "allowed_code",
        "idempotency_keys",
        "audit",
        "sessions",
    ):
        op.drop_table(table)
    op.drop_index("uq_tokens_previous_hash", "tokens")
    for column in (
        "previous_expires_at",
        "previous_hash",
        "revoked_at",
        "last_used_at",
        "expires_at",
        "created_by",
        "project_id",
        "prefix",
        "scopes",
    ):
        op.drop_column("tokens", column)
