"""Create cart_items."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "cart_items",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("amount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.DateTime),
        sa.Column("cart_id", sa.Integer, sa.ForeignKey("carts.id", name="cart_items_cart_fk")),
    )
    op.create_index("cart_items_name", "cart_items", ["name"])


def downgrade() -> None:
    op.drop_table("cart_items")
