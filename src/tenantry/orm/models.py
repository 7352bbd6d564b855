"""What a model says of itself, and the mixin for rows of shared tables."""

from __future__ import annotations

from typing import Any

from sqlalchemy import String, Table
from sqlalchemy.orm import Mapped, Mapper, declared_attr, mapped_column
from sqlalchemy.sql import visitors

from ..errors import NoTenantError
from ..isolation.tables import (
    SHARED,
    TENANT_COLUMN,
    bind_key_of,
    is_shared,
    key_in,
    mark_shared,
    tenant_column,
)
from ..routing import tenant_of_execution

__all__ = [
    "SHARED",
    "TenantRows",
    "bind_key_of",
    "is_shared",
    "mark_shared",
    "tenant_column",
    "tenant_key",
]


def tenant_key(context: Any) -> Any:
    """The default of a tenant column: the key of the tenant whose connection inserts.

    It is of the column's type: text, a number or a UUID. For a column of one's own:
    ``mapped_column(default=tenant_key, info={"tenantry": "tenant"})``.

    Raises:
        NoTenantError: The connection is no tenant's.
    """
    tenant = tenant_of_execution(context)
    if tenant is None:
        raise NoTenantError("a tenant's row was inserted on a connection of no tenant")
    column = getattr(context, "current_column", None)
    return key_in(column, tenant.key) if column is not None else tenant.key


class TenantRows:
    """A model whose table may hold the rows of many tenants.

    It adds the column ``tenant_id``, filled with the tenant's key on insert. Tenants with an
    own database or schema use the same model; there the column says what is known anyway.
    """

    @declared_attr
    def tenant_id(cls) -> Mapped[str]:  # noqa: N805  # SQLAlchemy gives the class
        """The key of the tenant that the row belongs to."""
        return mapped_column(
            String(64),
            default=tenant_key,
            server_default="",
            nullable=False,
            info={"tenantry": TENANT_COLUMN},
        )


def tables_of(mapper: Mapper[Any] | None, clause: Any) -> list[Table]:
    """The tables that a bind is wanted for."""
    if mapper is not None and isinstance(mapper.local_table, Table):
        return [mapper.local_table]
    if clause is None:
        return []
    return [part for part in visitors.iterate(clause) if isinstance(part, Table)]
