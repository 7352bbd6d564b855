"""What an INSERT or UPDATE says of the tenant column: nothing, or the tenant's own key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Column, Table, UniqueConstraint
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import Insert, Update
from sqlalchemy.sql.elements import BindParameter

from ..errors import CrossTenantError, UnsupportedError
from ..isolation.tables import key_in, tenant_column
from ..tenant import Tenant

__all__ = ["check_values", "keys_hold_tenant", "names_tenant"]


def check_values(statement: Insert | Update, rows: Any, tenant: Tenant, *, strict: bool) -> None:
    """Refuse a row of another tenant, and a value whose meaning only the server knows.

    *strict*: the server itself does not look at the rows.

    Raises:
        CrossTenantError: A value is not the tenant's key.
        UnsupportedError: ``INSERT ... SELECT`` that fills the tenant column (*strict*).
    """
    table = _table_of(statement)
    column = tenant_column(table) if table is not None else None
    if table is None or column is None:
        return
    if isinstance(statement, Insert) and statement.select is not None:
        names = statement._select_names or []
        filled = statement.include_insert_from_select_defaults
        if strict and (column.key in names or column.name in names or not filled):
            raise UnsupportedError(
                f"INSERT ... SELECT into {table.name!r} must leave the tenant column out, it is "
                "filled in",
                tenant_id=tenant.id,
            )
    own = key_in(column, tenant.key)
    for value in _given(statement, column, [rows] if isinstance(rows, Mapping) else rows or []):
        if isinstance(value, BindParameter):
            if value.required:
                continue  # filled from the rows, which are looked at as well
            value = value.effective_value
        if isinstance(value, visitors.Visitable) or (value != own and str(value) != tenant.key):
            raise CrossTenantError(
                f"a row of another tenant was written to {table.name!r} under tenant "
                f"{tenant.id!r}; leave the tenant column alone, it is filled in",
                tenant_id=tenant.id,
            )


def _table_of(statement: Insert | Update) -> Table | None:
    part: Any = statement.table
    while not isinstance(part, Table):
        part = getattr(part, "element", None) or getattr(part, "left", None)
        if part is None:
            return None
    return part


def _given(statement: Insert | Update, column: Column[Any], rows: Iterable[Any]) -> Iterator[Any]:
    """Every value that is given for the tenant column, wherever a statement may hold one."""
    names = {column.key, column.name, *_attributes(statement, column)}
    # A bound parameter of another name may stand for the column.
    for name, value in _pairs(statement):
        if _names(name, names, column):
            if isinstance(value, BindParameter) and value.required:
                names.add(value.key)
            yield value
    for row in rows:
        if isinstance(row, Mapping):
            yield from (row[name] for name in names & row.keys())
    for many in getattr(statement, "_multi_values", ()):
        position = list(statement.table.c.keys()).index(column.key)
        for row in many:
            if isinstance(row, Mapping):
                yield from (value for name, value in row.items() if _names(name, names, column))
            elif len(row) > position:
                yield row[position]


def _pairs(statement: Any) -> Iterator[tuple[Any, Any]]:
    yield from dict(getattr(statement, "_values", None) or {}).items()
    yield from getattr(statement, "_ordered_values", None) or ()


def _names(name: Any, names: set[str], column: Column[Any]) -> bool:
    if isinstance(name, str):
        return name in names
    return names_tenant([name], column)


def _attributes(statement: Any, column: Column[Any]) -> set[str]:
    """What the ORM calls the column, if the statement is of a model."""
    subject = statement._propagate_attrs.get("plugin_subject")
    mapper = getattr(subject, "mapper", None)
    if mapper is None:
        return set()
    return {each.key for each in mapper.column_attrs if column in each.columns}


def names_tenant(names: Iterable[Any], column: Column[Any]) -> bool:
    """Whether one of *names* (strings, columns, attributes, tuples of columns) is the column."""
    for name in names:
        if isinstance(name, str):
            if name in (column.key, column.name):
                return True
            continue
        clause = name.__clause_element__() if hasattr(name, "__clause_element__") else name
        for part in visitors.iterate(clause):
            if getattr(part, "info", {}).get("tenantry") == "tenant":
                return True
    return False


def keys_hold_tenant(table: Table) -> bool:
    """Whether the tenant column is part of every key, so that tenants cannot meet in one."""
    column = tenant_column(table)
    if column is None:
        return True
    keys = [list(table.primary_key.columns)]
    keys += [list(each.columns) for each in table.constraints if isinstance(each, UniqueConstraint)]
    keys += [list(each.columns) for each in table.indexes if each.unique]
    return all(column in key for key in keys)
