"""Tenancy: the one object an application builds. Wires directory, servers, engines, sessions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Engine, MetaData, Row, Table
from sqlalchemy.engine import URL

from . import context
from .directory import CachedDirectory, Directory, TableDirectory
from .directory.base import server_of
from .directory.static import from_env, from_file, from_mapping
from .errors import (
    CallerError,
    ConfigurationError,
    NoTenantError,
    TenantSwitchError,
    UnsupportedError,
)
from .isolation.views import union_view_statements
from .orm import TenantSession, fan_out, is_shared
from .orm.fan_out import Readable
from .routing import Budget, RoutedEngine, Router
from .servers import Server
from .tenant import Placement, State, Tenant

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from .fleet import Report, Selection
    from .orm import AsyncTenantSession

__all__ = ["Tenancy"]

T = TypeVar("T")

_LAST_ENGINES = 1000


class Tenancy:
    """One application, many tenants: who they are, where they live, and how to reach them.

    *directory* knows the tenants, *servers* the database servers by name. *shared* is the
    place of what belongs to no tenant (``None``: there is none). *binds* are engines or URLs
    of further databases, for models with a ``bind_key``.

    *max_connections* bounds the connections of this process over all tenants, *per_tenant*
    what one tenant holds at a time (``None``: half of the whole), *wait_seconds* how long a
    request waits for one. *engine_options* go to SQLAlchemy's ``create_engine``.

    Safe for threads, tasks and forks; build it once, at import or in the app factory.

    Raises:
        ConfigurationError: A setting is wrong.
    """

    def __init__(
        self,
        directory: Directory,
        servers: Mapping[str, Server] | Iterable[Server],
        *,
        shared: Placement | None = None,
        binds: Mapping[str, Engine | AsyncEngine | str | URL] | None = None,
        max_connections: int = 100,
        per_tenant: int | None = None,
        wait_seconds: float = 30.0,
        engine_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.servers: Mapping[str, Server] = (
            dict(servers)
            if isinstance(servers, Mapping)
            else {server.name: server for server in servers}
        )
        self.directory: Directory = (
            CachedDirectory(directory) if isinstance(directory, TableDirectory) else directory
        )
        self.budget = Budget(max_connections, per_tenant=per_tenant, wait_seconds=wait_seconds)
        self._router = Router(
            self.directory,
            self.servers,
            self.budget,
            shared=shared,
            engine_options=engine_options,
        )
        self._binds = dict(binds or {})
        self._async_engines: dict[RoutedEngine, AsyncEngine] = {}
        self._lock = threading.Lock()
        # By the address of a tenant; an engine keeps its tenant, so that the address stays its own.
        self._last_engines: dict[tuple[int, bool], RoutedEngine] = {}
        self._used = False

    # Ways to build one ----------------------------------------------------------------------

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], **options: Any) -> Tenancy:
        """From ``{"uk": "sqlite:///uk.db"}``, or from ``{"servers": ..., "tenants": ...}``.

        The first is also the shape of ``SQLALCHEMY_BINDS``; *options* are the constructor's.

        Raises:
            ConfigurationError: And its siblings: the mapping is wrong; the message says where.
        """
        return cls._loaded(from_mapping(mapping), options)

    @classmethod
    def from_env(
        cls, prefix: str = "DB_", environ: Mapping[str, str] | None = None, **options: Any
    ) -> Tenancy:
        """From variables ``DB_UK_HOST``, ``DB_UK_PASS``, and the optional ones beside them.

        Raises:
            MissingVariableError: A tenant lacks a variable; the message names it.
        """
        return cls._loaded(
            from_env(prefix) if environ is None else from_env(prefix, environ), options
        )

    @classmethod
    def from_file(cls, path: str | Path, **options: Any) -> Tenancy:
        """From a TOML file with ``[servers.*]`` and ``[tenants.*]``.

        Raises:
            DirectoryFileError: The file cannot be read; the message names line and key.
        """
        return cls._loaded(from_file(path), options)

    @classmethod
    def _loaded(cls, loaded: Any, options: dict[str, Any]) -> Tenancy:
        if getattr(loaded, "shared", None) is not None:
            options.setdefault("shared", loaded.shared)
        return cls(loaded.directory, loaded.servers, **options)

    # Who ------------------------------------------------------------------------------------

    def get(self, tenant_id: str) -> Tenant:
        """The tenant with this id, as the directory knows it now.

        Raises:
            UnknownTenantError: There is none.
        """
        return self.directory.get(tenant_id)

    def find(self, identifier: str) -> Tenant:
        """The tenant that a request names: by id or by another of its identifiers.

        Raises:
            UnknownTenantError: No tenant has this identifier.
        """
        return self.directory.find(identifier)

    def tenants(self) -> list[Tenant]:
        """All tenants, ordered by id."""
        return list(self.directory.tenants())

    def use(self, tenant: str | Tenant, *, switch: bool = False) -> UseTenant:
        """A block (``with`` or ``async with``) in which everything is *tenant*'s.

        Raises:
            UnknownTenantError: (on entering) there is no such tenant.
            TenantSwitchError: (on entering) another tenant is current and *switch* is false.
            TenantSuspendedError: And its siblings (on entering): its state serves no requests.
        """
        return UseTenant(self.directory, tenant, switch)

    def shared(self) -> context.shared:
        """A block that belongs to no tenant, on purpose."""
        return context.shared()

    def pin(self, tenant_id: str) -> Tenant:
        """One tenant for the whole process: a deployment per client. Before first use, once.

        Raises:
            TenantSwitchError: Another tenant is pinned already.
            CallerError: A connection was asked for before.
            UnknownTenantError: There is no such tenant.
        """
        tenant = self.get(tenant_id)
        pinned = self._router.pinned_tenant
        if pinned is not None and pinned != tenant_id:
            raise TenantSwitchError(f"this process is pinned to tenant {pinned!r} already")
        if pinned is None and self._router.engines():
            raise CallerError("pin the tenant before the first connection is asked for")
        self._router.pin(tenant_id)
        return tenant

    def _now(self) -> Tenant | None:
        """Who is current, or ``None`` in a shared block."""
        tenant = context.now()
        if isinstance(tenant, Tenant):
            return tenant
        if context.in_shared():
            return None
        if self._router.pinned_tenant is not None:
            return self.get(self._router.pinned_tenant)
        raise NoTenantError

    # Engines --------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """A real Engine; every checkout goes to the current tenant's place.

        With servers of several kinds it is the current tenant's; with one kind it needs nobody.

        Raises:
            NoTenantError: There are several kinds and no tenant is current.
        """
        return self._front(is_async=False)

    @property
    def aengine(self) -> AsyncEngine:
        """The same for asyncio: a real AsyncEngine.

        Raises:
            NoTenantError: There are several kinds of servers and no tenant is current.
        """
        return self._async(self._front(is_async=True))

    def _front(self, *, is_async: bool) -> RoutedEngine:
        kinds = {server.url.drivername: server for server in self.servers.values()}
        if len(kinds) == 1:
            (server,) = kinds.values()
        elif not kinds:
            raise ConfigurationError("no server is configured")
        else:
            tenant = self._now()
            placement = tenant.placement if tenant is not None else self._router.shared
            if placement is None or placement.server not in self.servers:
                raise ConfigurationError("no shared place is configured; give Tenancy(shared=...)")
            server = self.servers[placement.server]
        return self._router.front(server, is_async)

    def _async(self, engine: RoutedEngine) -> AsyncEngine:
        with self._lock:
            found = self._async_engines.get(engine)
            if found is None:
                from .orm.asession import AsyncEngine

                found = self._async_engines[engine] = AsyncEngine(engine)
            return found

    def _pinned(
        self, tenant: str | Tenant | None, *, is_async: bool, named: bool = False
    ) -> RoutedEngine:
        """The engine for a session: pinned to *tenant*, or to who is current.

        With *named* the session has other databases as well, so that in a shared block it is of
        use without a shared place; the first statement that needs the place is refused.
        """
        if tenant is None:
            engine = self._last_engines.get((id(context.now()), is_async))
            if engine is not None and engine._pin is context.now():
                return engine
            known = self._now()
        else:
            known = self.get(tenant) if isinstance(tenant, str) else tenant
            known.check_serving()
        placement = known.placement if known is not None else self._router.shared
        if placement is None:
            if named and self.servers:
                return self._router.front(next(iter(self.servers.values())), is_async).pinned(None)
            raise ConfigurationError("no shared place is configured; give Tenancy(shared=...)")
        try:
            server = self.servers[placement.server]
        except KeyError:
            raise ConfigurationError(f"server {placement.server!r} is not configured") from None
        engine = self._router.front(server, is_async).pinned(known)
        if known is not None:
            if len(self._last_engines) >= _LAST_ENGINES:
                self._last_engines.clear()
            self._last_engines[id(known), is_async] = engine
        return engine

    # Sessions -------------------------------------------------------------------------------

    def session(
        self,
        tenant: str | Tenant | None = None,
        *,
        class_: type[TenantSession] = TenantSession,
        **options: Any,
    ) -> TenantSession:
        """A session of *tenant* (``None``: the current one) for life; close it, or use ``with``.

        *class_* makes it; *options* are its own and SQLAlchemy's.

        Raises:
            NoTenantError: No tenant is current and none was given.
        """
        if self._binds:
            options.setdefault("named_binds", self.named_binds)
        named = bool(options.get("named_binds"))
        return class_(self._pinned(tenant, is_async=False, named=named), **options)

    def asession(
        self,
        tenant: str | Tenant | None = None,
        *,
        class_: type[AsyncTenantSession] | None = None,
        **options: Any,
    ) -> AsyncTenantSession:
        """The same for asyncio: an AsyncSession.

        Raises:
            NoTenantError: No tenant is current and none was given.
        """
        from .orm.asession import AsyncEngine, AsyncTenantSession

        options.setdefault("named_binds", self.named_binds)
        named = bool(options["named_binds"])
        engine = self._pinned(tenant, is_async=True, named=named)
        return (class_ or AsyncTenantSession)(AsyncEngine(engine), **options)

    def sessionmaker(self, **options: Any) -> Callable[[], TenantSession]:
        """Like SQLAlchemy's ``sessionmaker``: each call makes a session of who is current then."""
        return lambda: self.session(**options)

    @property
    def named_binds(self) -> dict[str, Any]:
        """The engines of further databases, by ``bind_key``."""
        for key, bind in self._binds.items():
            if isinstance(bind, (str, URL)):
                from sqlalchemy import create_engine

                self._binds[key] = create_engine(bind)
        return self._binds

    def fan_out(
        self,
        statement: Readable,
        *,
        permission: str,
        tenants: Iterable[str | Tenant] | None = None,
        workers: int = 1,
    ) -> Generator[tuple[str, Row[Any]], None, None]:
        """Read one statement from many tenants: yields ``(tenant id, row)``, streaming.

        *tenants* (``None``: all that serve requests) are read one after the other, or by
        *workers* threads at a time. *permission* says who or what allows it, and goes into the
        event :class:`~tenantry.events.FannedOut`. Only inside a shared block.

        Raises:
            CallerError: A tenant is current, no permission is given, or the statement writes.
            UnknownTenantError: One of *tenants* does not exist.
        """
        if tenants is None:
            serving = (State.READY, State.READ_ONLY)
            chosen = [each for each in self.tenants() if each.state in serving]
        else:
            chosen = [self.get(each) if isinstance(each, str) else each for each in tenants]
        return fan_out(statement, chosen, self.session, permission=permission, workers=workers)

    def union_view(
        self,
        table: Table,
        *,
        name: str,
        schema: str,
        reader: str,
        tenants: Iterable[str | Tenant] | None = None,
    ) -> list[str]:
        """Statements for one view over *table* of tenants in schemas of one database.

        For the schemas' owner to run. *reader* is the role that may read the view.

        Raises:
            UnsupportedError: The tenants are not in schemas of one database.
        """
        chosen = [
            self.get(each) if isinstance(each, str) else each
            for each in (self.tenants() if tenants is None else tenants)
        ]
        if not chosen:
            raise UnsupportedError("a view over no tenants is none; name at least one")
        return union_view_statements(
            table,
            chosen,
            server_of(chosen[0], self.servers),
            name=name,
            schema=schema,
            reader=reader,
        )

    # Tables ---------------------------------------------------------------------------------

    def create_all(self, metadata: MetaData, tenant: str | Tenant | None = None) -> None:
        """Create the tenant tables of *metadata* that are missing in *tenant*'s place.

        In a shared block (or for a Tenancy without tenants in it) the shared tables instead.

        Raises:
            NoTenantError: No tenant is current and none was given.
        """
        engine = self._pinned(tenant, is_async=False)
        tables = [
            table for table in metadata.sorted_tables if is_shared(table) is (engine._pin is None)
        ]
        metadata.create_all(engine, tables=tables)

    # Every tenant ---------------------------------------------------------------------------

    def each(
        self,
        fn: Callable[[Tenant], Any],
        *,
        tenants: Selection | Sequence[str | Tenant] | None = None,
        workers: int = 4,
        failure_budget: int | None = None,
    ) -> Report:
        """Call ``fn(tenant)`` for many tenants, each current in its turn; see :mod:`fleet`.

        *tenants* are ids or a :class:`~tenantry.fleet.Selection`; ``None`` means all. Those that
        serve no requests now are skipped. An exception is part of the report and ends nobody
        else, until more than *failure_budget* tenants failed.

        Raises:
            UnknownTenantError: An id names nobody.
        """
        from .fleet import runner

        return runner.each(
            self, fn, tenants=tenants, workers=workers, failure_budget=failure_budget
        )

    def map(
        self,
        fn: Callable[[Tenant], T],
        *,
        tenants: Selection | Sequence[str | Tenant] | None = None,
        workers: int = 4,
    ) -> Iterator[tuple[str, T]]:
        """``(tenant id, fn(tenant))`` for many tenants, in their order, read as they are needed.

        Raises:
            FleetError: A call failed; names the tenant, and the exception is its cause.
        """
        from .fleet import runner

        return runner.map_tenants(self, fn, tenants=tenants, workers=workers)

    # End ------------------------------------------------------------------------------------

    def status(self) -> dict[str, object]:
        """Counts of connections: live, idle, held by tenant, waiting."""
        return self.budget.status()

    def close(self) -> None:
        """Close all idle connections; those in use close when they come back."""
        for engine in self._router.engines():
            engine.dispose()

    async def aclose(self) -> None:
        """The same on an event loop, for its own connections."""
        for engine in self._router.engines():
            if engine.dialect.is_async:
                from .orm.asession import AsyncEngine

                await AsyncEngine(engine).dispose()
            else:
                engine.dispose()

    def __repr__(self) -> str:
        return f"Tenancy(servers={sorted(self.servers)})"


class UseTenant(context.use):
    """The block of :meth:`Tenancy.use`; for ``with`` and ``async with``."""

    __slots__ = ("_asked", "_directory")

    def __init__(self, directory: Directory, tenant: str | Tenant, switch: bool) -> None:
        self._directory = directory
        self._asked = tenant
        self._token = None
        self._switch = switch

    def __enter__(self) -> Tenant:
        asked = self._asked
        self._value = asked if isinstance(asked, Tenant) else self._directory.get(asked)
        return context.use.__enter__(self)

    async def __aenter__(self) -> Tenant:
        asked = self._asked
        if not isinstance(asked, Tenant):
            known = self._directory.peek(asked)
            if known is None:
                known = await asyncio.to_thread(self._directory.get, asked)
            asked = known
        self._value = asked
        return context.use.__enter__(self)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)
