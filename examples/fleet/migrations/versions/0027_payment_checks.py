"""Payments are not negative."""

from __future__ import annotations

from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    with op.batch_alter_table("payments") as batch:
        batch.create_check_constraint("payments_amount", "amount >= 0")


def downgrade() -> None:
    with op.batch_alter_table("payments") as batch:
        batch.drop_constraint("payments_amount", type_="check")
