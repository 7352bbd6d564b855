"""From a tenant to the connection that Superset opens, and from its errors to safe ones."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy.engine import URL, make_url

from tenantry.errors import ConfigurationError, PlacementMissingError, UnsupportedError
from tenantry.integrations.superset.visitor import Visitors
from tenantry.servers import Server
from tenantry.tenant import Isolation, Placement, Tenant

MARK = "tenantry"
"""The key in a Superset database's ``engine_params`` that says whether it is routed."""

_logger = logging.getLogger("tenantry.superset")

Mutation = tuple[Any, dict[str, Any]]
Mutate = Callable[..., Mutation]


class Mutator:
    """Superset's ``DB_CONNECTION_MUTATOR``: every connection goes to the tenant's database.

    The URL that was configured in Superset gives the dialect and driver only. A database whose
    *Engine Parameters* hold ``{"tenantry": "shared"}`` is left as it is. *before* is the
    mutator that the user had; it runs first, so what it adds to the engine's parameters stays.
    """

    def __init__(self, visitors: Visitors, before: Mutate | None = None) -> None:
        self.visitors = visitors
        self._before = before

    def __call__(
        self,
        uri: Any,
        params: dict[str, Any] | None,
        username: str | None = None,
        security_manager: Any = None,
        source: Any = None,
    ) -> Mutation:
        """Return the URL and the parameters for ``create_engine``.

        Raises:
            TenantryError: There is no tenant to read; nothing is connected to instead.
        """
        if self._before is not None:
            uri, params = self._before(uri, params, username, security_manager, source)
        kept = dict(params or {})
        if not routed(kept.pop(MARK, None)):
            return uri, kept
        tenant = self.visitors.tenant()
        server = server_of(tenant, self.visitors.servers)
        url, connect_args = place(tenant, server, make_url(uri).drivername)
        kept["connect_args"] = _merged(
            kept.get("connect_args", {}), server.connect_args, connect_args
        )
        kept["creator"] = Opening(url, server, tenant, kept["connect_args"]).open
        return url, kept


def routed(mark: object) -> bool:
    """Whether the mark of a Superset database says that it is routed; unmarked ones are.

    Raises:
        ConfigurationError: The mark is neither ``"routed"`` nor ``"shared"``.
    """
    if mark in (None, "routed"):
        return True
    if mark == "shared":
        return False
    raise ConfigurationError(
        f"the mark {mark!r} of a Superset database is neither 'routed' nor 'shared'; "
        "correct `engine_params` in its extra settings"
    )


def server_of(tenant: Tenant, servers: Mapping[str, Server]) -> Server:
    """The server that *tenant* is placed on.

    Raises:
        ConfigurationError: No server of that name is configured.
    """
    try:
        return servers[tenant.placement.server]
    except KeyError:
        raise ConfigurationError(
            f"tenant {tenant.id!r} is placed on server {tenant.placement.server!r}, which is not "
            "configured here",
            tenant_id=tenant.id,
        ) from None


def place(tenant: Tenant, server: Server, drivername: str) -> tuple[URL, dict[str, Any]]:
    """The URL of *tenant*'s database, without a password, and what the driver needs besides.

    Superset brings its own drivers, so *drivername* is the configured one and not the server's.

    Raises:
        ConfigurationError: The server is of another kind than *drivername*.
        UnsupportedError: The tenant's isolation cannot be kept inside Superset.
    """
    backend = drivername.partition("+")[0]
    if ("mysql" if backend == "mariadb" else backend) != server.kind:
        raise ConfigurationError(
            f"tenant {tenant.id!r} lives on {server.kind}, the Superset database speaks "
            f"{backend}; give each kind of server a Superset of its own",
            tenant_id=tenant.id,
        )
    placement = tenant.placement
    database = placement.database or server.url.database
    connect_args: dict[str, Any] = {}
    if placement.isolation is Isolation.ROWS:
        raise UnsupportedError(
            f"tenant {tenant.id!r} shares its tables with others, and SQL written in Superset "
            "is not bound to its rows; place it in a database or schema of its own",
            tenant_id=tenant.id,
        )
    if placement.isolation is Isolation.SCHEMA:
        if server.kind == "mysql":  # where a schema is a database
            database = placement.schema
        elif server.kind == "postgresql":
            assert placement.schema is not None
            connect_args["options"] = _path_option(placement.schema)
        else:
            raise UnsupportedError(
                f"schema isolation of tenant {tenant.id!r} is not possible on {server.kind}",
                tenant_id=tenant.id,
            )
    if server.kind == "sqlite":
        database = _file(tenant, server, placement.database)
    base = server.url
    url = URL.create(
        drivername, base.username, None, base.host, base.port, database, dict(base.query)
    )
    return url, connect_args


def _merged(*several: Mapping[str, Any]) -> dict[str, Any]:
    """All of them; start-up options add up, and the last one, the path, decides."""
    merged: dict[str, Any] = {}
    for each in several:
        options = " ".join(part for part in (merged.get("options"), each.get("options")) if part)
        merged |= each
        if options:
            merged["options"] = options
    return merged


def _path_option(schema: str) -> str:
    """The start-up option that makes *schema* the whole path, temporary objects last.

    A space or backslash is escaped with a backslash (PostgreSQL manual, libpq *options*), a
    double quote in a name by doubling it.
    """
    path = '"{}",pg_temp'.format(schema.replace('"', '""'))
    escaped = path.replace("\\", "\\\\").replace(" ", "\\ ")
    return f"-csearch_path={escaped}"


def _file(tenant: Tenant, server: Server, name: str | None) -> str:
    path = (server.root / (name or "")).resolve()
    if not name or server.root not in path.parents:
        raise ConfigurationError(
            f"the file of tenant {tenant.id!r} is not below its server's root",
            tenant_id=tenant.id,
        )
    return str(path)


@dataclass(frozen=True)
class Opening:
    """Opens connections: gives the driver its password, and keeps its words from visitors.

    The engine's URL holds no password, so nothing that prints or logs the engine shows one. A
    driver says host, port and role when it fails (psycopg2: ``connection to server at "..."``);
    our words stand for it, and the server's log has the rest.
    """

    url: URL
    server: Server
    tenant: Tenant
    connect_args: Mapping[str, Any]

    def open(self) -> Any:
        """Open one; SQLAlchemy's pool calls this (``create_engine``, *creator*)."""
        dialect = _dialect(self.url.drivername)
        complete = self.server.url_with_secrets(self.url)
        arguments, named = dialect.create_connect_args(complete)
        try:
            connection = dialect.connect(*arguments, **{**named, **self.connect_args})
            if self.server.kind == "postgresql":
                _check_path(connection, self.tenant.placement)
        except dialect.dbapi.Error as error:
            said = str(error).strip()
            if complete.password:
                said = said.replace(str(complete.password), "***")
            _logger.warning("tenant %s: no connection: %s", self.tenant.id, said)
            safe = dialect.dbapi.OperationalError(
                f"the database of tenant {self.tenant.id!r} cannot be reached"
            )
            raise safe from None
        return connection


def _check_path(connection: Any, placement: Placement) -> None:
    """Refuse a connection whose path is not the tenant's schema.

    A pooler may swallow the start-up option (PgBouncer, *ignore_startup_parameters*), and a
    schema that is gone is skipped in a path; either would read whatever comes next.
    """
    if placement.isolation is not Isolation.SCHEMA:
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        (found,) = cursor.fetchone()
    connection.rollback()
    if found != placement.schema:
        connection.close()
        raise PlacementMissingError(
            f"the connection's schema is not {placement.schema!r}; the schema is missing, or a "
            "pooler does not pass `options` on"
        )


@lru_cache
def _dialect(drivername: str) -> Any:
    """A dialect with its driver, which knows how a URL becomes arguments."""
    kind: Any = make_url(f"{drivername}://").get_dialect()
    # SQLAlchemy 2 has the first, 1.4 the second.
    return kind(dbapi=(getattr(kind, "import_dbapi", None) or kind.dbapi)())


def engine_context(
    visitors: Visitors, before: Callable[..., Any] | None = None
) -> Callable[[Any, str | None, str | None], contextlib.AbstractContextManager[None]]:
    """Superset's ``ENGINE_CONTEXT_MANAGER``: refuses a dataset that names another's schema.

    A dataset with a schema is queried as ``schema.table``, which neither a path nor a database
    of MySQL holds back. Where schemas keep tenants apart it must name none, or the tenant's own.
    """

    @contextlib.contextmanager
    def guarded(database: Any, catalog: str | None, schema: str | None) -> Iterator[None]:
        if schema and routed(_mark(database)):
            check_schema(visitors, schema)
        with before(database, catalog, schema) if before else contextlib.nullcontext():
            yield

    return guarded


def check_schema(visitors: Visitors, schema: str) -> None:
    """Refuse *schema* for the current visitor if it may belong to another tenant.

    Raises:
        ConfigurationError: It is not the tenant's own; the dataset must name no schema.
    """
    tenant = visitors.tenant()
    server = server_of(tenant, visitors.servers)
    placement = tenant.placement
    if placement.isolation is Isolation.SCHEMA:
        own = placement.schema
    elif server.kind == "mysql":
        own = placement.database or server.url.database
    else:
        return  # a database of PostgreSQL cannot reach into another one
    if schema != own:
        raise ConfigurationError(
            f"the dataset names the schema {schema!r}, tenant {tenant.id!r} has one of its own; "
            "leave the dataset's schema empty",
            tenant_id=tenant.id,
        )


def _mark(database: Any) -> object:
    params = database.get_extra().get("engine_params", {})
    return params.get(MARK) if isinstance(params, Mapping) else None
