"""Rows of shared tables in the ORM: filter what is loaded, stamp and guard what is written.

Where the server has row-level security this is the second line; elsewhere it works together
with the filter of ``routing``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import event, inspect
from sqlalchemy.orm import Mapper, ORMExecuteState, with_loader_criteria
from sqlalchemy.orm.state import InstanceState

from ..errors import CrossTenantError, UnsupportedError
from ..isolation.tables import bind_key_of, is_shared, tenant_column
from ..tenant import Isolation, Tenant
from .models import TenantRows, tables_of

if TYPE_CHECKING:
    from .session import TenantSession

__all__ = ["check_mapper", "check_written", "in_rows", "rows_class", "stamp"]

_classes: dict[type[TenantSession], type[TenantSession]] = {}


def in_rows(tenant: Tenant | None) -> bool:
    """Whether the tenant's rows stand among those of others."""
    return tenant is not None and tenant.placement.isolation is Isolation.ROWS


def rows_class(plain: type[TenantSession]) -> type[TenantSession]:
    """The subclass of a session class whose loads are filtered.

    The filter hangs on a class of its own because SQLAlchemy's hook costs every statement of
    the class that has it.
    """
    found = _classes.get(plain)
    if found is None:
        found = type(plain.__name__, (plain,), {"__module__": plain.__module__})
        event.listen(found, "do_orm_execute", _filter)
        _classes[plain] = found
    return found


def _filter(execution: ORMExecuteState) -> None:
    session: Any = execution.session
    if execution.is_column_load or execution.is_relationship_load:
        return  # the option travels with the objects that were loaded under it
    tenant = session.tenant
    if not in_rows(tenant) or execution.is_insert:
        return
    key = tenant.key
    options = [
        with_loader_criteria(TenantRows, lambda cls: cls.tenant_id == key, include_aliases=True)
    ]
    for mapper in execution.all_mappers:
        check_mapper(mapper, tenant)
        column = tenant_column(mapper.local_table)  # type: ignore[arg-type]  # checked above
        if column is not None and not issubclass(mapper.class_, TenantRows):
            options.append(with_loader_criteria(mapper.class_, column == key, include_aliases=True))
    execution.statement = execution.statement.options(*options)


def check_mapper(mapper: Mapper[Any], tenant: Tenant) -> None:
    """Refuse a model that cannot be kept to one tenant's rows.

    Raises:
        UnsupportedError: Its table has no tenant column and is not shared.
    """
    for table in tables_of(mapper, None):
        if tenant_column(table) is None and not is_shared(table) and bind_key_of(table) is None:
            raise UnsupportedError(
                f"table {table.name!r} has no tenant column, and tenant {tenant.id!r} shares its "
                "tables; add the mixin TenantRows, or mark the table as shared",
                tenant_id=tenant.id,
            )


def stamp(state: InstanceState[Any], tenant: Tenant) -> None:
    """Fill the tenant column of a new object; refuse one that names another tenant.

    Raises:
        CrossTenantError: It does.
        UnsupportedError: The model's table has no tenant column and is not shared.
    """
    mapper = state.mapper
    check_mapper(mapper, tenant)
    for table in tables_of(mapper, None):
        column = tenant_column(table)
        if column is None:
            continue
        attribute = mapper.get_property_by_column(column).key
        value = state.dict.get(attribute)
        if value is None and state.key is None:
            setattr(state.obj(), attribute, tenant.key)
        elif value is not None and value != tenant.key:
            raise CrossTenantError(
                f"an object of class {mapper.class_.__name__} names another tenant in "
                f"{attribute!r}; leave it alone, it is filled in",
                tenant_id=tenant.id,
            )


def check_written(session: TenantSession, changed: list[Any]) -> None:
    """Stamp and guard everything that a flush would write."""
    tenant = session.tenant
    if tenant is not None and in_rows(tenant):
        for each in changed:
            stamp(inspect(each), tenant)
