"""What a table says of itself: a tenant's, shared, of a named database, with a tenant column."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import Column, MetaData, Table

from ..errors import ConfigurationError

__all__ = [
    "SHARED",
    "TENANT_COLUMN",
    "bind_key_of",
    "is_shared",
    "key_in",
    "mark_shared",
    "tenant_column",
]

#: The mark in ``Table.info`` or ``MetaData.info`` (key ``tenantry``) of what belongs to no tenant.
SHARED = "shared"
#: The mark in ``Column.info`` (key ``tenantry``) of the column that holds the tenant's key.
TENANT_COLUMN = "tenant"


def mark_shared(metadata: MetaData) -> MetaData:
    """Say that every table of *metadata* is shared; returns it."""
    metadata.info["tenantry"] = SHARED
    return metadata


def is_shared(table: Table) -> bool:
    """Whether a table belongs to no tenant.

    Raises:
        ConfigurationError: The mark is none that tenantry knows.
    """
    mark = table.info.get("tenantry", table.metadata.info.get("tenantry"))
    if mark is None:
        return False
    if mark != SHARED:
        raise ConfigurationError(
            f"table {table.name!r} is marked info={{'tenantry': {mark!r}}}; "
            "the only mark of a table is 'shared'"
        )
    return True


def bind_key_of(table: Table) -> str | None:
    """The named database of a table; ``None``: the tenant's or the shared one."""
    key = table.info.get("bind_key", table.metadata.info.get("bind_key"))
    return str(key) if key is not None else None


def tenant_column(table: Table) -> Column[Any] | None:
    """The column that holds the tenant's key, where rows of many tenants share the table.

    It is marked ``Column(..., info={"tenantry": "tenant"})``; the mixin does that.
    """
    for column in table.columns:
        if column.info.get("tenantry") == TENANT_COLUMN:
            return column
    return None


def key_in(column: Column[Any], key: str) -> Any:
    """A tenant's *key* as a value of its tenant column: text, a number or a UUID.

    Raises:
        ConfigurationError: The key is no value of that type.
    """
    try:
        kind = column.type.python_type
    except NotImplementedError:
        kind = str
    try:
        if kind is int:
            return int(key)
        return uuid.UUID(key) if kind is uuid.UUID else key
    except ValueError:
        raise ConfigurationError(
            f"the tenant's key {key!r} is no value of column {column.name!r} of table "
            f"{column.table.name!r} ({column.type}); give the tenant a key of that type"
        ) from None
