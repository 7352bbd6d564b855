"""A view of orders that nobody has paid."""

from __future__ import annotations

from alembic import op

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    op.execute(
        "CREATE VIEW open_orders AS SELECT o.id, o.name FROM orders o "
        "WHERE NOT EXISTS (SELECT 1 FROM payments p WHERE p.order_id = o.id)"
    )


def downgrade() -> None:
    op.execute("DROP VIEW open_orders")
