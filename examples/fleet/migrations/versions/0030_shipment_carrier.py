"""Shipments name their carrier."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"


def upgrade() -> None:
    op.add_column("shipments", sa.Column("carrier", sa.String(40)))
    op.create_index("shipments_carrier", "shipments", ["carrier"])


def downgrade() -> None:
    op.drop_index("shipments_carrier", "shipments")
    with op.batch_alter_table("shipments") as batch:
        batch.drop_column("carrier")
