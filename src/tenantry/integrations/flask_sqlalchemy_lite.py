"""Flask-SQLAlchemy-Lite: ``db.session`` and ``db.engine`` go to the current tenant's database.

Both take over the name ``default``; other names in ``SQLALCHEMY_ENGINES`` stay databases of
their own. The asynchronous half is routed alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from ..errors import MissingDependencyError

try:
    from flask import Flask, current_app, g
    from flask_sqlalchemy_lite import SQLAlchemy
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"{error.name} is not installed; run `pip install 'tenantry[flask-sqlalchemy-lite]'`"
    ) from None

from ..errors import ConfigurationError, UnsupportedError
from ..orm import AsyncTenantSession, TenantSession
from ..tenancy import Tenancy
from .flask import AppState, request_scope

__all__ = ["adopt"]

_DEFAULT = "default"
_KEPT = ("_sqlalchemy_sessions", "_sqlalchemy_async_sessions")


def adopt(db: SQLAlchemy, app: Flask) -> Callable[[int | None], None]:
    """Have *db* go to the current tenant's database in *app*; returns what closes its sessions.

    Called by :class:`~tenantry.integrations.flask.Tenantry`. The object stays the same; its class
    becomes a subclass of its own. In other applications it works as before. A *db* that is not
    registered with *app* yet, is.
    """
    if app not in db._app_state:
        if not app.config.get("SQLALCHEMY_ENGINES") and not app.config.get(
            "SQLALCHEMY_ASYNC_ENGINES"
        ):
            # Never connected to; Flask-SQLAlchemy-Lite wants one to be set.
            app.config["SQLALCHEMY_ENGINES"] = {_DEFAULT: "sqlite://"}
        db.init_app(app)
    if not isinstance(db, _Routed):
        db.__class__ = _under(_Routed, type(db))
    state: AppState = app.extensions["tenantry"]
    plain = db._app_state[app]

    def tenancy() -> Tenancy:
        known = state.tenancy()
        if known is None:
            raise ConfigurationError("this Flask app has no tenants")
        return known

    plain.engines = _Engines(plain.engines, lambda: tenancy().engine)
    plain.async_engines = _Engines(plain.async_engines, lambda: tenancy().aengine)
    plain.sessionmaker = _made(_SessionMaker, plain.sessionmaker, tenancy)
    plain.async_sessionmaker = _made(_AsyncSessionMaker, plain.async_sessionmaker, tenancy)
    return _close_sessions_of


def _under(added: type, plain: type) -> Any:
    return type(plain.__name__, (added, plain), {"__module__": plain.__module__})


def _made(added: type, plain: Any, tenancy: Callable[[], Tenancy]) -> Any:
    """A session maker like *plain*, with its class (on which events are) and its settings."""
    kind = _under(added, type(plain))
    maker = kind.__new__(kind)
    maker.class_, maker.kw, maker.tenancy = plain.class_, plain.kw, tenancy
    return maker


def _close_sessions_of(request_id: int | None) -> None:
    """Close the sessions of one request; the others are Flask-SQLAlchemy-Lite's to close."""
    sessions: dict[Any, Any] = g.get(_KEPT[0], {})
    for key in [each for each in sessions if isinstance(each, tuple) and each[1] == request_id]:
        sessions.pop(key).close()


class _Engines(dict[str, Any]):
    """``db.engines``: the named ones, and under ``default`` that of who is current."""

    def __init__(self, plain: dict[str, Any], engine: Callable[[], Any]) -> None:
        super().__init__(plain)
        self._engine = engine

    def __getitem__(self, key: str) -> Any:
        return self._engine() if key == _DEFAULT else super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self._engine() if key == _DEFAULT else super().get(key, default)

    def __contains__(self, key: object) -> bool:
        return key == _DEFAULT or super().__contains__(key)

    def values(self) -> Any:
        return [self[key] for key in self]

    def items(self) -> Any:
        return [(key, self[key]) for key in self]


class _SessionMaker:
    """What tenants add to ``db.sessionmaker``."""

    tenancy: Callable[[], Tenancy]

    def __call__(self, **options: Any) -> TenantSession:
        maker: Any = self
        options = _options(maker, options)
        class_ = maker.class_
        pinned = class_ if issubclass(class_, TenantSession) else _pinned(TenantSession, class_)
        return self.tenancy().session(class_=pinned, **options)


class _AsyncSessionMaker:
    """What tenants add to ``db.async_sessionmaker``."""

    tenancy: Callable[[], Tenancy]

    def __call__(self, **options: Any) -> AsyncTenantSession:
        maker: Any = self
        options = _options(maker, options)
        return self.tenancy().asession(class_=_pinned(AsyncTenantSession, maker.class_), **options)


def _options(maker: Any, options: dict[str, Any]) -> dict[str, Any]:
    merged = {**maker.kw, **options}
    if merged.pop("bind", None) is not maker.kw.get("bind"):
        raise UnsupportedError("a tenant's session takes no bind; it goes to the current tenant")
    return merged


_pinned_classes: dict[tuple[type, type], Any] = {}


def _pinned(added: type, plain: type) -> Any:
    """The application's session class, pinned to its tenant."""
    key = (added, plain)
    if key not in _pinned_classes:
        _pinned_classes[key] = _under(added, plain)
    return _pinned_classes[key]


class _Routed(SQLAlchemy):
    """What tenants add to a Flask-SQLAlchemy-Lite object."""

    def _is_routed(self) -> bool:
        state: AppState | None = current_app.extensions.get("tenantry")
        return state is not None and state.db is self

    def get_session(self, name: str = _DEFAULT) -> Any:
        return super().get_session(self._kept_for(name))

    def get_async_session(self, name: str = _DEFAULT) -> Any:
        return super().get_async_session(self._kept_for(name))

    def _kept_for(self, name: str) -> Any:
        return (name, *request_scope()) if self._is_routed() else name

    def test_isolation(self) -> NoReturn:
        raise UnsupportedError(
            "test_isolation() takes over engines, and a tenant's database is behind none of them; "
            "give each test tenants of its own"
        )

    def async_test_isolation(self) -> NoReturn:
        raise UnsupportedError(
            "async_test_isolation() takes over engines, and a tenant's database is behind none of "
            "them; give each test tenants of its own"
        )
