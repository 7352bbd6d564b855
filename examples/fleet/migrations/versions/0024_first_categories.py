"""Every shop begins with three categories."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    categories = sa.table("categories", sa.column("id", sa.Integer), sa.column("name", sa.String))
    op.bulk_insert(
        categories,
        [
            {"id": 1, "name": "100% cotton"},
            {"id": 2, "name": "O'Neill: shoes"},
            {"id": 3, "name": "everything else"},
        ],
    )


def downgrade() -> None:
    op.execute("DELETE FROM categories WHERE id IN (1, 2, 3)")
