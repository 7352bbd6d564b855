"""Products without a name get one."""

from __future__ import annotations

from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    op.execute("UPDATE products SET name = 'unnamed: 100%' WHERE name = ''")


def downgrade() -> None:
    op.execute("UPDATE products SET name = '' WHERE name = 'unnamed: 100%'")
