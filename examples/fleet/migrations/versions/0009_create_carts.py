"""Create carts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "carts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("amount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.DateTime),
        sa.Column(
            "customer_id", sa.Integer, sa.ForeignKey("customers.id", name="carts_customer_fk")
        ),
    )
    op.create_index("carts_name", "carts", ["name"])


def downgrade() -> None:
    op.drop_table("carts")
