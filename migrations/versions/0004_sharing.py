"""Sharing the cluster, live changes, budgets, reuse, and checkpoints that are deleted again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.add_column(
        "projects", sa.Column("quota", _JSON, nullable=False, server_default=sa.text("'{}'"))
    )
    op.add_column(
        "projects", sa.Column("weight", sa.Double(), nullable=False, server_default=sa.text("1"))
    )
    op.add_column(
        "sweeps", sa.Column("priority", sa.Integer(), nullable=False, server_default=sa.text("0"))
    )
    op.add_column(
        "sweeps", sa.Column("weight", sa.Double(), nullable=False, server_default=sa.text("1"))
    )
    op.add_column("sweeps", sa.Column("max_concurrent", sa.Integer(), nullable=True))
    op.add_column("sweeps", sa.Column("slots", sa.Integer(), nullable=True))
    op.add_column("sweeps", sa.Column("why_pending", sa.Text(), nullable=True))
    op.add_column("sweeps", sa.Column("budget", _JSON, nullable=True))
    op.add_column("sweeps", sa.Column("account", _JSON, nullable=True))
    op.add_column("sweeps", sa.Column("space", _JSON, nullable=True))
    op.add_column(
        "trials",
        sa.Column("pinned", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.add_column("trials", sa.Column("parent", sa.String(24), nullable=True))
    op.add_column("trials", sa.Column("reused_from", sa.String(24), nullable=True))
    op.add_column("trials", sa.Column("fingerprint", sa.String(64), nullable=True))
    op.add_column("trials", sa.Column("why_pending", sa.Text(), nullable=True))
    op.create_index("ix_trials_fingerprint", "trials", ["fingerprint"])
    op.add_column("commands", sa.Column("payload", _JSON, nullable=True))
    op.add_column(
        "checkpoints",
        sa.Column("damaged", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.add_column(
        "checkpoints",
        sa.Column("deleted", sa.Boolean(), nullable=False, server_default=sa.false()),
    )


def downgrade() -> None:
    op.drop_column("checkpoints", "deleted")
    op.drop_column("checkpoints", "damaged")
    op.drop_column("commands", "payload")
    op.drop_index("ix_trials_fingerprint", "trials")
    for column in ("why_pending", "fingerprint", "reused_from", "parent", "pinned"):
        op.drop_column("trials", column)
    for column in (
        "space",
        "account",
        "budget",
        "why_pending",
        "slots",
        "max_concurrent",
        "weight",
        "priority",
    ):
        op.drop_column("sweeps", column)
    op.drop_column("projects", "weight")
    op.drop_column("projects", "quota")
