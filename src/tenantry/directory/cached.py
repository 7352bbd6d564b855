"""A directory in front of a slower one: remembers answers, and notices change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import ConfigurationError, UnknownTenantError, UnsupportedError
from ..events import TenantChanged, emit
from ..naming import is_identifier, is_tenant_id
from ..tenant import State, Tenant
from .base import Directory, WritableDirectory, reset_after_fork, unknown
from .flight import Flights

__all__ = ["CachedDirectory"]

K = TypeVar("K")
V = TypeVar("V")
_NEVER = float("-inf")


class _Memory:
    """What was learned since *version* became known; replaced as a whole when that changes.

    A question writes its answer into the memory that was there when it began. So what was read
    before a change can never be taken for what was read after it.
    """

    __slots__ = ("absent", "fresh_until", "identifiers", "tenants", "version")

    def __init__(self, version: object = None, fresh_until: float = _NEVER) -> None:
        self.version = version
        # Until then all of it may be given, for the version was looked at.
        self.fresh_until = fresh_until
        # Beside each answer: until when it may be given for its own age.
        self.tenants: dict[str, tuple[Tenant, float]] = {}
        self.identifiers: dict[str, tuple[Tenant, float]] = {}
        # And a second time: until when the absence may be believed at all.
        self.absent: dict[tuple[str, str], tuple[float, float]] = {}


class CachedDirectory:
    """Answers from memory while that is fresh, and asks *inner* once for many at a time.

    An answer is never given when older than *max_age_seconds*, unless *inner* has a cheap
    ``version()`` and that was asked within this time and had not changed: then the answers stay.
    So a change made by another process is seen within *max_age_seconds* (plus one question).
    That no such tenant exists is remembered too, for at most *negative_seconds*. Errors are never
    remembered. At most *max_entries* tenants, and as many absent ones, are kept; the oldest goes
    first. What cannot be an id or identifier never reaches *inner*. *clock* gives float seconds.

    Use it from any thread. Emits :class:`~tenantry.events.TenantChanged` when it learns of a
    new state, placement or generation of a tenant that it knew.

    Raises:
        ConfigurationError: A number is negative, or *max_entries* is not positive.
    """

    def __init__(
        self,
        inner: Directory,
        *,
        max_age_seconds: float = 0.5,
        negative_seconds: float = 10.0,
        max_entries: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_age_seconds < 0 or negative_seconds < 0 or max_entries < 1:
            raise ConfigurationError(
                "max_age_seconds and negative_seconds cannot be negative, and max_entries is at "
                "least 1"
            )
        self.inner = inner
        self._max_age = max_age_seconds
        self._negative = negative_seconds
        self._max_entries = max_entries
        self._clock = clock
        self._ask_version: Callable[[], object] | None = getattr(inner, "version", None)
        self._memory = _Memory()
        self._known: dict[str, Tenant] = {}
        self._lock = threading.Lock()
        self._flights = Flights()
        reset_after_fork(self)

    def peek(self, tenant_id: str) -> Tenant | None:
        """The tenant, if it is remembered and fresh; never does I/O, never raises."""
        if type(tenant_id) is not str:
            return None
        memory = self._memory
        entry = memory.tenants.get(tenant_id)
        if entry is None:
            return None
        now = self._clock()
        return entry[0] if now < entry[1] or now < memory.fresh_until else None

    def peek_identifier(self, identifier: str) -> Tenant | None:
        """As :meth:`peek`, for what :meth:`find` would answer."""
        if type(identifier) is not str:
            return None
        memory = self._memory
        entry = memory.tenants.get(identifier) or memory.identifiers.get(identifier)
        if entry is None:
            return None
        now = self._clock()
        return entry[0] if now < entry[1] or now < memory.fresh_until else None

    def get(self, tenant_id: str) -> Tenant:
        """The tenant with this id; see :class:`Directory`."""
        tenant = self.peek(tenant_id)
        if tenant is not None:
            return tenant
        if not is_tenant_id(tenant_id):
            raise unknown(tenant_id)
        return self._answer("get", tenant_id, self.peek, self.inner.get)

    def find(self, identifier: str) -> Tenant:
        """The tenant with this id or identifier; see :class:`Directory`."""
        tenant = self.peek_identifier(identifier)
        if tenant is not None:
            return tenant
        if not is_identifier(identifier):
            raise unknown(identifier)
        return self._answer("find", identifier, self.peek_identifier, self.inner.find)

    def tenants(self) -> list[Tenant]:
        """All tenants, ordered by id; asks *inner* each time."""
        return list(self.inner.tenants())

    def forget(self) -> None:
        """Remember nothing; the next question goes to *inner*."""
        self._memory = _Memory()

    def next_generation(self, tenant_id: str) -> int:
        """See :class:`WritableDirectory`."""
        return self._writable().next_generation(tenant_id)

    def add(self, tenant: Tenant) -> Tenant:
        """Record a new tenant in *inner*; see :class:`WritableDirectory`."""
        return self._written(self._writable().add(tenant))

    def replace(self, tenant: Tenant, *, expected: Tenant) -> Tenant:
        """Record a change in *inner*; see :class:`WritableDirectory`."""
        return self._written(self._writable().replace(tenant, expected=expected))

    def remove(self, tenant: Tenant) -> None:
        """Forget a tenant in *inner*; see :class:`WritableDirectory`."""
        self._writable().remove(tenant)
        self.forget()
        self._tell(self._change(tenant.id, None))

    def after_fork(self) -> None:
        """Called in a forked child: who led a question there is not here."""
        self._lock = threading.Lock()
        self._flights = Flights()
        self.forget()

    def _answer(
        self,
        how: str,
        name: str,
        peek: Callable[[str], Tenant | None],
        ask: Callable[[str], Tenant],
    ) -> Tenant:
        if self._ask_version is not None and self._clock() >= self._memory.fresh_until:
            self._flights.share("version", self._look_at_version)
            if (known := peek(name)) is not None:
                return known
        memory = self._memory
        if self._is_absent(memory, how, name):
            raise unknown(name)
        changes: list[TenantChanged | None] = []

        def look_up() -> Tenant | None:
            if (known := peek(name)) is not None and memory is self._memory:
                return known  # somebody was done between our look and our turn
            if self._is_absent(memory, how, name):
                return None  # and so were they
            started = self._clock()
            try:
                found = ask(name)
            except UnknownTenantError:
                found = None
            if found is None or (how == "get" and found.id != name):
                # An id that differs: a database that compares without case gave another's.
                age = min(self._max_age, self._negative)
                self._put(memory.absent, (how, name), (started + age, started + self._negative))
                if how == "get":
                    changes.append(self._change(name, None))
                return None
            entry = (found, started + self._max_age)
            self._put(memory.tenants, found.id, entry)
            if name != found.id:
                self._put(memory.identifiers, name, entry)
            changes.append(self._change(found.id, found))
            return found

        tenant = self._flights.share((how, name, memory), look_up)
        for change in changes:
            self._tell(change)
        if tenant is None:
            raise unknown(name)
        return tenant

    def _look_at_version(self) -> None:
        assert self._ask_version is not None
        memory = self._memory
        started = self._clock()
        if started < memory.fresh_until:
            return  # somebody was done between our look and our turn
        version = self._ask_version()
        if version == memory.version:
            memory.fresh_until = started + self._max_age
        else:
            self._memory = _Memory(version, started + self._max_age)

    def _is_absent(self, memory: _Memory, how: str, name: str) -> bool:
        entry = memory.absent.get((how, name))
        if entry is None:
            return False
        now = self._clock()
        return now < entry[0] or (now < entry[1] and now < memory.fresh_until)

    def _put(self, entries: dict[K, V], key: K, value: V) -> None:
        with self._lock:
            if len(entries) >= self._max_entries and key not in entries:
                del entries[next(iter(entries))]
            entries[key] = value

    def _change(self, tenant_id: str, tenant: Tenant | None) -> TenantChanged | None:
        """What there is to tell about *tenant*, which is how it was found just now."""
        with self._lock:
            before = self._known.pop(tenant_id, None)
        if tenant is not None:
            self._put(self._known, tenant_id, tenant)
        if before is None or (tenant is not None and _same(before, tenant)):
            return None
        return TenantChanged(tenant_id, str(tenant.state if tenant else State.DELETED))

    def _tell(self, change: TenantChanged | None) -> None:
        if change is not None:
            emit(change)

    def _written(self, tenant: Tenant) -> Tenant:
        self.forget()
        self._tell(self._change(tenant.id, tenant))
        return tenant

    def _writable(self) -> WritableDirectory:
        if isinstance(self.inner, WritableDirectory):
            return self.inner
        raise UnsupportedError(
            f"{type(self.inner).__name__} cannot be written to; keep the tenants in a "
            "TableDirectory to create and change them"
        )


def _same(one: Tenant, other: Tenant) -> bool:
    return (one.stamp, one.state, one.placement) == (other.stamp, other.state, other.placement)
