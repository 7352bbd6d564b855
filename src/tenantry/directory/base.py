"""What a directory is: it knows every tenant by id, and where each one lives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

from ..errors import ConfigurationError, DuplicatePlacementError, UnknownTenantError
from ..naming import check_tenant_id, shown
from ..servers import Server
from ..tenant import Isolation, Placement, Tenant

__all__ = ["Directory", "WritableDirectory", "check_placements"]


@runtime_checkable
class Directory(Protocol):
    """Where do they live: a tenant id, or an identifier that a request shows, to a tenant.

    Safe to call from any thread. A directory uses connections of its own and never asks who
    is current. Tenants of every state are returned; whoever opens one asks
    :meth:`~tenantry.Tenant.check_serving`.
    """

    def get(self, tenant_id: str) -> Tenant:
        """The tenant with this id.

        Raises:
            UnknownTenantError: There is none (also for what is no id at all).
            DirectoryUnavailableError: The directory cannot be read.
        """

    def find(self, identifier: str) -> Tenant:
        """The tenant that a request names by *identifier*: its id or one of its identifiers.

        Raises:
            UnknownTenantError: No tenant has this identifier.
            DirectoryUnavailableError: The directory cannot be read.
        """

    def peek(self, tenant_id: str) -> Tenant | None:
        """What :meth:`get` would answer, if it is known without I/O; else ``None``.

        Code on an event loop asks this first, and calls :meth:`get` in a thread on ``None``.
        """

    def tenants(self) -> Iterable[Tenant]:
        """All tenants, ordered by id."""


@runtime_checkable
class WritableDirectory(Directory, Protocol):
    """A directory in which tenants can be created and changed."""

    def add(self, tenant: Tenant) -> Tenant:
        """Record a new tenant and return it as recorded (with its key and generation).

        Raises:
            DuplicatePlacementError: The id, an identifier or the place is taken.
        """

    def replace(self, tenant: Tenant, *, expected: Tenant) -> Tenant:
        """Record a new state, placement, generation or attributes, if nobody was faster.

        Raises:
            UnknownTenantError: *expected* is not what is recorded (any more).
        """

    def remove(self, tenant: Tenant) -> None:
        """Forget a tenant. Its key is never given again.

        Raises:
            UnknownTenantError: It is not recorded.
        """


def unknown(identifier: object) -> UnknownTenantError:
    """The error for an identifier that no tenant has; shows it escaped and shortened."""
    return UnknownTenantError(
        f"no tenant {shown(identifier)}; `tenantry list` shows those that exist"
    )


def place_of(placement: Placement, server: Server) -> tuple[str, ...]:
    """What a placement occupies, comparable between servers that are the same machine."""
    if server.kind == "sqlite":
        file = (server.root / (placement.database or "")).resolve()
        return ("sqlite", str(file), placement.schema or "")
    database = placement.database or server.url.database or ""
    if server.kind == "mysql":
        database = placement.schema or database
        return ("mysql", server.address, database)
    return (server.kind, server.address, database, placement.schema or "")


def check_placements(tenants: Iterable[Tenant], servers: Mapping[str, Server]) -> None:
    """Refuse two tenants in one place.

    Tenants with ``rows`` isolation share a place with each other, and with nobody else.

    Raises:
        DuplicatePlacementError: Names both tenants.
        ConfigurationError: A tenant's server is not configured.
    """
    taken: dict[tuple[str, ...], Tenant] = {}
    for tenant in tenants:
        check_tenant_id(tenant.id)
        server = server_of(tenant, servers)
        place = place_of(tenant.placement, server)
        other = taken.setdefault(place, tenant)
        both_rows = (
            tenant.placement.isolation is Isolation.ROWS
            and other.placement.isolation is Isolation.ROWS
        )
        if other is not tenant and not both_rows:
            raise DuplicatePlacementError(
                f"tenants {other.id!r} and {tenant.id!r} are both placed at {tenant.placement}; "
                "give each its own database, schema or file",
                tenant_id=tenant.id,
            )


def server_of(tenant: Tenant, servers: Mapping[str, Server]) -> Server:
    """The server of a tenant's placement.

    Raises:
        ConfigurationError: No server of that name is configured.
    """
    try:
        return servers[tenant.placement.server]
    except KeyError:
        known = ", ".join(sorted(servers)) or "none"
        raise ConfigurationError(
            f"tenant {tenant.id!r} is placed on server {tenant.placement.server!r}, which is not "
            f"configured; configured: {known}",
            tenant_id=tenant.id,
        ) from None
