"""Engines that route: every checkout goes to the current tenant's place.

One engine per dialect, driver and server fingerprint serves all tenants of all such servers:
one dialect, one cache of compiled statements, one pool of buckets.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, cast

from sqlalchemy import create_engine, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.base import OptionEngineMixin
from sqlalchemy.exc import StatementError
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util.concurrency import await_only

from .. import context
from ..backends import backend_of
from ..directory.base import Directory, database_of, place_of, server_of
from ..errors import ConfigurationError, NoTenantError, TenantryError, UnknownTenantError
from ..isolation import Target, target_for
from ..servers import Server
from ..tenant import Isolation, Placement, State, Tenant
from . import guard
from .connect import open_connection
from .dialect import routed_dialect_class
from .filter import BareConnection, bare_refused, keep_rows
from .limits import Budget
from .pool import BucketRecord, RoutedPool, target_of_checkout
from .translate import translate

_PINNED_ENGINES = 1000  # about 2 kB each
_OWN_OF_A_VIEW = frozenset({"_pin", "_pin_shared", "_whole", "_pinned", "_way"})

__all__ = ["RoutedConnection", "RoutedEngine", "Router", "tenant_of_execution"]

_opened_anew: ContextVar[bool] = ContextVar("tenantry_opened_anew", default=False)


class RoutedConnection(Connection):
    """SQLAlchemy's Connection, of one tenant for its whole life."""

    @property
    def connection(self) -> PoolProxiedConnection:
        """The driver's connection in its proxy.

        Whoever asks may do anything with it, so it is cleaned when it comes back. SQLAlchemy
        asks too, to begin and end transactions; the dialect takes that off again.
        """
        proxy: PoolProxiedConnection | None = self._dbapi_connection
        if proxy is None:
            proxy = super().connection
        record = proxy._connection_record
        if type(record) is BucketRecord:
            record.lent += 1
            if record.target.filter_rows and record.target.tenant is not None:
                return cast(PoolProxiedConnection, BareConnection(proxy, record.target.tenant_id))
        return proxy

    def _revalidate_connection(self) -> PoolProxiedConnection:
        # SQLAlchemy asks its engine for a bare connection; this one is for its own statements.
        token = _opened_anew.set(True)
        try:
            return super()._revalidate_connection()
        finally:
            _opened_anew.reset(token)

    def execution_options(self, **options: Any) -> Any:
        """As SQLAlchemy's. The token of a session concerns its objects; it is set at no cost."""
        if len(options) == 1 and "identity_token" in options:
            return self
        return super().execution_options(**options)

    def _handle_dbapi_exception(self, e: BaseException, *args: Any, **options: Any) -> Any:
        # SQLAlchemy wraps what is raised before a statement is sent in an error of its own, and
        # who retries database errors would retry a refusal.
        try:
            super()._handle_dbapi_exception(e, *args, **options)
        except StatementError as error:
            if isinstance(error.orig, TenantryError):
                raise error.orig from None
            raise


def tenant_of_execution(context: Any) -> Tenant | None:
    """The tenant of the connection on which SQLAlchemy executes; for column defaults."""
    record = getattr(context.root_connection._dbapi_connection, "_connection_record", None)
    return record.target.tenant if isinstance(record, BucketRecord) else None


class RoutedEngine(Engine):
    """SQLAlchemy's Engine; each connection goes to the current tenant's place.

    A pinned one, :meth:`pinned`, always goes to its own tenant's. Both share dialect, compiled
    cache, pool and events.
    """

    _connection_cls = RoutedConnection
    _router: Router
    _pin: Tenant | None = None
    _pin_shared: bool = False

    #: The pinned tenant as the directory knew it last, where its connections go, and whether
    #: they are this engine's own with nothing to be set.
    _way: tuple[Tenant, Target, RoutedEngine, bool] | None = None
    #: The engine that this is a view of, for a pinned one.
    _whole: RoutedEngine | None = None
    #: Views pinned to a tenant, by its surrogate key: making one costs as much as a query.
    _pinned: dict[str | None, RoutedEngine] | None = None
    _views: weakref.WeakSet[RoutedEngine]

    def pinned(self, tenant: Tenant | None) -> RoutedEngine:
        """This engine for one tenant (``None``: the shared place) whoever is current."""
        kept = self._pinned
        key = tenant.key if tenant is not None else None
        if kept is not None:
            found = kept.get(key)
            if found is not None and (found._pin is tenant or found._pin == tenant):
                return found
            engine = self._view()
        else:
            engine = cast(RoutedEngine, self.execution_options())
        engine._pin = tenant
        engine._pin_shared = tenant is None
        if kept is not None:
            if len(kept) >= _PINNED_ENGINES:
                kept.clear()
            kept[key] = engine  # last, for another thread may find it at once
        return engine

    def _view(self) -> RoutedEngine:
        """The same engine once more; what is listened to or set on the one holds for both."""
        assert self.dispatch is not None  # made when it is first asked for
        view = RoutedEngine.__new__(RoutedEngine)
        # One by one: CPython (3.11) reads attributes slowly once a __dict__ was filled at once.
        for name, value in {**self.__dict__, "_whole": self, "_pinned": None}.items():
            object.__setattr__(view, name, value)
        self._views.add(view)
        return view

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name not in _OWN_OF_A_VIEW:
            if self._whole is not None:
                setattr(self._whole, name, value)
            elif self._pinned:
                for view in list(self._views):
                    view.__dict__[name] = value

    def _target(self) -> Target:
        if self._pin is not None or self._pin_shared:
            return self._router.target(self._pin, self.dialect.is_async)
        return self._router.current_target(self.dialect.is_async)

    def connect(self) -> Connection:
        """A connection to the current (or pinned) tenant's place.

        Raises:
            NoTenantError: No tenant is current.
            UnknownTenantError: And the errors of its state: it is not to be served.
            ServerUnavailableError: Its server does not answer.
            BudgetExhaustedError: No connection became free in time.
        """
        # Every transaction comes this way, so it calls as little as it can.
        router = self._router
        if self._pin is None:
            target = self._target()
            serving = router.engine_for(target)
        else:
            known = router.directory.peek(self._pin.id)
            way = self._way
            if way is not None and way[0] is known and known.state is State.READY:
                _, target, serving, plain = way
                if plain:
                    return RoutedConnection(self, self._checkout(target))
            else:
                target = router.target(self._pin, self.dialect.is_async)
                serving = router.engine_for(target)
                if known is not None:
                    plain = serving is self._whole and not (
                        target.translate or target.rows or target.filter_rows
                    )
                    self._way = known, target, serving, plain  # at once: other threads read it
        mine = self._whole or _root(self)
        engine = self
        if serving is not mine and _kind(serving) != _kind(mine):
            engine = serving
            if self._execution_options:
                engine = cast(RoutedEngine, engine.execution_options(**self._execution_options))
        if engine._pin is None and not engine._pin_shared:
            # A connection that must be opened anew after a loss stays with its tenant.
            engine = engine.pinned(target.tenant)
        # A session finds the connection of its transaction by the engine that it asked.
        connection: Connection = RoutedConnection(engine, serving._checkout(target))
        if serving is not mine:
            connection.dialect = serving.dialect
        if target.translate is not None:
            connection = connection.execution_options(schema_translate_map={None: target.translate})
        if target.rows or target.filter_rows:
            keep_rows(connection, target)
        return connection

    def _checkout(self, target: Target) -> PoolProxiedConnection:
        token = target_of_checkout.set(target)
        try:
            return self.pool.connect()
        except self.dialect.loaded_dbapi.Error as error:
            Connection._handle_dbapi_exception_noconnection(error, self.dialect, self)
            raise
        finally:
            target_of_checkout.reset(token)

    def raw_connection(self) -> PoolProxiedConnection:
        """The driver's connection in SQLAlchemy's proxy; cleaned when it comes back."""
        target = self._target()
        if _opened_anew.get():
            _opened_anew.set(False)  # for this one alone
            return self._router.engine_for(target)._checkout(target)
        if target.filter_rows and target.tenant is not None:
            raise bare_refused(target.tenant_id)
        engine = self._router.engine_for(target)
        proxy = engine._checkout(target)
        record = getattr(proxy, "_connection_record", None)
        if isinstance(record, BucketRecord):
            try:
                guard.lend_bare(record)
            except BaseException as error:
                proxy.invalidate(error)
                raise
        return proxy


def _root(engine: Engine) -> Engine:
    """The engine itself, below any that only carry options."""
    while isinstance(engine, OptionEngineMixin):
        engine = engine._proxied
    return getattr(engine, "_whole", None) or engine


def _kind(engine: RoutedEngine | Engine) -> tuple[str, str]:
    return engine.dialect.name, engine.dialect.driver


class _RoutedOptionEngine(OptionEngineMixin, RoutedEngine):
    def __init__(self, proxied: RoutedEngine, execution_options: Any) -> None:
        super().__init__(proxied, execution_options)
        self._router = proxied._router
        self._pin = proxied._pin
        self._pin_shared = proxied._pin_shared

    def update_execution_options(self, **options: Any) -> None:
        Engine.update_execution_options(self, **options)


RoutedEngine._option_cls = _RoutedOptionEngine  # type: ignore[assignment]


class Router:
    """From a tenant to an engine and a target. Knows no requests and no sessions.

    *shared* is where ``shared()`` goes; ``None``: nowhere. *engine_options* go to
    SQLAlchemy's ``create_engine``.
    """

    def __init__(
        self,
        directory: Directory,
        servers: Mapping[str, Server],
        budget: Budget,
        *,
        shared: Placement | None = None,
        engine_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self.servers = servers
        self.budget = budget
        self.shared = shared
        self._engine_options = dict(engine_options or {})
        self._engines: dict[tuple[str, bool], RoutedEngine] = {}
        self._primary: dict[tuple[str, bool], RoutedEngine] = {}
        self._fronts: dict[tuple[str, bool], RoutedEngine] = {}
        self._unmet: dict[tuple[str, bool], RoutedEngine] = {}
        self._meeting: Counter[RoutedEngine] = Counter()
        self._targets: dict[tuple[str | None, bool], Target] = {}
        self._pinned_tenant: str | None = None
        self._lock = threading.RLock()

    # From a tenant to a target --------------------------------------------------------------

    def current_target(self, is_async: bool) -> Target:
        """The target of who is current.

        Raises:
            NoTenantError: Nobody is.
        """
        tenant = context.current()
        if tenant is None:
            if context.in_shared():
                return self.target(None, is_async)
            if self._pinned_tenant is not None:
                return self.target(self.known(self._pinned_tenant, is_async), is_async)
            raise NoTenantError
        return self.target(tenant, is_async)

    def pin(self, tenant_id: str) -> None:
        """One tenant for the whole process."""
        self._pinned_tenant = tenant_id

    @property
    def pinned_tenant(self) -> str | None:
        """The tenant of the whole process, if it has one."""
        return self._pinned_tenant

    def known(self, tenant_id: str, is_async: bool = False) -> Tenant:
        """The tenant as the directory knows it now; asked in a thread from an event loop."""
        tenant = self.directory.peek(tenant_id)
        if tenant is not None:
            return tenant
        if is_async:
            found: Tenant = await_only(asyncio.to_thread(self.directory.get, tenant_id))
            return found
        return self.directory.get(tenant_id)

    def known_state(self, tenant: Tenant) -> State:
        """The tenant's state as far as it is known without I/O."""
        return (self.directory.peek(tenant.id) or tenant).state

    def target(self, tenant: Tenant | None, is_async: bool) -> Target:
        """Where connections of *tenant* (``None``: the shared place) go now.

        Raises:
            UnknownTenantError: The tenant is gone, or another has its id now.
            TenantSuspendedError: And its siblings: its state serves no requests.
            ConfigurationError: Its server is not configured, or no shared place is, or that is
                the tenant's own.
        """
        if tenant is None:
            return self._shared_target(is_async)
        known = self.directory.peek(tenant.id) or self.known(tenant.id, is_async)
        if known is not tenant and known.key != tenant.key:
            raise UnknownTenantError(
                f"tenant {tenant.id!r} was deleted and created anew; enter it again",
                tenant_id=tenant.id,
            )
        if known.state is not State.READY:
            known.check_serving()
        target = self._targets.get((known.id, is_async))
        if target is not None and (target.tenant is known or target.tenant == known):
            return target
        return self._remember(known, is_async)

    def _remember(self, tenant: Tenant, is_async: bool) -> Target:
        server = server_of(tenant, self.servers)
        self._check_apart(tenant, server)
        driver = backend_of(server).driver(server, is_async=is_async)
        target = target_for(tenant, tenant.placement, server, driver, is_async)
        with self._lock:
            before = self._targets.get((tenant.id, is_async))
            self._targets[tenant.id, is_async] = target
        if before is not None and before.bucket != target.bucket and before.is_exclusive:
            engine = self._engines.get((before.server.name, is_async))
            if engine is not None:
                pool = engine.pool
                assert isinstance(pool, RoutedPool)
                pool.retire(before.bucket)
        return target

    def _check_apart(self, tenant: Tenant, server: Server) -> None:
        """What a tenant has alone, a database or a schema, is not the shared place as well."""
        isolation = tenant.placement.isolation
        shared_on = self.servers.get(self.shared.server) if self.shared is not None else None
        if self.shared is None or shared_on is None or isolation is Isolation.ROWS:
            return
        whole = database_of if isolation is Isolation.DATABASE else place_of
        if whole(tenant.placement, server) == whole(self.shared, shared_on):
            raise ConfigurationError(
                f"the shared place is where tenant {tenant.id!r} lives ({tenant.placement}), who "
                "has that alone; give the shared tables a place of their own",
                tenant_id=tenant.id,
            )

    def _shared_target(self, is_async: bool) -> Target:
        target = self._targets.get((None, is_async))
        if target is None:
            if self.shared is None:
                raise ConfigurationError(
                    "no shared place is configured; give Tenancy(shared=Placement(...)), or "
                    "enter a tenant with `with tenancy.use(...)`"
                )
            try:
                server = self.servers[self.shared.server]
            except KeyError:
                raise ConfigurationError(
                    f"the shared place is on server {self.shared.server!r}, which is not configured"
                ) from None
            driver = backend_of(server).driver(server, is_async=is_async)
            target = target_for(None, self.shared, server, driver, is_async)
            self._targets[None, is_async] = target
        return target

    def _bare_target(self, is_async: bool) -> Target:
        """The target of ``pool.connect()``, past every engine and statement.

        Raises:
            UnsupportedError: Nothing but statements keeps the tenant's rows apart.
        """
        target = self.current_target(is_async)
        if target.filter_rows and target.tenant is not None:
            raise bare_refused(target.tenant_id)
        return target

    # From a target to an engine -------------------------------------------------------------

    def front(self, server: Server, is_async: bool) -> RoutedEngine:
        """The first engine of the server's kind, for whoever needs an engine and no connection."""
        known = self._fronts.get((server.name, is_async))
        if known is not None:
            return known
        backend = backend_of(server)
        driver = backend.driver(server, is_async=is_async)
        kind = (f"{backend.dialect_name(server)}+{driver}", is_async)
        with self._lock:
            engine = self._primary.get(kind)
            if engine is None:
                engine = self._primary[kind] = self._create(server, kind[0], is_async)
                self._engines[server.name, is_async] = engine
            self._fronts[server.name, is_async] = engine
        return engine

    def engine_for(self, target: Target) -> RoutedEngine:
        """The engine that serves the target's server; made and compared at first sight.

        Servers of one kind share an engine if SQLAlchemy would treat them alike. The first
        server's engine is taken as it is; for a further server one connection is opened to
        learn its version and settings.
        """
        engine = self._engines.get((target.server.name, target.is_async))
        return engine if engine is not None else self._meet(target)

    def _meet(self, target: Target) -> RoutedEngine:
        key = (target.server.name, target.is_async)
        primary = self.front(target.server, target.is_async)
        if key in self._engines:
            return self._engines[key]
        if target.backend.same_everywhere:
            self._engines[key] = primary
            return primary
        with self._lock:  # one for all who come at once, so that one connection is opened
            if key in self._engines:
                return self._engines[key]
            engine = self._unmet.get(key)
            if engine is None:
                engine = self._create(target.server, target.url.drivername, target.is_async)
                self._unmet[key] = engine
            self._meeting[engine] += 1
        try:
            RoutedConnection(engine, engine._checkout(target)).close()
            mine = fingerprint(engine)
            with self._lock:
                self._unmet.pop(key, None)
                if key not in self._engines:
                    alike = (
                        other
                        for other in set(self._engines.values())
                        if other.dialect.is_async == target.is_async and fingerprint(other) == mine
                    )
                    self._engines[key] = next(alike, engine)
                return self._engines[key]
        finally:
            with self._lock:
                self._meeting[engine] -= 1
                is_last = self._meeting[engine] == 0
                if is_last:
                    del self._meeting[engine]
            if is_last and self._engines.get(key) is not engine:
                engine.dispose()

    def _create(self, server: Server, drivername: str, is_async: bool) -> RoutedEngine:
        url = server.url.set(drivername=drivername)
        pool_options = {
            name: self._engine_options[option]
            for option, name in (("pool_pre_ping", "pre_ping"), ("pool_recycle", "recycle"))
            if option in self._engine_options
        }
        pool = RoutedPool(
            self.budget, open_connection, lambda: self._bare_target(is_async), **pool_options
        )
        options = {
            name: value
            for name, value in self._engine_options.items()
            if not name.startswith("pool_")
        }
        if is_async:
            from sqlalchemy.ext.asyncio import create_async_engine  # needs greenlet

            engine = create_async_engine(url, pool=pool, **options).sync_engine
        else:
            engine = create_engine(url, pool=pool, **options)
        # The objects stay SQLAlchemy's own; only what they do on the way is added.
        engine.__class__ = RoutedEngine
        engine.dialect.__class__ = routed_dialect_class(type(engine.dialect))
        assert isinstance(engine, RoutedEngine)
        engine._router = self
        engine._pinned = {}
        engine._views = weakref.WeakSet()
        event.listen(engine, "handle_error", translate)
        pool.driver_error = engine.dialect.loaded_dbapi.Error
        if is_async:
            pool.share_first_connection_between_loops()
        return engine

    def engines(self) -> list[RoutedEngine]:
        """Every engine made so far."""
        with self._lock:
            return list({*self._primary.values(), *self._engines.values()})


def fingerprint(engine: Engine) -> tuple[Any, ...]:
    """What SQLAlchemy learned of a server and lets depend on it."""
    dialect = engine.dialect
    return (
        dialect.name,
        dialect.driver,
        *(
            getattr(dialect, name, None)
            for name in (
                "server_version_info",
                "is_mariadb",
                "default_isolation_level",
                "_casing",
                "_server_ansiquotes",
                "_backslash_escapes",
                "_connection_charset",
            )
        ),
    )
