"""What early decisions rest on: earlier sweeps, the scheduler's own account, further objectives."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sweeps", sa.Column("prior", sa.JSON(none_as_null=True), nullable=True))
    op.add_column(
        "sweeps", sa.Column("scheduler_summary", sa.JSON(none_as_null=True), nullable=True)
    )
    op.add_column("trials", sa.Column("also", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("trials", "also")
    op.drop_column("sweeps", "scheduler_summary")
    op.drop_column("sweeps", "prior")
