"""Create stocks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "stocks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("amount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.DateTime),
        sa.Column(
            "warehouse_id", sa.Integer, sa.ForeignKey("warehouses.id", name="stocks_warehouse_fk")
        ),
    )
    op.create_index("stocks_name", "stocks", ["name"])


def downgrade() -> None:
    op.drop_table("stocks")
