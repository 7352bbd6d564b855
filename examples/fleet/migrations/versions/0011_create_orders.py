"""Create orders."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("amount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.DateTime),
        sa.Column(
            "customer_id", sa.Integer, sa.ForeignKey("customers.id", name="orders_customer_fk")
        ),
    )
    op.create_index("orders_name", "orders", ["name"])


def downgrade() -> None:
    op.drop_table("orders")
