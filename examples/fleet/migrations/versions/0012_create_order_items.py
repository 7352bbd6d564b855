"""Create order_items."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "order_items",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("amount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.DateTime),
        sa.Column("order_id", sa.Integer, sa.ForeignKey("orders.id", name="order_items_order_fk")),
    )
    op.create_index("order_items_name", "order_items", ["name"])


def downgrade() -> None:
    op.drop_table("order_items")
