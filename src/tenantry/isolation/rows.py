"""Rows of shared tables: row-level security where the server has it, armed in each BEGIN."""

from __future__ import annotations

from dataclasses import replace

from ..backends import backend_of
from ..errors import UnsupportedError
from ..servers import Server
from ..tenant import Placement, State, Tenant
from .base import Target
from .schema import armed

__all__ = ["rows_target"]


def rows_target(
    tenant: Tenant | None, placement: Placement, server: Server, driver: str, is_async: bool
) -> Target:
    """The target for a tenant (``None``: the shared place) whose rows stand among others'.

    The value in the tenant column is the tenant's key.

    Raises:
        UnsupportedError: The tenant writes SQL of its own.
    """
    backend = backend_of(server)
    if tenant is not None and tenant.untrusted_sql:
        raise UnsupportedError(
            f"tenant {tenant.id!r} writes SQL of its own (untrusted_sql), and any SQL can change "
            "who it is; give it isolation 'database', or 'schema' with switch 'role'",
            tenant_id=tenant.id,
        )
    target = Target(
        tenant=tenant,
        server=server,
        backend=backend,
        bucket=(server.name,) if backend.switches_database else (server.name, placement.database),
        url=backend.url(server, "" if backend.switches_database else placement.database, driver),
        is_async=is_async,
        read_only=tenant is not None and tenant.state is State.READ_ONLY,
    )
    if not backend.has_row_security:
        pointing = backend.row_pointing(tenant.key if tenant is not None else "")
        return replace(
            target,
            filter_rows=True,
            switch_to=(placement.database or server.url.database)
            if backend.switches_database
            else None,
            pointing=pointing,
        )
    path = backend.path(placement.schema or backend.usual_schema, server.shared_schema)
    key = tenant.key if tenant is not None else ""
    return armed(
        target,
        backend.arm(path=path, session=False, tenant_key=key),
        backend.arm(path=path, session=True, tenant_key=key),
        bucket=(server.name, placement.database, "armed"),
        rows=True,
    )
