"""Create payments."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "payments",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("amount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.DateTime),
        sa.Column("order_id", sa.Integer, sa.ForeignKey("orders.id", name="payments_order_fk")),
    )
    op.create_index("payments_name", "payments", ["name"])


def downgrade() -> None:
    op.drop_table("payments")
