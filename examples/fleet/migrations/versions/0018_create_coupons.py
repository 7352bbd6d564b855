"""Create coupons."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.create_table(
        "coupons",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("amount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.DateTime),
    )
    op.create_index("coupons_name", "coupons", ["name"])


def downgrade() -> None:
    op.drop_table("coupons")
