"""Create prices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "prices",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("amount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.DateTime),
        sa.Column("product_id", sa.Integer, sa.ForeignKey("products.id", name="prices_product_fk")),
    )
    op.create_index("prices_name", "prices", ["name"])


def downgrade() -> None:
    op.drop_table("prices")
