"""Create products."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "products",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("amount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.DateTime),
        sa.Column(
            "category_id", sa.Integer, sa.ForeignKey("categories.id", name="products_category_fk")
        ),
    )
    op.create_index("products_name", "products", ["name"])


def downgrade() -> None:
    op.drop_table("products")
