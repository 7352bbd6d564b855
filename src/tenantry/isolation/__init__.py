"""What keeps them apart? From a tenant to what must hold on its connections."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..servers import Server
from ..tenant import Isolation, Placement, Tenant
from .base import Target
from .database import database_target
from .rows import rows_target
from .schema import schema_target

if TYPE_CHECKING:
    from .policies import (
        adoption_statements,
        distribution_statements,
        policy_statements,
        rows_metadata,
        view_statements,
    )
    from .row_audit import RowFinding, audit_rows

__all__ = [
    "RowFinding",
    "Target",
    "adoption_statements",
    "audit_rows",
    "distribution_statements",
    "policy_statements",
    "rows_metadata",
    "target_for",
    "view_statements",
]

# What an owner of tables needs, and no request.
_LATE = {
    "RowFinding": "row_audit",
    "adoption_statements": "policies",
    "audit_rows": "row_audit",
    "distribution_statements": "policies",
    "policy_statements": "policies",
    "rows_metadata": "policies",
    "view_statements": "policies",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LATE[name]}", __name__), name)


def target_for(
    tenant: Tenant | None, placement: Placement, server: Server, driver: str, is_async: bool
) -> Target:
    """What must hold for *tenant* (``None``: the shared place) on connections of *driver*.

    Raises:
        ConfigurationError: The placement is impossible on that server.
        UnsupportedError: That server cannot isolate this way.
    """
    if placement.isolation is Isolation.DATABASE:
        return database_target(tenant, placement, server, driver, is_async)
    if placement.isolation is Isolation.SCHEMA:
        return schema_target(tenant, placement, server, driver, is_async)
    return rows_target(tenant, placement, server, driver, is_async)
