"""Create refunds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "refunds",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("amount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.DateTime),
        sa.Column(
            "payment_id", sa.Integer, sa.ForeignKey("payments.id", name="refunds_payment_fk")
        ),
    )
    op.create_index("refunds_name", "refunds", ["name"])


def downgrade() -> None:
    op.drop_table("refunds")
