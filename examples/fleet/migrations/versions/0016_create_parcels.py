"""Create parcels."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_table(
        "parcels",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("amount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.DateTime),
        sa.Column(
            "shipment_id", sa.Integer, sa.ForeignKey("shipments.id", name="parcels_shipment_fk")
        ),
    )
    op.create_index("parcels_name", "parcels", ["name"])


def downgrade() -> None:
    op.drop_table("parcels")
