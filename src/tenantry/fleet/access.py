"""Plain connections for fleet work: to a tenant's place in any state, or to a server itself.

Requests go through the routed engine, which refuses tenants that are not to be served. Fleet
work creates, repairs and deletes exactly those, so it connects by itself, outside the budget of
the application and without any pool that an application could borrow from.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.pool import NullPool

from ..backends import Backend, SQLite, backend_of
from ..directory.base import server_of
from ..errors import PlacementMissingError, UnsupportedError
from ..isolation import Target
from ..routing.connect import open_connection
from ..servers import Server, is_pooled
from ..tenant import Isolation, Placement, Tenant
from .replay import watch

__all__ = ["Access", "Place"]

A = TypeVar("A", bound="Access")
#: Server, by the admin login, database, autocommit.
_Key = tuple[str, bool, "str | None", bool]
_target: ContextVar[Target] = ContextVar("tenantry_fleet_target")


class Place:
    """One physical place: a database, or a schema in one, and the tenants that live there.

    *whole* says that a database is the place, with all that is in it.
    """

    __slots__ = ("backend", "database", "key", "schema", "server", "tenants", "whole")

    def __init__(self, server: Server, placement: Placement, *tenants: Tenant) -> None:
        self.server = server
        self.backend: Backend = backend_of(server)
        database, schema = placement.database, placement.schema
        if schema is not None and server.kind == "mysql":
            database, schema = schema, None  # a schema is a database there
        if schema is not None and isinstance(self.backend, SQLite):
            database, schema = database or f"{schema}.db", None  # a file that is attached
        self.database = database
        self.schema = schema
        self.tenants = list(tenants)
        self.key = (server.name, self.database or "", self.schema or "")
        self.whole = placement.isolation is Isolation.DATABASE and database not in (
            None,
            server.url.database,
        )

    @property
    def name(self) -> str:
        """The id of the (first) tenant that lives here, for messages, events and the journal."""
        return self.tenants[0].id if self.tenants else "(shared)"

    def file(self) -> Path:
        """The tenant's file (SQLite only)."""
        assert isinstance(self.backend, SQLite)
        return self.backend.file(self.server, self.database)

    def __repr__(self) -> str:
        return f"<Place {'/'.join(part for part in self.key if part)}>"


class Access:
    """Opens connections of fleet work; one engine per server, so that each is met once.

    Safe for threads. With *keep*, closed connections to a database are kept for the next
    caller, at most *keep* of them over all servers.
    """

    def __init__(self, servers: Mapping[str, Server], *, keep: int = 0) -> None:
        self._servers = servers
        self._keep = keep
        self._engines: dict[tuple[str, bool], Engine] = {}
        self._verified: set[Engine] = set()  # those with sessions of their own
        self._idle: list[tuple[_Key, Connection]] = []
        self._lock = threading.Lock()

    def place(self, tenant: Tenant) -> Place:
        """Where *tenant* lives.

        Raises:
            ConfigurationError: Its server is not configured.
        """
        return Place(server_of(tenant, self._servers), tenant.placement, tenant)

    def places(self, tenants: list[Tenant]) -> list[Place]:
        """Every place of *tenants* once; those with ``rows`` isolation share theirs."""
        places: dict[tuple[str, str, str], Place] = {}
        for tenant in tenants:
            place = self.place(tenant)
            places.setdefault(place.key, place)
            if places[place.key] is not place:
                places[place.key].tenants.append(tenant)
        return list(places.values())

    @contextmanager
    def connect(
        self,
        server: Server,
        database: str | None = None,
        *,
        admin: bool = False,
        autocommit: bool = False,
        own: bool = False,
        tenant: Tenant | None = None,
    ) -> Iterator[Connection]:
        """A connection to *database* of *server* (``None``: the server's own database).

        *admin* uses the server's admin login, if it has one. The connection is rolled back at
        the end and closed or kept; with *own* nobody had its session before, and nobody gets it.

        Raises:
            PlacementMissingError: The database does not exist.
            ServerUnavailableError: The server does not answer.
            UnsupportedError: A pooler answers for it.
        """
        login = admin and server.admin is not None
        key = (server.name, login, database, autocommit)
        connection = None if own else self._take(key)
        if connection is None:
            connection = self._open(server, database, login, tenant)
            if autocommit:
                connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            yield connection
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        if connection.in_transaction():
            connection.rollback()
        if own or not self._give(key, connection):
            connection.close()

    @contextmanager
    def enter(
        self, place: Place, *, autocommit: bool = False, write: bool = False
    ) -> Iterator[Connection]:
        """A connection to *place*, its schema first on the path; whatever the tenant's state.

        With *write* the session is nobody else's, before or after: a revision may leave a
        setting or a temporary table in it. Transactions on SQLite take the write lock when they
        begin. On MySQL, but for *autocommit*, the connection has a dialect of its own, for that
        remembers a database as the default one.

        Raises:
            PlacementMissingError: The place does not exist.
            ServerUnavailableError: The server does not answer.
            UnsupportedError: A pooler answers for it.
        """
        tenant = place.tenants[0] if place.tenants else None
        if isinstance(place.backend, SQLite) and not place.file().exists():
            raise missing(place)
        opened = (
            self._alone(place, tenant)
            if write and not autocommit and place.server.kind == "mysql"
            else self.connect(
                place.server, place.database, autocommit=autocommit, own=write, tenant=tenant
            )
        )
        with opened as connection:
            if place.schema is not None and place.server.kind == "postgresql":
                point(connection, place)
            if write:
                connection = connection.execution_options(tenantry_write=True)
            yield connection

    @contextmanager
    def _alone(self, place: Place, tenant: Tenant | None) -> Iterator[Connection]:
        used = _past_the_pooler(place.server)
        engine = _engine(used)
        with self._dial(engine, used, place.database, tenant) as connection:
            yield connection
        engine.dispose()

    def close(self) -> None:
        """Close what was kept."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def __enter__(self: A) -> A:  # noqa: PYI019
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def engine(self, server: Server, *, admin: bool = False) -> Engine:
        """The engine of a server; its connections go where :meth:`connect` says."""
        key = (server.name, admin)
        with self._lock:
            engine = self._engines.get(key)
            if engine is None:
                engine = self._engines[key] = _engine(server)
            return engine

    def _open(
        self, server: Server, database: str | None, login: bool, tenant: Tenant | None
    ) -> Connection:
        used = _past_the_pooler(server)
        if login:
            assert server.admin is not None
            used = replace(server.admin, name=server.name, create_missing=server.create_missing)
        return self._dial(self.engine(used, admin=login), used, database, tenant)

    def _dial(
        self, engine: Engine, used: Server, database: str | None, tenant: Tenant | None
    ) -> Connection:
        backend = backend_of(used)
        driver = backend.driver(used, is_async=False)
        if isinstance(backend, SQLite):
            url = used.url.set(drivername=f"sqlite+{driver}", database=":memory:")
            if database is not None:
                url = backend.url(used, database, driver)
            else:
                used = replace(used, create_missing=True)  # in memory: nothing is missing there
        else:
            url = backend.url(used, database, driver)
        target = Target(tenant=tenant, server=used, backend=backend, bucket=(), url=url)
        token = _target.set(target)
        try:
            connection = engine.connect()
        finally:
            _target.reset(token)
        if used.kind == "postgresql" and engine not in self._verified:
            try:
                _refuse_a_pooler(connection, used)
            except BaseException:
                connection.close()
                raise
            self._verified.add(engine)
        return connection

    def _take(self, key: _Key) -> Connection | None:
        with self._lock:
            for index in range(len(self._idle) - 1, -1, -1):
                if self._idle[index][0] == key:
                    return self._idle.pop(index)[1]
        return None

    def _give(self, key: _Key, connection: Connection) -> bool:
        if not self._keep or connection.closed or connection.invalidated:
            return False
        with self._lock:
            self._idle.append((key, connection))
            surplus = [self._idle.pop(0)[1] for _ in range(max(0, len(self._idle) - self._keep))]
        for each in surplus:
            each.close()
        return True


def _past_the_pooler(server: Server) -> Server:
    return server.direct or server


def _refuse_a_pooler(connection: Connection, server: Server) -> None:
    """A path or a lock of a session would be somebody else's there after each transaction."""
    if server.pooler or is_pooled(connection.connection.driver_connection):
        raise UnsupportedError(
            f"a pooler answers for server {server.name!r}, and fleet work needs sessions of its "
            "own; give the server a direct_url that goes past the pooler (and an admin_url that "
            "does, if it has one)"
        )


def point(connection: Connection, place: Place) -> None:
    """Put the schema of *place* first on this connection's path, until somebody points it anew.

    Raises:
        PlacementMissingError: There is no such schema; tables would be temporary ones.
    """
    quoted = place.backend.quote(place.schema or "")
    exists = connection.execute(
        text(
            "SELECT pg_catalog.to_regnamespace(:schema) IS NOT NULL, "
            "pg_catalog.set_config('search_path', :path, false)"
        ),
        {"schema": quoted, "path": f"{quoted}, pg_temp"},
    ).scalar()
    connection.commit()
    if not exists:
        raise missing(place)


@contextmanager
def open_file(place: Place, *, timeout: float) -> Iterator[sqlite3.Connection]:
    """A tenant's SQLite file straight from the driver, which begins no transactions.

    For reading and writing: what a killed process left half-written is rolled back by whoever
    comes next, and only who may write can (sqlite.org/lockingv3.html, "Hot Journals").
    *timeout* (seconds) is how long another one's lock is waited for.

    Raises:
        PlacementMissingError: There is no such file.
    """
    file = place.file()
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(file))}?mode=rw", uri=True, timeout=timeout, isolation_level=None
        )
    except sqlite3.OperationalError:
        if file.exists():
            raise
        raise missing(place) from None
    try:
        yield connection
    finally:
        connection.close()


def missing(place: Place) -> PlacementMissingError:
    """The error for a place that should be there."""
    return PlacementMissingError(
        f"the place of tenant {place.name!r} does not exist on server {place.server.name!r}; "
        "`tenantry create` makes it, `tenantry doctor` compares the directory with the servers",
        tenant_id=place.name if place.tenants else None,
    )


def _engine(server: Server) -> Engine:
    backend = backend_of(server)
    driver = backend.driver(server, is_async=False)
    url = server.url.set(drivername=f"{backend.dialect_name(server)}+{driver}")
    engine: Engine = create_engine(
        url,
        poolclass=NullPool,
        creator=lambda: open_connection(engine.dialect, _target.get(), False),
    )
    if server.kind == "sqlite":
        # The driver begins transactions late and not for DDL; so it begins none, and we do
        # (SQLAlchemy manual, "Enabling Non-Legacy SQLite Transactional Modes").
        event.listen(engine, "connect", _sqlite_driver_begins_none)
        event.listen(engine, "begin", _sqlite_begin)
    watch(engine)
    return engine


def _sqlite_driver_begins_none(connection: Any, _record: object) -> None:
    connection.isolation_level = None


def _sqlite_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") != "AUTOCOMMIT":
        now = " IMMEDIATE" if options.get("tenantry_write") else ""
        connection.exec_driver_sql(f"BEGIN{now}")
