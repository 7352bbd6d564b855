"""What must hold on a connection before a tenant's statements run on it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from sqlalchemy.engine import URL

from ..backends import Backend
from ..servers import Server
from ..tenant import Tenant

__all__ = ["Target"]


@dataclass(frozen=True, eq=False)
class Target:
    """Where a tenant's connections go, decided once per tenant, generation and driver.

    *tenant* is ``None`` for the shared place. Connections with the same *bucket* may serve each
    other's tenants: the guard points them (*switch_to*, a database) or arms each transaction
    (*begin*, what is sent in the BEGIN message). *url* holds no secret.
    """

    tenant: Tenant | None
    server: Server
    backend: Backend
    bucket: Hashable
    url: URL
    is_async: bool = False
    switch_to: str | None = None
    begin: str | None = None
    read_only: bool = False

    @property
    def owner(self) -> str:
        """Whom the budget counts the connection for."""
        return self.tenant.id if self.tenant is not None else "(shared)"

    @property
    def tenant_id(self) -> str | None:
        """For events and errors."""
        return self.tenant.id if self.tenant is not None else None
