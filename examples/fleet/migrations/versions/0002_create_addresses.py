"""Create addresses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "addresses",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("amount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.DateTime),
        sa.Column(
            "customer_id", sa.Integer, sa.ForeignKey("customers.id", name="addresses_customer_fk")
        ),
    )
    op.create_index("addresses_name", "addresses", ["name"])


def downgrade() -> None:
    op.drop_table("addresses")
