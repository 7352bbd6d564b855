"""Rows on servers without row-level security: every statement gets the tenant's condition.

SQLAlchemy shows each statement before it is compiled. Selects, updates and deletes of tables
with a tenant column get the condition, in subqueries too; inserts are checked; what cannot be
read (text) is refused. That includes what the ORM sends at a flush.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table, bindparam
from sqlalchemy.engine import Connection
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import Delete, Insert, Update
from sqlalchemy.sql.elements import BindParameter, ClauseElement, TextClause
from sqlalchemy.sql.selectable import Alias, FromClause, Join, Select, TextualSelect

from ..errors import CrossTenantError, UnsupportedError
from ..isolation.tables import is_shared, tenant_column
from ..tenant import Tenant

__all__ = ["FILTERED", "before_execute", "check_text", "filtered"]

#: Execution option by which the caller swears that a piece of text filters by tenant itself.
FILTERED = "tenantry_filtered"


def before_execute(
    connection: Connection,
    element: Any,
    multiparams: Sequence[Mapping[str, Any]],
    params: Mapping[str, Any],
    execution_options: Mapping[str, Any],
) -> tuple[Any, Any, Any]:
    """SQLAlchemy's event: the statement with the tenant's condition.

    Raises:
        CrossTenantError: An insert names another tenant.
        UnsupportedError: The statement cannot be filtered.
    """
    record: Any = getattr(connection._dbapi_connection, "_connection_record", None)
    target = getattr(record, "target", None)
    if target is None or not target.filter_rows or target.tenant is None:
        return element, multiparams, params
    if isinstance(element, (Insert, Update)):
        _check_values(element, [*multiparams, *([params] if params else [])], target.tenant)
    if execution_options.get(FILTERED) or element._execution_options.get(FILTERED):
        return element, multiparams, params
    return filtered(element, target.tenant), multiparams, params


def check_text(context: Any, statement: str, tenant: Tenant) -> None:
    """Refuse a string that was given to the driver as it is.

    Raises:
        UnsupportedError: It was, and the caller did not swear.
    """
    if context.compiled is None and not context.execution_options.get(FILTERED):
        raise _unfilterable(tenant)


def filtered(element: Any, tenant: Tenant) -> Any:
    """*element* with the tenant's condition wherever a table with a tenant column is read.

    Raises:
        UnsupportedError: It is or contains text, or a tenant's table without tenant column.
    """
    if not isinstance(element, ClauseElement):
        return element
    tables = [part for part in visitors.iterate(element) if isinstance(part, Table)]
    if any(isinstance(part, (TextClause, TextualSelect)) for part in visitors.iterate(element)):
        raise _unfilterable(tenant)
    if not isinstance(element, (Select, Update, Delete, Insert)) and not tables:
        return element
    for table in tables:
        if tenant_column(table) is None and not is_shared(table):
            raise UnsupportedError(
                f"table {table.name!r} has no tenant column, and tenant {tenant.id!r} shares its "
                "tables; add the mixin TenantRows, or mark the table as shared",
                tenant_id=tenant.id,
            )
    key: BindParameter[str] = bindparam("tenantry_key", tenant.key, unique=True)

    def condition(statement: Any) -> None:
        for table in _own_tables(statement):
            column = table.c.get(_column_name(table))
            if column is not None:
                statement._where_criteria += (column == key,)

    return visitors.cloned_traverse(
        element, {}, {"select": condition, "update": condition, "delete": condition}
    )


def _own_tables(statement: Any) -> list[FromClause]:
    """Tables and their aliases in the FROM of one statement, not of its subqueries."""
    if isinstance(statement, (Update, Delete)):
        froms: list[Any] = [statement.table, *getattr(statement, "_extra_froms", [])]
    else:
        froms = list(statement.get_final_froms())
    found: list[FromClause] = []
    while froms:
        each = froms.pop()
        if isinstance(each, Join):
            froms += [each.left, each.right]
        elif isinstance(_table_below(each), Table):
            found.append(each)
    return found


def _table_below(part: Any) -> Any:
    while isinstance(part, Alias):
        part = part.element
    return part


def _column_name(part: Any) -> str:
    table = _table_below(part)
    column = tenant_column(table)
    return column.key if column is not None else ""


def _check_values(
    element: Insert | Update, rows: Sequence[Mapping[str, Any]], tenant: Tenant
) -> None:
    table = element.table
    column = tenant_column(table) if isinstance(table, Table) else None
    if column is None:
        return
    if isinstance(element, Insert) and element.select is not None:
        raise UnsupportedError(
            f"INSERT ... SELECT into {column.table.name!r} cannot be checked where the server does "
            "not keep rows apart; read the rows first and insert them",
            tenant_id=tenant.id,
        )
    given: list[Any] = [row[column.key] for row in rows if column.key in row]
    named = dict(element._values or {})
    given += [value for key, value in named.items() if getattr(key, "key", key) == column.key]
    for many in getattr(element, "_multi_values", ()):
        for row in many:
            items = row.items() if isinstance(row, Mapping) else ()
            given += [value for key, value in items if getattr(key, "key", key) == column.key]
    for value in given:
        plain = value.value if isinstance(value, BindParameter) else value
        if isinstance(value, BindParameter) and plain is None and value.required:
            continue  # filled from the rows, which were checked above
        if plain != tenant.key:
            raise CrossTenantError(
                f"a row of another tenant was written to {column.table.name!r} under tenant "
                f"{tenant.id!r}; leave the tenant column alone, it is filled in",
                tenant_id=tenant.id,
            )


def _unfilterable(tenant: Tenant) -> UnsupportedError:
    return UnsupportedError(
        "SQL text cannot be kept to one tenant where the server does not keep rows apart; use "
        f"select() of models or tables, or execution_options({FILTERED}=True) if the text filters "
        "by tenant itself",
        tenant_id=tenant.id,
    )
