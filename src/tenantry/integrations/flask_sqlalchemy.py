"""Flask-SQLAlchemy 3: an existing ``db`` goes to the current tenant's database.

``Tenantry(app, tenancy=tenancy, db=db)`` takes an application's own object over;
:class:`MultiTenantSQLAlchemy` stands in its place and has its tenants in ``SQLALCHEMY_BINDS``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from ..errors import MissingDependencyError

try:
    from flask import Flask, current_app, has_app_context
    from flask_sqlalchemy import SQLAlchemy
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"{error.name} is not installed; run `pip install 'tenantry[flask-sqlalchemy]'`"
    ) from None

from sqlalchemy import Engine, MetaData
from sqlalchemy.engine import Connection
from sqlalchemy.util import ScopedRegistry

from ..context import current, in_shared
from ..directory import from_mapping
from ..errors import ConfigurationError, NoTenantError, TenantSwitchError
from ..orm import TenantSession, is_shared
from ..tenancy import Tenancy
from ..tenant import Tenant
from .flask import AppState, Tenantry, choose_tenant, request_scope

__all__ = ["MultiTenantSQLAlchemy", "NoTenantChosenError", "TenantChosenError", "adopt"]

if TYPE_CHECKING:
    _Base = SQLAlchemy
else:
    _Base = object

_UNSET_URI = "sqlite://"  # never connected to; Flask-SQLAlchemy wants one to be set


class NoTenantChosenError(NoTenantError, RuntimeError):
    """No tenant chosen."""


class TenantChosenError(TenantSwitchError, RuntimeError):
    """Switching tenant in the middle of the request."""


def adopt(db: SQLAlchemy, app: Flask) -> Callable[[int | None], None]:
    """Have *db* go to the current tenant's database in *app*; returns what closes its sessions.

    Called by :class:`~tenantry.integrations.flask.Tenantry`. The object stays the same, so that
    models and whoever imported it need not change; its class becomes a subclass of its own. In
    other applications it works as before. A *db* that is not registered with *app* yet, is.

    Raises:
        ConfigurationError: It is a :class:`MultiTenantSQLAlchemy`, which has tenants of its own, or
            its sessions are made by something that cannot be taken over.
    """
    state: AppState = app.extensions["tenantry"]
    if isinstance(db, MultiTenantSQLAlchemy) and not isinstance(state.tenancy, _Once):
        raise ConfigurationError(
            "a MultiTenantSQLAlchemy has its tenants in SQLALCHEMY_BINDS and needs no Tenantry; "
            "give Tenantry(db=...) a flask_sqlalchemy.SQLAlchemy"
        )
    if app not in db._app_engines:
        if not app.config.get("SQLALCHEMY_DATABASE_URI"):
            app.config["SQLALCHEMY_DATABASE_URI"] = _UNSET_URI
        db.init_app(app)
    if not isinstance(db, _Routed):
        plain = type(db)
        db.__class__ = type(
            plain.__name__, (_Routed, plain), {"__module__": plain.__module__, "__doc__": None}
        )
        assert isinstance(db, _Routed)
    db._route_sessions()
    return db._close_sessions_of


class _Routed(_Base):
    """What tenants add to a Flask-SQLAlchemy object."""

    def _is_routed(self) -> bool:
        """Whether the current application has tenants for this object."""
        state: AppState | None = current_app.extensions.get("tenantry")
        return state is not None and state.db is self

    def _tenancy(self) -> Tenancy:
        """The Tenancy of the current application."""
        state: AppState = current_app.extensions["tenantry"]
        tenancy = state.tenancy()
        if tenancy is None:
            raise ConfigurationError("this Flask app has no tenants")
        return tenancy

    def _named_engines(self) -> dict[str, Engine]:
        """The engines of models with a ``__bind_key__``."""
        return {key: engine for key, engine in super().engines.items() if key is not None}

    @property
    def engines(self) -> Mapping[str | None, Engine]:
        """As Flask-SQLAlchemy's; ``engines[None]`` goes to the current tenant's database."""
        plain = super().engines
        return _Engines(self, plain) if self._is_routed() else plain

    def _tenant_engine(self) -> Engine:
        engine = self._tenancy().engine
        if current_app.config.get("SQLALCHEMY_RECORD_QUERIES") and engine not in _recorded:
            from flask_sqlalchemy import record_queries

            record_queries._listen(engine)
            _recorded[engine] = True
        return engine

    # Sessions -------------------------------------------------------------------------------

    def _route_sessions(self) -> None:
        """Make ``db.session`` one of the current tenant; the object and its events stay."""
        scoped = self.session
        factory = scoped.session_factory
        if isinstance(scoped.registry, _Registry):
            return
        maker: type = type(factory)
        if not hasattr(factory, "class_"):
            raise ConfigurationError(
                f"the sessions of this {type(self).__name__} come from a {maker.__name__}; "
                "tenants need SQLAlchemy's sessionmaker"
            )
        factory.__class__ = type(maker.__name__, (_SessionMaker, maker), {})
        scoped.registry = _Registry(self, factory, scoped.registry.scopefunc)

    def _close_sessions_of(self, request_id: int | None) -> None:
        registry = self.session.registry
        assert isinstance(registry, _Registry)
        registry.close_sessions_of(request_id)

    # Tables ---------------------------------------------------------------------------------

    def _call_for_binds(self, bind_key: str | list[str | None] | None, op_name: str) -> None:
        if not self._is_routed():
            super()._call_for_binds(bind_key, op_name)
            return
        for key in self._keys(bind_key):
            if key is None:
                self._call_for_tenant(op_name)
            else:
                super()._call_for_binds([key], op_name)

    def _keys(self, bind_key: str | list[str | None] | None) -> Iterable[str | None]:
        if bind_key == "__all__":
            return [key for key in self.metadatas if key is None or key in self._named_engines()]
        return [bind_key] if bind_key is None or isinstance(bind_key, str) else bind_key

    def _call_for_tenant(self, op_name: str) -> None:
        """Tenant tables in the tenant's database, shared ones in the shared place."""
        metadata: MetaData = self.metadatas[None]
        engine = self.engines[None]
        if op_name == "reflect":
            metadata.reflect(bind=engine)
            return
        tables = [table for table in metadata.sorted_tables if is_shared(table) is in_shared()]
        if tables:
            getattr(metadata, op_name)(bind=engine, tables=tables)

    def __repr__(self) -> str:
        if not has_app_context() or not self._is_routed():
            return super().__repr__()
        tenant = current()
        return f"<{type(self).__name__} of {f'tenant {tenant.id!r}' if tenant else 'nobody'}>"


_recorded: WeakKeyDictionary[Engine, bool] = WeakKeyDictionary()


class _Engines(dict[str | None, Engine]):
    """``db.engines``: the named ones, and under ``None`` that of who is current."""

    def __init__(self, db: _Routed, plain: Mapping[str | None, Engine]) -> None:
        super().__init__({key: engine for key, engine in plain.items() if key is not None})
        self._error: NoTenantError | None = None
        try:
            self[None] = db._tenant_engine()
        except NoTenantError as error:
            self._error = error

    def __missing__(self, key: str | None) -> Engine:
        if key is None and self._error is not None:
            raise self._error
        raise KeyError(key)


class _NamedBinds(dict[str, Engine]):
    """Also without an entry it says that tables are to be looked at for their ``bind_key``."""

    def __bool__(self) -> bool:
        return True


class _SessionMaker:
    """What tenants add to the ``sessionmaker`` behind ``db.session``."""

    def __call__(self, **options: Any) -> Any:
        maker: Any = self
        db: _Routed = maker.kw["db"]
        if not db._is_routed():
            return super().__call__(**options)  # type: ignore[misc]
        options = {**maker.kw, **options}
        bind = options.pop("bind", None)
        class_ = _pinned(maker.class_)
        db.engines[None]  # where no tenant is current, this says so
        tenancy = db._tenancy()
        options["named_binds"] = _NamedBinds({**tenancy.named_binds, **db._named_engines()})
        if isinstance(bind, Connection):
            return class_(bind, **options)
        return tenancy.session(class_=class_, **options)


_pinned_classes: dict[type, type[TenantSession]] = {}


def _pinned(plain: type) -> type[TenantSession]:
    """The application's session class, pinned to its tenant."""
    found = _pinned_classes.get(plain)
    if found is None:
        found = _pinned_classes[plain] = type(
            plain.__name__, (TenantSession, plain), {"__module__": plain.__module__}
        )
    return found


class _Scope(NamedTuple):
    """What one of the sessions behind ``db.session`` is kept for."""

    outer: Any
    request_id: int
    whose: str


class _Registry(ScopedRegistry[Any]):
    """The sessions behind ``db.session``: one for each application context, request and tenant."""

    def __init__(self, db: _Routed, create: Callable[[], Any], scope: Callable[[], Any]) -> None:
        def scope_and_tenant() -> Any:
            outer = scope()
            return _Scope(outer, *request_scope()) if db._is_routed() else outer

        super().__init__(create, scope_and_tenant)

    def close_sessions_of(self, request_id: int | None) -> None:
        """Close those of one request in the current scope, or all of the scope."""
        scope = self.scopefunc()
        for key in list(self.registry):
            mine = isinstance(key, _Scope) and key.outer == scope.outer
            if mine and request_id in (None, key.request_id):
                self.registry.pop(key).close()


class MultiTenantSQLAlchemy(_Routed, SQLAlchemy):
    """Flask-SQLAlchemy's class with tenants in ``SQLALCHEMY_BINDS``, chosen in each request.

    A ``before_request`` function calls :meth:`choose_tenant`, with what the request says.

    Every bind is a tenant unless a model names it as its ``__bind_key__``. That holds where
    ``SQLALCHEMY_DATABASE_URI`` is not set. Where it is, the class is exactly Flask-SQLAlchemy's,
    unless ``TENANTRY_BINDS`` says which binds are tenants (``True``: all such); the URI is then
    the shared place, used in ``with db.tenancy.shared()`` alone.

    A tenant's file is one in ``SQLALCHEMY_BINDS`` as Flask-SQLAlchemy reads it, below the
    instance folder. ``db.create_all("test1")`` makes the models' tables in that tenant.
    """

    def init_app(self, app: Flask) -> None:
        """See Flask-SQLAlchemy's; also enters the chosen tenant for the whole of a request."""
        super().init_app(app)
        if app.config["SQLALCHEMY_DATABASE_URI"] is None:
            app.config.setdefault("TENANTRY_BINDS", True)
        if not app.config.get("TENANTRY_BINDS"):
            return
        tenancy = _Once(lambda: self._build(app))
        state: AppState | None = app.extensions.get("tenantry")
        if state is None:
            Tenantry(app, tenancy=tenancy, db=self)
        else:  # Flask-SQLAlchemy lets an application get a new object
            state.tenancy, state.db, state.close_sessions = tenancy, self, adopt(self, app)

    def choose_tenant(self, bind_key: str) -> Tenant:
        """Every query from here on, until the request ends, goes to this tenant's database.

        Raises:
            TenantChosenError: One was chosen before; a ``RuntimeError``.
            UnknownTenantError: There is no such tenant (404).
            ConfigurationError: The application has no tenants.
        """
        return choose_tenant(self.tenancy, bind_key, TenantChosenError)

    @property
    def tenancy(self) -> Tenancy:
        """The Tenancy of the current application's binds.

        Raises:
            ConfigurationError: It has none, or one of them cannot be a tenant.
        """
        if not self._is_routed():
            raise ConfigurationError(
                "this Flask app has no tenants: put them into SQLALCHEMY_BINDS, and leave "
                "SQLALCHEMY_DATABASE_URI out or set TENANTRY_BINDS"
            )
        return self._tenancy()

    def _is_routed(self) -> bool:
        return super()._is_routed() and bool(self._tenant_keys(_this_app()))

    def _tenant_keys(self, app: Flask) -> list[str]:
        listed = app.config["TENANTRY_BINDS"]
        if listed is not True:
            return list(listed)
        return [
            key
            for key in self._app_engines[app]
            if key is not None and not self.metadatas[key].tables
        ]

    def _build(self, app: Flask) -> Tenancy:
        engines = self._app_engines[app]
        places: dict[str, Any] = {}
        for key in self._tenant_keys(app):
            if key not in engines:
                raise ConfigurationError(
                    f"TENANTRY_BINDS names {key!r}, which is not in SQLALCHEMY_BINDS"
                )
            places[key] = engines[key].url
        if None in engines:
            places["shared"] = engines[None].url
        options = {**self._engine_options, **app.config["SQLALCHEMY_ENGINE_OPTIONS"]}
        options.setdefault("echo", app.config["SQLALCHEMY_ECHO"])
        loaded = from_mapping(places)
        return Tenancy(
            loaded.directory,
            loaded.servers,
            shared=loaded.shared,
            engine_options={key: options[key] for key in _ENGINE_OPTIONS & options.keys()},
        )

    def _named_engines(self) -> dict[str, Engine]:
        tenants = self._tenant_keys(_this_app())
        return {key: each for key, each in super()._named_engines().items() if key not in tenants}

    def _tenant_engine(self) -> Engine:
        if current() is None and not in_shared():
            raise NoTenantChosenError
        return super()._tenant_engine()

    def _call_for_tenant_named(self, tenant_id: str, op_name: str) -> None:
        with self.tenancy.use(tenant_id, switch=True):
            self._call_for_tenant(op_name)

    def _call_for_binds(self, bind_key: str | list[str | None] | None, op_name: str) -> None:
        if not self._is_routed():
            super()._call_for_binds(bind_key, op_name)
            return
        tenants = self._tenant_keys(_this_app())
        for key in self._keys(bind_key):
            if key in tenants:
                assert key is not None
                self._call_for_tenant_named(key, op_name)
            else:
                super()._call_for_binds([key], op_name)


def _this_app() -> Flask:
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    return app


# Of what create_engine() takes, what has a meaning for an engine of many tenants.
_ENGINE_OPTIONS = frozenset(
    {
        "echo",
        "execution_options",
        "hide_parameters",
        "isolation_level",
        "json_deserializer",
        "json_serializer",
        "label_length",
        "logging_name",
        "pool_pre_ping",
        "pool_recycle",
        "query_cache_size",
    }
)


class _Once:
    """A Tenancy that is built when it is first asked for: models may be declared until then."""

    def __init__(self, build: Callable[[], Tenancy]) -> None:
        self._build = build
        self._built: Tenancy | None = None
        self._lock = threading.Lock()

    def __call__(self) -> Tenancy:
        with self._lock:
            if self._built is None:
                self._built = self._build()
            return self._built
