"""An own database: own connections, or shared ones where the server lets them be pointed."""

from __future__ import annotations

from ..backends import backend_of
from ..errors import UnsupportedError
from ..servers import Server
from ..tenant import Placement, State, Tenant
from .base import Target

__all__ = ["database_target"]


def database_target(
    tenant: Tenant | None, placement: Placement, server: Server, driver: str, is_async: bool
) -> Target:
    """The target for a tenant (``None``: the shared place) with a database of its own.

    Raises:
        ConfigurationError: The database's name is impossible on that server.
    """
    backend = backend_of(server)
    database = placement.database
    if tenant is not None and tenant.untrusted_sql and backend.switches_database:
        raise UnsupportedError(
            f"tenant {tenant.id!r} writes SQL of its own (untrusted_sql), and on {backend.kind} "
            "the login may use every tenant's database; give it a server with a login of its own",
            tenant_id=tenant.id,
        )
    if database is not None:
        backend.check_database_name(server, database)
    read_only = tenant is not None and tenant.state is State.READ_ONLY
    if backend.switches_database and database is not None:
        # Connected without a database: a connection that missed its switch is in none.
        return Target(
            tenant=tenant,
            server=server,
            backend=backend,
            bucket=(server.name,),
            url=backend.url(server, "", driver),
            is_async=is_async,
            switch_to=database,
            read_only=read_only,
        )
    stamp = tenant.stamp if tenant is not None else None
    return Target(
        tenant=tenant,
        server=server,
        backend=backend,
        bucket=(server.name, database, stamp),
        url=backend.url(server, database, driver),
        is_async=is_async,
        read_only=read_only,
    )
