"""What keeps them apart? From a tenant to what must hold on its connections."""

from ..servers import Server
from ..tenant import Isolation, Placement, Tenant
from .base import Target
from .database import database_target
from .rows import rows_target
from .schema import schema_target

__all__ = ["Target", "target_for"]


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
