"""One pool, many tenants: connections in buckets, handed out under one budget.

The pool never asks who is asking. It is told a target (where a tenant's connections go) by
the engine and keeps, for each bucket, the connections that may serve it. Threads and tasks
share this body; only the waiting differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.pool import Pool
from sqlalchemy.pool.base import ConnectionPoolEntry, _ConnectionRecord
from sqlalchemy.util import concurrency
from sqlalchemy.util.concurrency import await_only, greenlet_spawn

from .. import context, events
from ..errors import CrossTenantError, PlacementMissingError, ServerUnavailableError, TenantryError
from ..isolation import Target
from ..tenant import Tenant
from . import guard
from .connect import unavailable
from .limits import Budget, Grant

__all__ = ["BucketRecord", "RoutedPool", "record_of", "target_of_checkout"]

#: The target of the checkout under way in this thread or task; set by the engine alone.
target_of_checkout: ContextVar[Target | None] = ContextVar("tenantry_target", default=None)

# The records of connections whose dialect is asked by driver connection alone. Entries are
# overwritten when an address is used again, and a found one is compared before it is believed.
_by_connection: weakref.WeakValueDictionary[int, BucketRecord] = weakref.WeakValueDictionary()


def record_of(connection: object) -> BucketRecord | None:
    """The record of a driver connection (as SQLAlchemy adapts it), if it is armed."""
    record = _by_connection.get(id(connection))
    if record is None or record.dbapi_connection is not connection or not record.armed:
        return None
    return record


# Connections inherited by a forked child. They belong to the parent: they must neither be used
# nor closed here (closing would end the parent's session), so they are kept for ever.
_inherited: list[Any] = []


class BucketRecord(_ConnectionRecord):
    """SQLAlchemy's record of one connection, and what the guard must know of it.

    *target* is what it serves now, *database* where it points (servers that can be switched) and
    *returned_at* when it came back, in monotonic seconds,
    *armed* whether BEGIN is ours, *session_armed* whether the session itself was armed,
    *isolation_level* and what follows the options of the next BEGIN, *prepared* what was
    prepared for each tenant (psycopg's own book, asyncpg's statements),
    *in_transaction* whether BEGIN was sent and not ended, *dirty* whether a statement may have
    left something on the session, *lent* how often the connection was handed out bare.
    """

    # Each transaction asks them dozens of times.
    __slots__ = (
        "armed",
        "bucket_key",
        "database",
        "deferrable_transaction",
        "dirty",
        "driver",
        "epoch",
        "in_transaction",
        "is_async",
        "isolation_level",
        "lent",
        "loop",
        "owner",
        "pool",
        "prepared",
        "read_only_transaction",
        "returned_at",
        "session_armed",
        "target",
    )

    def __init__(self, pool: RoutedPool, key: Hashable, target: Target) -> None:
        super().__init__(pool, connect=False)
        self.pool = pool
        self.bucket_key = key
        self.loop = pool.running_loop()
        self.is_async = pool._dialect.is_async
        self.epoch = pool.epoch
        self.driver = target.url.get_driver_name()
        self.database: str | None = None
        self.returned_at = 0.0
        self.armed = False
        self.prepared: Any = None
        self.lend(target)

    def lend(self, target: Target) -> None:
        """Begin to serve *target*."""
        self.target = target
        self.owner = target.owner
        self.in_transaction = False
        self.dirty = False
        self.lent = 0
        self.session_armed = False
        self.isolation_level: str | None = None
        self.read_only_transaction = False
        self.deferrable_transaction = False

    def get_connection(self) -> DBAPIConnection:
        """The open connection, pointed and armed; opened first if need be."""
        before = self.dbapi_connection
        connection = self._open()
        if connection is not before:
            connection = self._prepare(connection)
        if self.target.is_pointed:
            try:
                guard.point(self)
            except self.pool.driver_error:
                if before is None:
                    raise
                # It died while it was idle (a server's idle timeout); nothing was sent yet.
                self.invalidate()
                connection = self._prepare(self._open())
                guard.point(self)
        if self.prepared is not None:
            guard.use_prepared_of_tenant(self)
        self.lent = 0
        return connection

    def _open(self) -> DBAPIConnection:
        try:
            return super().get_connection()
        except Exception as error:
            # It ended while SQLAlchemy set it up, which for asyncpg shows the driver's own error;
            # asyncpg may not be installed, so its errors are known by their module.
            if not type(error).__module__.startswith("asyncpg."):
                raise
            lost = unavailable(self.target, error)
        raise lost

    def _prepare(self, connection: DBAPIConnection) -> DBAPIConnection:
        """Make a fresh connection fit for its bucket; it may have to be opened once more."""
        try:
            guard.prepare_new(self)
        except guard.Reopen:
            self.close()
            connection = self._open()
            guard.prepare_new(self)
        _by_connection[id(connection)] = self
        return connection

    def check_current(self) -> None:
        """Refuse a statement under another tenant than the connection's.

        Raises:
            CrossTenantError: Another tenant is current.
        """
        current = context.now()
        own = self.target.tenant
        if current is own or own is None or not isinstance(current, Tenant):
            return
        if current.key == own.key:
            return
        raise CrossTenantError(
            f"a connection of tenant {own.id!r} was used under tenant {current.id!r}; "
            "open one in the block of the tenant that needs it",
            tenant_id=own.id,
        )

    def can_close_here(self) -> bool:
        """Whether this thread may close it: always, unless an event loop elsewhere runs it."""
        loop = self.loop
        return loop is None or not loop.is_running() or loop is self.pool.running_loop()

    def close_elsewhere(self) -> None:
        """Ask the event loop that owns it to close it soon."""
        assert self.loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has just ended
            self.loop.call_soon_threadsafe(self.pool.close_one_idle, self)

    def disown(self) -> None:
        """Forget a connection that belongs to the parent process, without touching it."""
        _inherited.append(self.dbapi_connection)
        fairy: Any = self.fairy_ref() if self.fairy_ref is not None else None
        if fairy is not None:
            fairy._finalizer.detach() if hasattr(fairy, "_finalizer") else None
            fairy.dbapi_connection = None
            fairy._connection_record = None
        self.fairy_ref = None
        self.dbapi_connection = None


class RoutedPool(Pool):
    """The pool of one engine. *open_connection* opens for a record's target.

    *decide* gives the target of a checkout that no engine prepared (``pool.connect()``).
    """

    driver_error: type[Exception] = Exception

    def __init__(
        self,
        budget: Budget,
        open_connection: Callable[[Dialect, Target, bool], DBAPIConnection],
        decide: Callable[[], Target],
        **options: Any,
    ) -> None:
        self._budget = budget
        self._open = open_connection
        self._decide = decide
        self.epoch = 0
        #: By server: whether a transaction pooler stands before it.
        self.pooled: dict[str, bool] = {}
        #: Servers and databases whose row policies bind the login.
        self.policies_checked: set[tuple[str, str | None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._out: set[BucketRecord] = set()
        self._retired: set[Hashable] = set()
        super().__init__(cast(Any, self._create), reset_on_return=None, **options)
        _pools.add(self)

    def running_loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that connections of this pool belong to; ``None`` for threads."""
        if not self._dialect.is_async:
            return None
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            return None

    def share_first_connection_between_loops(self) -> None:
        """SQLAlchemy learns of the server at the first connection, behind a lock that belongs to
        one event loop; a second loop would wait for it for ever.
        """
        listeners: Any = self.dispatch.connect
        listeners.for_modify(self.dispatch)._exec_once_mutex = _AnyLoopLock()

    # What SQLAlchemy's Pool asks of its subclasses ------------------------------------------

    def _do_get(self) -> ConnectionPoolEntry:
        target = target_of_checkout.get() or self._decide()
        loop = self.running_loop() if self._dialect.is_async else None
        server, owner = target.server, target.owner
        key = (id(self), target.bucket, loop)
        grant = self._budget.take(key, owner, server.name, server.max_connections, self._wait)
        try:
            if grant.evicted is not None:
                self._close(grant.evicted, "evicted")
            record = grant.record or BucketRecord(self, key, target)
        except BaseException:
            self._budget.hand_back(Grant(grant.record), key, owner)
            raise
        record.lend(target)
        self._out.add(record)
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        # Whoever gives it back may wait here, and be cancelled: SQLAlchemy detaches a connection
        # of an event loop that is found by the garbage collector, so that it never comes.
        assert isinstance(record, BucketRecord)
        self._out.discard(record)
        whole = False
        try:
            if record.dbapi_connection is not None and (
                record.lent > 0
                or record.dirty
                or record.in_transaction
                or record.armed
                or record.target.arm is not None
            ):
                self._clean(record)
            whole = record.dbapi_connection is not None
            if whole and self._is_stale(record):
                whole = False
                self._close(record, "generation")
        finally:
            if whole:
                if record.database is not None:
                    record.returned_at = time.monotonic()
                self._budget.give_back(record, record.owner)
            else:
                self._budget.drop(record.bucket_key, record.owner)

    def _clean(self, record: BucketRecord) -> None:
        try:
            guard.clean(record)
        except BaseException as error:
            try:
                record.invalidate(error)
            finally:
                record.close()  # there is one still if a listener of "invalidate" failed
            if not isinstance(error, Exception):
                raise
            self.logger.error("a connection could not be cleaned, and was closed", exc_info=True)
        if record.dbapi_connection is None and events.listening():
            events.emit(
                events.ConnectionClosed(
                    record.target.tenant_id, record.target.server.name, "raw_sql"
                )
            )

    def _invalidate(
        self, connection: Any, exception: BaseException | None = None, _checkin: bool = True
    ) -> None:
        """A lost connection says something of its own place, and nothing of other tenants'."""
        record = getattr(connection, "_connection_record", None)
        if isinstance(record, BucketRecord):
            key = record.bucket_key
            self._close_idle(lambda idle: idle.bucket_key == key, "lost")
        if _checkin and getattr(connection, "is_valid", False):
            connection.invalidate(exception)

    def _is_stale(self, record: BucketRecord) -> bool:
        return (
            record.epoch != self.epoch
            or record.target.bucket in self._retired
            or (record.loop is not None and record.loop.is_closed())
        )

    def status(self) -> str:
        return f"RoutedPool {self._budget.status()}"

    def dispose(self) -> None:
        """Close what is idle now, and what is in use when it comes back."""
        self.epoch += 1
        self._close_idle(lambda record: record.pool is self, "disposed")

    def recreate(self) -> RoutedPool:
        """The same pool: after :meth:`dispose` it starts from nothing."""
        return self

    # Opening and closing --------------------------------------------------------------------

    def _create(self, record: ConnectionPoolEntry) -> DBAPIConnection:
        assert isinstance(record, BucketRecord)
        started = time.monotonic()
        record.database = None
        record.armed = False
        record.epoch = self.epoch
        try:
            connection = self.open_as_known(record.target)
        except (ServerUnavailableError, PlacementMissingError) as error:
            self._budget.failed(record.bucket_key, partial(_same_error, error))
            raise
        self._budget.opened(record.bucket_key)
        if events.listening():
            events.emit(
                events.ConnectionOpened(
                    record.target.tenant_id, record.target.server.name, time.monotonic() - started
                )
            )
        return connection

    def open_as_known(self, target: Target) -> DBAPIConnection:
        """A new connection, with what was learned of its server; not one of the pool's."""
        dialect = self._dialect
        assert isinstance(dialect, Dialect)
        name = target.server.name
        pooled = bool(self.pooled.get(name, target.server.pooler))
        try:
            return self._open(dialect, target, pooled)
        except ServerUnavailableError as error:
            # PgBouncer takes no settings at connect (its manual: ignore_startup_parameters).
            if pooled or "unsupported startup parameter" not in str(error.__cause__):
                raise
        self.pooled[name] = True
        return self._open(dialect, target, True)

    def _close(self, record: BucketRecord, reason: str) -> None:
        loop = record.loop
        if loop is None or (loop is self.running_loop() and concurrency.in_greenlet()):
            record.close()
        elif not loop.is_running():
            guard.sever(record)
        else:
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                loop.call_soon_threadsafe(self._close_soon, record)
        if events.listening():
            events.emit(
                events.ConnectionClosed(record.target.tenant_id, record.target.server.name, reason)
            )

    def _close_soon(self, record: BucketRecord) -> asyncio.Task[None]:
        """Close *record* in a task of its own event loop, which runs this."""
        closing: Any = greenlet_spawn(record.close)  # a coroutine; typed by version differently
        task: asyncio.Task[None] = asyncio.ensure_future(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    def _close_idle(self, wanted: Callable[[BucketRecord], bool], reason: str) -> None:
        for record in self._budget.pull_idle(wanted):
            self._close(record, reason)

    def close_one_idle(self, record: BucketRecord) -> None:
        """Close *record* if it is still idle; called on its event loop."""
        if self._budget.claim_idle(record):
            task = self._close_soon(record)
            task.add_done_callback(lambda _: self._budget.drop(record.bucket_key, None))

    def retire(self, bucket: Hashable) -> None:
        """Never use connections of *bucket* again: its tenant has moved or was created anew."""
        self._retired.add(bucket)
        self._close_idle(
            lambda record: record.pool is self and record.target.bucket == bucket, "generation"
        )

    # Waiting --------------------------------------------------------------------------------

    def _wait(self, future: Future[Grant], seconds: float) -> Grant:
        if not self._dialect.is_async:
            try:
                return future.result(seconds)
            except Exception as error:
                # On Python 3.10 the futures' TimeoutError is not the built-in one.
                if type(error).__name__ == "TimeoutError":
                    raise TimeoutError from None
                raise

        async def wait() -> Grant:
            try:
                return await asyncio.wait_for(asyncio.wrap_future(future), seconds)
            except asyncio.TimeoutError:
                raise TimeoutError from None

        granted: Grant = await_only(wait())
        return granted

    def forget_parent(self) -> None:
        """In the child after a fork: leave every connection to the parent."""
        for record in list(self._out):
            record.disown()
        self._out = set()
        for record in list(self._budget._idle):
            record.disown()


class _AnyLoopLock:
    """A lock for greenlets of several event loops; held briefly and rarely, so it polls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        while not self._lock.acquire(blocking=False):
            await_only(asyncio.sleep(0.002))

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _same_error(error: TenantryError) -> TenantryError:
    """A copy for another waiter."""
    copy = type(error)(str(error), tenant_id=error.tenant_id)
    copy.__cause__ = error.__cause__
    return copy


_pools: weakref.WeakSet[RoutedPool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    pools = list(_pools)
    for pool in pools:
        pool.forget_parent()
    for budget in {id(pool._budget): pool._budget for pool in pools}.values():
        budget.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
