"""Rows of shared tables in the ORM: what a flush writes is stamped, and guarded, before it is sent.

What is read is kept to the tenant where statements are compiled, in ``routing/filter.py``, and
by the server's row-level security where it has that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, inspect
from sqlalchemy.orm.state import InstanceState

from ..errors import CrossTenantError
from ..isolation.tables import key_in, tenant_column
from ..tenant import Isolation, Tenant

if TYPE_CHECKING:
    from .session import TenantSession

__all__ = ["check_written", "in_rows", "stamp"]


def in_rows(tenant: Tenant | None) -> bool:
    """Whether the tenant's rows stand among those of others."""
    return tenant is not None and tenant.placement.isolation is Isolation.ROWS


def stamp(state: InstanceState[Any], tenant: Tenant) -> None:
    """Fill the tenant column of a new object; refuse one that names another tenant.

    Raises:
        CrossTenantError: It does, or an object of the tenant was given away or disowned.
    """
    mapper = state.mapper
    for table in mapper.tables:
        column = tenant_column(table) if isinstance(table, Table) else None
        if column is None:
            continue
        attribute = mapper.get_property_by_column(column).key
        own = key_in(column, tenant.key)
        value = state.dict.get(attribute)
        if value is None and state.key is None:
            setattr(state.obj(), attribute, own)
        elif attribute in state.dict and value != own and str(value) != tenant.key:
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
