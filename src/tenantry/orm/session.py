"""Sessions pinned to their tenant for life.

A session reads and writes one tenant's rows. The identity keys of its objects carry the
tenant's surrogate key, so that an object of another tenant is known wherever it turns up:
added, merged, related, unpickled. All of that is refused before anything is flushed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any, NoReturn

import sqlalchemy
from sqlalchemy import event, inspect
from sqlalchemy.engine import Connection
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.orm.state import InstanceState
from sqlalchemy.util import immutabledict

from .. import context
from ..errors import (
    ConfigurationError,
    CrossTenantError,
    NoTenantError,
    TenantReadOnlyError,
    UnsupportedError,
)
from ..routing import RoutedEngine
from ..tenant import State, Tenant
from .models import bind_key_of, is_shared, tables_of
from .scope import check_written

__all__ = ["TenantSession"]

_SHARED_STAMP = "(shared)"
_INFO = "tenantry"
_SESSION_OPTIONS = tuple(map(int, sqlalchemy.__version__.split(".")[:2])) >= (2, 1)
# SQLAlchemy 2.0 keeps what Session(binds=...) was given under a private name.
_BINDS = "binds" if _SESSION_OPTIONS else "_Session__binds"


class TenantSession(Session):
    """SQLAlchemy's Session, of one tenant (or of the shared place) from birth to end.

    *bind* is a routed engine or a connection of one; the tenant is the one it is pinned to, or
    the current one. Using the session while another tenant is current, or giving it an object
    of another tenant, raises :class:`~tenantry.errors.CrossTenantError`. Without a current
    tenant it goes on serving its own: a session is an explicit handle.

    *named_binds* are engines for models with a ``bind_key``.

    Raises:
        NoTenantError: No tenant is current and the bind is pinned to none.
    """

    #: ``None`` for a session of the shared place.
    tenant: Tenant | None

    def __init__(
        self,
        bind: RoutedEngine | Connection | None = None,
        *,
        named_binds: dict[str, Any] | None = None,
        execution_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        engine = bind.engine if isinstance(bind, Connection) else bind
        if not isinstance(engine, RoutedEngine):
            raise ConfigurationError(
                "a TenantSession needs an engine of a Tenancy; build it with "
                "`tenancy.session()` or `sessionmaker(tenancy.engine, class_=TenantSession)`"
            )
        if engine._pin is None and not engine._pin_shared:
            engine = engine.pinned(engine._router.current_target(engine.dialect.is_async).tenant)
        self._pin(engine._pin, engine)
        self._shared_engine = engine if engine._pin_shared else None
        self._named_binds = named_binds or {}
        if execution_options:
            if not _SESSION_OPTIONS:
                raise UnsupportedError("Session(execution_options=...) needs SQLAlchemy 2.1")
            options["execution_options"] = {**execution_options, "identity_token": self._stamp}
        # By name: a further base class (Flask-SQLAlchemy's session) may have a first argument of
        # its own.
        super().__init__(bind=bind if isinstance(bind, Connection) else engine, **options)
        if _SESSION_OPTIONS and not execution_options:
            self.execution_options = immutabledict({"identity_token": self._stamp})

    def _pin(self, tenant: Tenant | None, engine: RoutedEngine) -> None:
        self.tenant = tenant
        self._engine = engine
        self._stamp: str | None = tenant.key if tenant is not None else _SHARED_STAMP

    # Which connection -----------------------------------------------------------------------

    def get_bind(
        self, mapper: Any = None, *, clause: Any = None, bind: Any = None, **kw: Any
    ) -> Any:
        """The tenant's engine, the shared one for shared tables, or a named one.

        Raises:
            CrossTenantError: Another tenant is current.
            NoTenantError: A tenant's table in a session of the shared place.
        """
        if context.now() is not self.tenant:
            self.check_current()
        if bind is not None:
            return bind
        if getattr(self, _BINDS):
            try:
                return super().get_bind(mapper, clause=clause, **kw)
            except sqlalchemy.exc.UnboundExecutionError:
                pass
        if self._engine._router.shared is None and not self._named_binds:
            return self.bind  # nothing but tenant tables
        return self._bind_by_tables(mapper, clause)

    def _bind_by_tables(self, mapper: Any, clause: Any) -> Any:
        inspected = inspect(mapper).mapper if mapper is not None else None
        tables = tables_of(inspected, clause)
        named = {bind_key_of(table) for table in tables}
        if named and None not in named:
            (key, *others) = named
            if others or key not in self._named_binds:
                raise ConfigurationError(
                    f"no single database is named {sorted(map(str, named))}; give "
                    "Tenancy(binds={...}) an engine for each bind_key"
                )
            return self._named_binds[key]
        if tables and all(is_shared(table) for table in tables):
            return self._shared_bind()
        if self.tenant is None and tables:
            raise NoTenantError(
                f"table {tables[0].name!r} is a tenant's, and this session belongs to none; "
                "open one inside `with tenancy.use(...)`"
            )
        return self.bind

    def _shared_bind(self) -> RoutedEngine:
        if self._shared_engine is None:
            router = self._engine._router
            is_async = self._engine.dialect.is_async
            engine = router.engine_for(router.target(None, is_async))
            self._shared_engine = engine.pinned(None)
        return self._shared_engine

    def check_current(self) -> None:
        """Refuse to work while another tenant is current.

        Raises:
            CrossTenantError: It is.
        """
        current = context.now()
        own = self.tenant
        if current is own or not isinstance(current, Tenant):
            return
        if own is not None and current.key == own.key:
            return
        raise CrossTenantError(
            f"a session of {_named(own)} was used under tenant {current.id!r}; open a session "
            "in the block of the tenant that needs it",
            tenant_id=own.id if own is not None else None,
        )

    # Whose objects --------------------------------------------------------------------------

    def check_own(self, state: InstanceState[Any]) -> None:
        """Refuse an object of another tenant.

        Raises:
            CrossTenantError: It is, or it was loaded outside any tenant.
        """
        stamp = _stamp_of(state)
        if stamp == self._own_stamp or (stamp is None and state.key is None):
            return
        raise CrossTenantError(
            f"an object of class {state.class_.__name__} of another tenant was given to a session "
            f"of {_named(self.tenant)}; load it anew in this session",
            tenant_id=self.tenant.id if self.tenant is not None else None,
        )

    @property
    def _own_stamp(self) -> str:
        return self.tenant.key if self.tenant is not None else _SHARED_STAMP

    def _before_attach(self, state: InstanceState[Any], obj: object) -> bool:
        # SQLAlchemy's one gate for add, cascades and delete; it looks at the owning session
        # first, and a foreign object should be called foreign. `flush` looks once more.
        self.check_own(state)
        attached: bool = super()._before_attach(state, obj)
        if state.key is None and self._stamp is not None:
            state.identity_token = self._stamp
        return attached

    def _identity_lookup(  # type: ignore[override]  # passed on as they come
        self, mapper: Any, primary_key_identity: Any, identity_token: Any = None, **kw: Any
    ) -> Any:
        # The hook that SQLAlchemy's horizontal sharding uses: keys carry the tenant.
        if context.now() is not self.tenant:
            self.check_current()
        token = identity_token if identity_token is not None else self._stamp
        return super()._identity_lookup(mapper, primary_key_identity, identity_token=token, **kw)

    def merge(self, instance: Any, **options: Any) -> Any:
        """As SQLAlchemy's; refuses an object of another tenant, alone or related.

        Raises:
            CrossTenantError: The object or one that the merge would reach is another tenant's.
        """
        self.check_current()
        state = inspect(instance)
        self.check_own(state)
        for _, _, related, _ in state.mapper.cascade_iterator("merge", state):
            self.check_own(related)
        return super().merge(instance, **options)

    def bulk_save_objects(self, objects: Iterable[object], *args: Any, **options: Any) -> None:
        """As SQLAlchemy's; refuses objects of another tenant.

        Raises:
            CrossTenantError: One of them is.
        """
        listed = list(objects)
        for each in listed:
            self.check_own(inspect(each))
        super().bulk_save_objects(listed, *args, **options)

    def flush(self, objects: Any = None) -> None:
        """As SQLAlchemy's; looks at every object once more.

        Raises:
            CrossTenantError: One is another tenant's.
            TenantReadOnlyError: The tenant serves reads only for the moment.
        """
        if self._is_clean():
            return
        changed = [*self.new, *self.dirty, *self.deleted]
        if changed:
            self.check_current()
            for each in changed:
                self.check_own(inspect(each))
            own = self.tenant
            if own is not None and self._engine._router.known_state(own) is State.READ_ONLY:
                raise TenantReadOnlyError(
                    f"tenant {own.id!r} serves reads only for the moment; try the write later",
                    tenant_id=own.id,
                )
            check_written(self, changed)
        super().flush(objects)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session is not pickled; pickle its objects and merge them")


def _named(tenant: Tenant | None) -> str:
    return f"tenant {tenant.id!r}" if tenant is not None else "the shared place"


def _stamp_of(state: InstanceState[Any]) -> Any:
    if state.key is not None and state.key[2] is not None:
        return state.key[2]
    return state.identity_token or state.info.get(_INFO)


# SQLAlchemy 2.0 has no execution options of a session: each statement gets the token.


def _add_token(execution: ORMExecuteState) -> None:
    session = execution.session
    if isinstance(session, TenantSession) and session._stamp is not None:
        execution.update_execution_options(identity_token=session._stamp)


if not _SESSION_OPTIONS:
    event.listen(TenantSession, "do_orm_execute", _add_token, propagate=True)


# A plain Session on a routed engine is taken over when its first transaction begins.

_adopted_classes: dict[type[Session], type[TenantSession]] = {}


@event.listens_for(Session, "after_begin")
def _adopt(session: Session, transaction: object, connection: Connection) -> None:
    engine = connection.engine
    if isinstance(session, TenantSession) or not isinstance(engine, RoutedEngine):
        return
    plain = type(session)
    adopted = _adopted_classes.get(plain)
    if adopted is None:
        adopted = _adopted_classes[plain] = type(
            plain.__name__, (_AdoptedSession, plain), {"__module__": plain.__module__}
        )
    tenant = engine._pin
    session.__class__ = adopted
    assert isinstance(session, TenantSession)
    session._pin(tenant, engine)
    session.bind = engine  # by which it finds the connection of its transaction again
    session._stamp = None
    session._shared_engine = None
    session._named_binds = {}
    for each in [*session.new, *session.identity_map.values()]:
        session.check_own(inspect(each))
    _check_merge_under_way(session)
    event.listen(session, "loaded_as_persistent", _mark)
    event.listen(session, "pending_to_persistent", _mark)


def _check_merge_under_way(session: TenantSession) -> None:
    """A merge that is the first thing a plain session does began before it was ours.

    SQLAlchemy has no event for it, and what it was given is known to its frame alone.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is Session.merge.__code__ and frame.f_locals.get("self") is session:
            state = inspect(frame.f_locals["instance"])
            session.check_own(state)
            for _, _, related, _ in state.mapper.cascade_iterator("merge", state):
                session.check_own(related)
        frame = frame.f_back


class _AdoptedSession(TenantSession):
    """A plain Session after it met a routed engine: pinned to the tenant it met.

    It was born without the tenant, so its objects carry the mark in ``state.info`` and not in
    their identity keys.
    """

    def check_own(self, state: InstanceState[Any]) -> None:
        if _stamp_of(state) is not None or state.session_id != self.hash_key:
            super().check_own(state)


def _mark(session: Session, instance: object) -> None:
    assert isinstance(session, TenantSession)
    inspect(instance).info[_INFO] = session._own_stamp
