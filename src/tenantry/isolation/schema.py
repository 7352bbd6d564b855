"""An own schema: the path in each BEGIN message, and the alternatives to it."""

from __future__ import annotations

from dataclasses import replace

from ..backends import backend_of
from ..errors import UnsupportedError
from ..servers import Server
from ..tenant import Placement, State, Switch, Tenant
from .base import Target
from .database import database_target

__all__ = ["schema_target"]


def schema_target(
    tenant: Tenant | None, placement: Placement, server: Server, driver: str, is_async: bool
) -> Target:
    """The target for a tenant (``None``: the shared place) with a schema of its own.

    On MySQL a schema is a database. On SQLite it is a file, attached under the schema's name.

    Raises:
        UnsupportedError: That server has no schemas, or cannot be switched that way.
    """
    assert placement.schema is not None
    backend = backend_of(server)
    if backend.switches_database:
        own = Placement(server.name, database=placement.schema)
        return database_target(tenant, own, server, driver, is_async)
    backend.check_schema_name(server, placement.schema)
    switch = placement.switch or server.switch
    if tenant is not None and tenant.untrusted_sql and switch is not Switch.ROLE:
        raise UnsupportedError(
            f"tenant {tenant.id!r} writes SQL of its own (untrusted_sql), and any SQL can change "
            "the path; give it isolation 'database', or switch 'role'",
            tenant_id=tenant.id,
        )
    read_only = tenant is not None and tenant.state is State.READ_ONLY
    stamp = tenant.stamp if tenant is not None else None
    schema = placement.schema
    common = Target(
        tenant=tenant,
        server=server,
        backend=backend,
        bucket=(server.name, placement.database, stamp),
        url=backend.schema_url(server, placement.database, driver),
        is_async=is_async,
        schema=schema,
        read_only=read_only,
    )
    if backend.attaches_schemas:
        return replace(common, attach=backend.schema_file(server, placement), translate=schema)
    if not backend.has_path:
        return _without_path(common, placement, switch)
    if switch is Switch.ROLE:
        return replace(common, url=common.url.set(username=placement.role), expect_schema=schema)
    path = backend.path(schema, server.shared_schema)
    if switch is Switch.CONNECT:
        return replace(common, settings={"search_path": path}, expect_schema=schema)
    # With the map the path is armed as well, for the text that no map can reach.
    mapped = switch is Switch.MAP
    return armed(
        common,
        backend.arm(path=path, session=False),
        backend.arm(path=path, session=True),
        bucket=(server.name, placement.database, "map" if mapped else "armed"),
        translate=schema if mapped else None,
        by_path=True,
    )


def _without_path(common: Target, placement: Placement, switch: Switch) -> Target:
    """On servers where a schema is pointed at (Oracle), or can only be written out (SQL Server)."""
    server, backend, schema = common.server, common.backend, placement.schema
    assert schema is not None
    if not backend.always_translates:
        raise UnsupportedError(f"server {server.name!r} ({backend.kind}) has no schemas")
    if switch is Switch.ROLE:
        url = common.url.set(username=placement.role)
        return replace(common, url=url, translate=schema, expect_schema=schema)
    pointing = backend.schema_pointing(schema)
    if pointing is None and switch is not Switch.MAP:
        raise UnsupportedError(
            f"server {server.name!r} ({backend.kind}) has no search path; use switch 'map'"
        )
    bucket = common.bucket
    if switch is not Switch.CONNECT:
        bucket = (server.name, placement.database, "schema")
    return replace(common, bucket=bucket, translate=schema, pointing=pointing)


def armed(
    target: Target, arm: str, arm_session: str, *, bucket: tuple[object, ...], **changes: object
) -> Target:
    """*target* on connections that find nothing until a transaction is armed."""
    return replace(
        target,
        bucket=bucket,
        settings=target.backend.empty_path(),
        arm=arm,
        arm_session=arm_session,
        **changes,  # type: ignore[arg-type]  # each name is a field of Target
    )
