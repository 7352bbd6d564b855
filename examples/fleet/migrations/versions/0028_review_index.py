"""Reviews are found by age; the table is not locked meanwhile."""

from __future__ import annotations

from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.create_index("reviews_created", "reviews", ["created_at"], postgresql_concurrently=True)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index("reviews_created", "reviews", postgresql_concurrently=True)
