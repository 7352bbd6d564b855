"""Products have longer names."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    with op.batch_alter_table("products") as batch:
        batch.alter_column(
            "name", existing_type=sa.String(80), type_=sa.String(200), existing_nullable=False
        )


def downgrade() -> None:
    with op.batch_alter_table("products") as batch:
        batch.alter_column(
            "name", existing_type=sa.String(200), type_=sa.String(80), existing_nullable=False
        )
