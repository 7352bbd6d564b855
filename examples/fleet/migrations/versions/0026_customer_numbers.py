"""Customers are numbered in the order of their names."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    op.add_column("customers", sa.Column("number", sa.Integer))
    connection = op.get_bind()
    ids = connection.execute(sa.text("SELECT id FROM customers ORDER BY name, id")).scalars().all()
    for number, customer in enumerate(ids, 1):
        connection.execute(
            sa.text("UPDATE customers SET number = :number WHERE id = :id"),
            {"number": number, "id": customer},
        )


def downgrade() -> None:
    with op.batch_alter_table("customers") as batch:
        batch.drop_column("number")
