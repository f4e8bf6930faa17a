"""What the trainer now records: throughput, padding, gradient noise; scores of benchmarks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    zero = sa.text("0")
    for column in (
        sa.Column("input_tokens", _Big, server_default=zero, nullable=False),
        sa.Column("padding", sa.Double(), server_default=zero, nullable=False),
        sa.Column("data_wait", sa.Double(), server_default=zero, nullable=False),
        sa.Column("mfu", sa.Double(), nullable=True),
        sa.Column("grad_sq", sa.Double(), nullable=True),
        sa.Column("noise", sa.Double(), nullable=True),
    ):
        op.add_column("metrics", column)
    op.add_column(
        "evaluations",
        sa.Column("scores", sa.JSON(), server_default=sa.text("'{}'"), nullable=False),
    )


def downgrade() -> None:
    # What 0001 can't say is dropped: it knows neither benchmarks nor general sets.
    op.execute("DELETE FROM evaluations WHERE split NOT IN ('eval', 'test')")
    op.drop_column("evaluations", "scores")
    for name in ("noise", "grad_sq", "mfu", "data_wait", "padding", "input_tokens"):
        op.drop_column("metrics", name)
