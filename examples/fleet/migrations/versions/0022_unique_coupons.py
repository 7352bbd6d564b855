"""A coupon's name is its own."""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    op.create_index("coupons_name_unique", "coupons", ["name"], unique=True)


def downgrade() -> None:
    op.drop_index("coupons_name_unique", "coupons")
