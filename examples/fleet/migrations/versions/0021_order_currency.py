"""Orders have a currency."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.add_column(
        "orders", sa.Column("currency", sa.String(3), nullable=False, server_default="EUR")
    )
    op.create_index("orders_currency", "orders", ["currency"])


def downgrade() -> None:
    op.drop_index("orders_currency", "orders")
    with op.batch_alter_table("orders") as batch:
        batch.drop_column("currency")
