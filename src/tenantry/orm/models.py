"""What a model says of itself: tenant table, shared table, or a table of a named database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import MetaData, Table
from sqlalchemy.orm import Mapper
from sqlalchemy.sql import visitors

from ..errors import ConfigurationError

__all__ = ["SHARED", "bind_key_of", "is_shared", "mark_shared"]

#: The mark in ``Table.info`` or ``MetaData.info`` (key ``tenantry``) of what belongs to no tenant.
SHARED = "shared"


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
    if mark is None or isinstance(mark, dict):
        return False
    if mark != SHARED:
        raise ConfigurationError(
            f"table {table.name!r} is marked info={{'tenantry': {mark!r}}}; the only mark is 'shared'"
        )
    return True


def bind_key_of(table: Table) -> str | None:
    """The named database of a table; ``None``: the tenant's or the shared one."""
    key = table.info.get("bind_key", table.metadata.info.get("bind_key"))
    return str(key) if key is not None else None


def tables_of(mapper: Mapper[Any] | None, clause: Any) -> list[Table]:
    """The tables that a bind is wanted for."""
    if mapper is not None and isinstance(mapper.local_table, Table):
        return [mapper.local_table]
    if clause is None:
        return []
    return [part for part in visitors.iterate(clause) if isinstance(part, Table)]
