"""Create reviews."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("amount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.DateTime),
        sa.Column(
            "product_id", sa.Integer, sa.ForeignKey("products.id", name="reviews_product_fk")
        ),
    )
    op.create_index("reviews_name", "reviews", ["name"])


def downgrade() -> None:
    op.drop_table("reviews")
