"""What a directory is: it knows every tenant by id, and where each one lives."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

from ..errors import ConfigurationError, DuplicatePlacementError, UnknownTenantError
from ..naming import check_tenant_id, is_identifier, physical_name, shown
from ..servers import Server
from ..tenant import Isolation, Placement, Tenant

__all__ = ["Directory", "WritableDirectory", "check_placements", "default_database"]

# Where tables of `rows` tenants are when no schema is said; a `schema` tenant may not be there.
USUAL_SCHEMAS = {"postgresql": "public", "mssql": "dbo"}
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433, "oracle": 1521}
# SQLite keeps these beside a database file, so no tenant's file may be called so
# (sqlite.org/tempfiles.html).
_SQLITE_COMPANIONS = ("-journal", "-wal", "-shm")


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

    def next_generation(self, tenant_id: str) -> int:
        """The generation that a tenant of this id would get now: 1, or one more than the last.

        Physical names are made with it, so that a tenant created anew has places of its own.
        """

    def add(self, tenant: Tenant) -> Tenant:
        """Record a new tenant and return it as recorded.

        It gets a key that was never given before, and at least the next generation. A key other
        than the id is kept (for an import).

        Raises:
            DuplicatePlacementError: The id, the key, an identifier or the place is taken.
            ConfigurationError: An identifier or an attribute cannot be recorded.
        """

    def replace(self, tenant: Tenant, *, expected: Tenant) -> Tenant:
        """Record a new state, placement, generation or attributes, if nobody was faster.

        The key stays. A new placement counts the generation up, if *tenant* does not.

        Raises:
            DuplicatePlacementError: The place or an identifier is taken.
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


def lost(tenant: Tenant) -> UnknownTenantError:
    """The error for a change that came too late."""
    return UnknownTenantError(
        f"tenant {tenant.id!r} is not recorded as expected: somebody changed or removed it; "
        "read it again and repeat the change",
        tenant_id=tenant.id,
    )


def default_database(tenant_id: str, server: Server, generation: int = 1) -> str:
    """The name of an own database when none is said: the physical name, for SQLite with ``.db``.

    The suffix keeps the file of a tenant ``a-wal`` apart from what SQLite writes beside that of
    a tenant ``a``.
    """
    name = physical_name(tenant_id, generation=generation)
    return f"{name}.db" if server.kind == "sqlite" else name


def check_identifiers(tenant: Tenant) -> tuple[str, ...]:
    """The identifiers of a tenant besides its id, each once.

    Raises:
        ConfigurationError: One could never be found, because no request is looked up with it.
    """
    for identifier in tenant.identifiers:
        if not is_identifier(identifier):
            raise ConfigurationError(
                f"tenant {tenant.id!r} cannot have the identifier {shown(identifier)}; identifiers "
                "are tenant ids or lower-case host names",
                tenant_id=tenant.id,
            )
    return tuple(dict.fromkeys(each for each in tenant.identifiers if each != tenant.id))


def place_of(placement: Placement, server: Server) -> tuple[str, ...]:
    """What a placement occupies, comparable between servers that are the same machine.

    Raises:
        ConfigurationError: A file name leads out of the SQLite server's root.
    """
    if server.kind == "sqlite":
        file = _file(placement.database, server) if placement.database else str(server.root)
        return ("sqlite", file, placement.schema or "")
    database = placement.database or server.url.database or ""
    port = server.url.port or _PORTS.get(server.kind, 0)
    address = f"{(server.url.host or 'localhost').lower()}:{port}"
    if server.kind == "mysql":
        return ("mysql", address, placement.schema or database)
    schema = placement.schema
    if placement.isolation is Isolation.ROWS:
        schema = schema or USUAL_SCHEMAS.get(server.kind)
    return (server.kind, address, database, schema or "")


def database_of(placement: Placement, server: Server) -> tuple[str, ...]:
    """The whole database that a placement stands in, or the file; comparable as a place is.

    Raises:
        ConfigurationError: A file name leads out of the SQLite server's root.
    """
    if server.kind == "sqlite" and not placement.database and placement.schema:
        # What is attached under the schema's name.
        placement = Placement(placement.server, database=f"{placement.schema}.db")
    place = place_of(placement, server)
    return place[:2] if server.kind == "sqlite" else place[:3]


def clash(one: Isolation, other: Isolation, kind: str | None = None) -> bool:
    """Whether two tenants may not stand in one database, each in its own schema.

    A ``database`` tenant's own is the whole of it, and where a *kind* of server has databases
    without schemas in them, a ``schema`` tenant's too.
    """
    if one is other is Isolation.ROWS:
        return False
    return Isolation.DATABASE in (one, other) or kind in ("sqlite", "mysql")


def crowded(tenant: Tenant, other: str) -> DuplicatePlacementError:
    """The error for a tenant in a database that is another's as a whole, or the other way round."""
    whole = tenant.placement.isolation is Isolation.DATABASE
    return DuplicatePlacementError(
        f"tenant {tenant.id!r} cannot be placed at {tenant.placement}: tenant {other!r} is in that "
        f"database, and {'the new one' if whole else 'that one'} would have it alone; give "
        "isolation 'database' a database of its own",
        tenant_id=tenant.id,
    )


def _file(database: str, server: Server) -> str:
    root = server.root
    try:
        file = (root / database).resolve()
    except (ValueError, OSError):  # a NUL, half a character, a circle of links
        file = root
    if root not in file.parents:
        raise ConfigurationError(
            f"the file {shown(database)} lies outside the root of server {server.name!r}; name a "
            "file below it"
        )
    if database.endswith(_SQLITE_COMPANIONS):
        raise ConfigurationError(
            f"the file {shown(database)} is named like one that SQLite keeps beside a database; "
            "give it another ending, .db for instance"
        )
    return str(file)


def check_placements(tenants: Iterable[Tenant], servers: Mapping[str, Server]) -> None:
    """Refuse two tenants in one place, and any beside a tenant who has the database as a whole.

    Tenants with ``rows`` isolation share a place with each other, and with nobody else.

    Raises:
        DuplicatePlacementError: Names both tenants.
        ConfigurationError: A tenant's server is not configured.
    """
    taken: dict[tuple[str, ...], Tenant] = {}
    databases: dict[tuple[str, ...], dict[Isolation, Tenant]] = {}
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
        own = tenant.placement.isolation
        first = databases.setdefault(database_of(tenant.placement, server), {})
        first.setdefault(own, tenant)
        for isolation, other in first.items():
            if other is not tenant and clash(own, isolation, server.kind):
                raise crowded(tenant, other.id)


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


class _Forkable(Protocol):
    def after_fork(self) -> None: ...


_forkables: weakref.WeakSet[_Forkable] = weakref.WeakSet()


def reset_after_fork(directory: _Forkable) -> None:
    """Have ``directory.after_fork()`` called in each forked child, as long as it lives.

    A lock that another thread held at the fork stays locked in the child for ever, and a
    connection would be shared with the parent.
    """
    _forkables.add(directory)


def _after_fork() -> None:
    for directory in list(_forkables):
        directory.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
