"""Who is current. One context variable, read when needed and set by blocks only.

Holds for the thread or task that entered the block and for tasks started inside it. Threads
and executors start with no tenant (Python manual, *contextvars*): hand it over with
:func:`carry`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Generator
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, TypeVar, cast

from . import events
from .errors import NoTenantError, TenantSwitchError
from .tenant import State, Tenant

__all__ = ["carry", "current", "in_shared", "nobody", "require", "shared", "use"]

F = TypeVar("F", bound=Callable[..., Any])


class _Shared:
    """The mark that stands for "no tenant, on purpose"."""

    def __repr__(self) -> str:
        return "<shared>"


_SHARED = _Shared()
_READY = State.READY
_current: ContextVar[Tenant | _Shared | None] = ContextVar("tenantry_current", default=None)


class _Scope:
    """A block during which the context variable has one value; entered once."""

    __slots__ = ("_token", "_value")

    def __init__(self, value: Tenant | _Shared | None) -> None:
        self._value = value
        self._token: Token[Tenant | _Shared | None] | None = None

    def _set(self) -> None:
        if self._token is not None:
            raise TenantSwitchError("this block was entered already; make a new one")
        self._token = _current.set(self._value)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        token, self._token = self._token, None
        if token is not None:
            try:
                _current.reset(token)
            except ValueError:
                # Closed in another context, as an abandoned async generator is: the value was
                # set in a context that nobody reads any more, and this one was never changed.
                pass


class use(_Scope):
    """Make *tenant* current for the body of a ``with`` block.

    Nests for the same tenant. Another current tenant is refused unless *switch* is true.
    The value before is restored at the end, also after an exception.

    Raises:
        TenantSwitchError: Another tenant is current (on entering).
        TenantSuspendedError: And its siblings: the tenant's state serves no requests.
    """

    __slots__ = ("_switch",)
    _value: Tenant

    def __init__(self, tenant: Tenant, *, switch: bool = False) -> None:
        if not isinstance(tenant, Tenant):
            raise TypeError("use() takes a Tenant; `tenancy.use(id)` takes an id")
        self._value = tenant
        self._token = None
        self._switch = switch

    # Every request pays for these two, so they call as little as they can.

    def __enter__(self) -> Tenant:
        tenant = self._value
        if tenant.state is not _READY:
            tenant.check_serving()
        before = _current.get()
        if (
            before is not None
            and before is not tenant
            and not self._switch
            and isinstance(before, Tenant)
            and not _same(before, tenant)
        ):
            raise TenantSwitchError(
                f"tenant {before.id!r} is current, {tenant.id!r} was asked for; leave the first "
                "block, or say switch=True if the change is meant",
                tenant_id=before.id,
            )
        if self._token is not None:
            raise TenantSwitchError("this block was entered already; make a new one")
        self._token = _current.set(tenant)
        if events.listening():
            events.emit(events.TenantEntered(tenant.id))
        return tenant

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _Scope.__exit__(self, kind, error, traceback)
        if events.listening():
            events.emit(events.TenantLeft(self._value.id))


class shared(_Scope):
    """Say on purpose that the body of a ``with`` block belongs to no tenant."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_SHARED)

    def __enter__(self) -> None:
        before = _current.get()
        self._set()
        if events.listening():
            events.emit(events.SharedEntered(before.id if isinstance(before, Tenant) else None))


class nobody(_Scope):
    """A block that begins with no tenant, as each request and job does, whatever is current.

    What asks for a tenant in it is refused until one is entered.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(None)

    def __enter__(self) -> None:
        self._set()


class _restored(_Scope):
    """A block with exactly the value that :func:`carry` found, whatever is current."""

    __slots__ = ()

    def __enter__(self) -> None:
        self._set()


#: What :func:`current` is made of, for code in which a call counts: a tenant or something else.
now = _current.get


def current() -> Tenant | None:
    """The current tenant, or ``None`` when there is none or the block is shared."""
    value = _current.get()
    return value if isinstance(value, Tenant) else None


def in_shared() -> bool:
    """Whether the innermost block says on purpose that no tenant is meant."""
    return _current.get() is _SHARED


def require() -> Tenant:
    """The current tenant.

    Raises:
        NoTenantError: None is current.
    """
    value = _current.get()
    if isinstance(value, Tenant):
        return value
    raise NoTenantError


def carry(fn: F) -> F:
    """Bind what is current now to *fn*, for a thread, an executor, a timer or a callback.

    Works for functions, coroutine functions, generator functions and asynchronous generator
    functions; for the last two every step runs under the tenant. With no tenant current the
    function will run with none, whatever its thread has.
    """
    value = _current.get()

    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def carried_coroutine(*args: Any, **kwargs: Any) -> Any:
            with _restored(value):
                return await fn(*args, **kwargs)

        return cast(F, carried_coroutine)

    if inspect.isasyncgenfunction(fn):

        @functools.wraps(fn)
        async def carried_async_generator(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            steps = fn(*args, **kwargs)
            try:
                while True:
                    with _restored(value):
                        try:
                            item = await steps.__anext__()
                        except StopAsyncIteration:
                            return
                    yield item
            finally:
                with _restored(value):
                    await steps.aclose()

        return cast(F, carried_async_generator)

    if inspect.isgeneratorfunction(fn):

        @functools.wraps(fn)
        def carried_generator(*args: Any, **kwargs: Any) -> Generator[Any, None, Any]:
            steps = fn(*args, **kwargs)
            try:
                while True:
                    with _restored(value):
                        try:
                            item = next(steps)
                        except StopIteration as end:
                            return end.value
                    yield item
            finally:
                with _restored(value):
                    steps.close()

        return cast(F, carried_generator)

    @functools.wraps(fn)
    def carried(*args: Any, **kwargs: Any) -> Any:
        with _restored(value):
            return fn(*args, **kwargs)

    return cast(F, carried)


def _same(one: Tenant, other: Tenant) -> bool:
    return one is other or (one.key == other.key and one.id == other.id)
