"""What must hold on a connection before a tenant's statements run on it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from sqlalchemy.engine import URL

from ..backends import Backend, Pointing
from ..servers import Server
from ..tenant import Tenant

__all__ = ["Target"]

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Target:
    """Where a tenant's connections go, decided once per tenant, generation and driver.

    *tenant* is ``None`` for the shared place. *url* holds no secret. Connections with the same
    *bucket* may serve each other's tenants, because the guard makes each what it must be:

    * *settings* are the server's settings at connect,
    * *switch_to* is the database it is pointed at when it is handed out,
    * *arm* is what holds for each transaction, sent with its BEGIN (``None``: nothing, the
      driver begins as it always does), and *arm_session* the same for a session without one,
    * *pointing* is what tells the driver or the server at each checkout whose it is,
    * *attach* is a file that is attached under the name of *schema*,
    * *translate* is the schema that SQLAlchemy puts before each table,
    * *expect_schema* is the schema in which a fresh connection must find itself.

    *schema* is the tenant's own schema, whichever way it is reached.

    *by_path* says that the same text may mean another tenant's tables under another search
    path, so that a statement prepared for one must not be used for another. *rows* says that
    row-level security is what keeps them apart, so that the login must be subject to it;
    *filter_rows* that the server does not, so that every statement must carry the tenant's
    condition.
    """

    tenant: Tenant | None
    server: Server
    backend: Backend
    bucket: Hashable
    url: URL
    is_async: bool = False
    settings: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    switch_to: str | None = None
    arm: str | None = None
    arm_session: str | None = None
    pointing: Pointing | None = None
    attach: str | None = None
    translate: str | None = None
    expect_schema: str | None = None
    schema: str | None = None
    by_path: bool = False
    rows: bool = False
    filter_rows: bool = False
    read_only: bool = False

    @property
    def is_exclusive(self) -> bool:
        """Whether the bucket's connections serve this tenant and generation alone."""
        stamp = self.tenant.stamp if self.tenant is not None else None
        return isinstance(self.bucket, tuple) and self.bucket[-1] == stamp

    @cached_property
    def is_pointed(self) -> bool:
        """Whether a connection must be told whose it is each time it is handed out."""
        return self.switch_to is not None or self.pointing is not None or self.read_only

    @cached_property
    def owner(self) -> str:
        """Whom the budget counts the connection for."""
        return self.tenant.id if self.tenant is not None else "(shared)"

    @property
    def tenant_id(self) -> str | None:
        """For events and errors."""
        return self.tenant.id if self.tenant is not None else None
