"""How many connections, for whom, and who is next.

One budget covers every pool of a tenancy, for threads and for tasks: overall, per server and
per tenant. It hands out idle connections or permission to open one, closes the least recently
used idle connection to make room, and lets waiters in fairly: tenants take turns, and within
a tenant the first comes first.

The first connection of a cold bucket is opened alone; whoever wants the same waits for it, so
that a herd makes one attempt at an unknown or dead server and not five hundred.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from .. import events
from ..errors import BudgetExhaustedError, ConfigurationError

if TYPE_CHECKING:
    from .pool import BucketRecord

__all__ = ["Budget", "Grant"]

#: Waits for a future for at most so many seconds; raises ``TimeoutError``.
Wait = Callable[["Future[Grant]", float], "Grant"]


class Grant(NamedTuple):
    """Either an idle *record*, or (``None``) permission to open one.

    *evicted* must be closed first; it made the room.
    """

    record: BucketRecord | None = None
    evicted: BucketRecord | None = None


@dataclass
class _Bucket:
    """Connections that may serve each other's tenants."""

    key: Hashable
    server: str
    server_limit: int | None
    idle: list[BucketRecord] = field(default_factory=list)
    live: int = 0
    warm: bool = False


@dataclass(eq=False)
class _Waiter:
    bucket: _Bucket
    owner: str
    future: Future[Grant] = field(default_factory=Future)


class Budget:
    """Counts connections and decides who gets the next one.

    *max_connections* bounds them overall, *per_tenant* what one tenant holds at a time (by
    default half of the whole, at least one), *wait_seconds* how long anybody waits. *clock*
    gives monotonic seconds.

    Raises:
        ConfigurationError: A limit is not positive.
    """

    def __init__(
        self,
        max_connections: int = 100,
        *,
        per_tenant: int | None = None,
        wait_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_connections < 1 or (per_tenant is not None and per_tenant < 1) or wait_seconds < 0:
            raise ConfigurationError(
                "max_connections and per_tenant are at least 1, wait_seconds is not negative"
            )
        self.max_connections = max_connections
        self.per_tenant = per_tenant if per_tenant is not None else max(1, max_connections // 2)
        self.wait_seconds = wait_seconds
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Start from nothing: at first, and in the child after a fork."""
        self._lock = threading.Lock()
        self._buckets: dict[Hashable, _Bucket] = {}
        self._live = 0
        self._live_on: Counter[str] = Counter()
        self._held_by: dict[str, int] = {}
        self._idle: OrderedDict[BucketRecord, None] = OrderedDict()  # least recently used first
        self._waiting: OrderedDict[str, deque[_Waiter]] = OrderedDict()

    def status(self) -> dict[str, object]:
        """Counts for people and metrics: live, idle, held by tenant, waiting."""
        with self._lock:
            return {
                "max_connections": self.max_connections,
                "live": self._live,
                "idle": len(self._idle),
                "live_on": dict(+self._live_on),
                "held_by": dict(self._held_by),
                "waiting": sum(len(queue) for queue in self._waiting.values()),
            }

    # Taking ---------------------------------------------------------------------------------

    def take(
        self, key: Hashable, owner: str, server: str, server_limit: int | None, wait: Wait
    ) -> Grant:
        """A connection of bucket *key* for *owner*, waiting if need be.

        Raises:
            BudgetExhaustedError: None became free in time; the message says who holds them.
        """
        waiter = None
        with self._lock:
            bucket = self._buckets.get(key)
            if bucket is None:
                bucket = self._buckets[key] = _Bucket(key, server, server_limit)
            grant = None if self._waiting else self._try(bucket, owner)
            if grant is None:
                waiter = _Waiter(bucket, owner)
                self._waiting.setdefault(owner, deque()).append(waiter)
                self._serve()
        if waiter is None:
            assert grant is not None
            return grant
        return self._wait_for(waiter, wait)

    def _wait_for(self, waiter: _Waiter, wait: Wait) -> Grant:
        started = self._clock()
        try:
            grant = wait(waiter.future, self.wait_seconds)
        except BaseException as error:
            self._withdraw(waiter)
            if isinstance(error, TimeoutError):
                raise self._exhausted(waiter) from None
            raise
        if events.listening():
            events.emit(
                events.WaitedForConnection(
                    waiter.owner, waiter.bucket.server, self._clock() - started
                )
            )
        return grant

    def _withdraw(self, waiter: _Waiter) -> None:
        """Somebody stopped waiting; what was granted meanwhile goes to the next."""
        grant = None
        with self._lock:
            queue = self._waiting.get(waiter.owner)
            if queue is not None and waiter in queue:
                queue.remove(waiter)
                if not queue:
                    del self._waiting[waiter.owner]
            if (
                waiter.future.done()
                and not waiter.future.cancelled()
                and waiter.future.exception() is None
            ):
                grant = waiter.future.result()
            waiter.future.cancel()
            self._drop_if_empty(waiter.bucket)
        if grant is not None:
            self.hand_back(grant, waiter.bucket.key, waiter.owner)

    def _exhausted(self, waiter: _Waiter) -> BudgetExhaustedError:
        with self._lock:
            holders = Counter(self._held_by).most_common(5)
            live, held = self._live, self._held_by.get(waiter.owner, 0)
            live_there = self._live_on[waiter.bucket.server]
        limits = [f"{live} of {self.max_connections} overall"]
        if waiter.bucket.server_limit is not None:
            limits.append(
                f"{live_there} of {waiter.bucket.server_limit} on server {waiter.bucket.server!r}"
            )
        limits.append(f"{held} of {self.per_tenant} for this tenant")
        held_by = ", ".join(f"{owner} {count}" for owner, count in holders) or "nobody"
        return BudgetExhaustedError(
            f"tenant {waiter.owner!r} got no connection within {self.wait_seconds:g} s; open: "
            f"{', '.join(limits)}; held by: {held_by}; shorten their transactions or raise the "
            "budget",
            tenant_id=waiter.owner,
        )

    def _try(self, bucket: _Bucket, owner: str) -> Grant | None:
        """A grant if the limits allow one now; the lock is held."""
        if self._held_by.get(owner, 0) >= self.per_tenant:
            return None
        if bucket.idle:
            record = bucket.idle.pop()
            del self._idle[record]
            self._held_by[owner] = self._held_by.get(owner, 0) + 1
            return Grant(record)
        if bucket.live and not bucket.warm:
            return None  # somebody is opening its first connection
        evicted = None
        limit = bucket.server_limit
        if limit is not None and self._live_on[bucket.server] >= limit:
            evicted = self._evictable(bucket.server)
        elif self._live >= self.max_connections:
            evicted = self._evictable(None)
        else:
            return self._permit(bucket, owner, None)
        return None if evicted is None else self._permit(bucket, owner, evicted)

    def _permit(self, bucket: _Bucket, owner: str, evicted: BucketRecord | None) -> Grant:
        if evicted is not None:
            self._unlist(evicted)
            self._uncount(evicted.bucket_key)
        bucket.live += 1
        self._buckets[bucket.key] = bucket
        self._live += 1
        self._live_on[bucket.server] += 1
        self._held_by[owner] = self._held_by.get(owner, 0) + 1
        return Grant(None, evicted)

    def _evictable(self, server: str | None) -> BucketRecord | None:
        elsewhere = None
        for record in self._idle:
            if server is None or self._buckets[record.bucket_key].server == server:
                if record.can_close_here():
                    return record
                elsewhere = elsewhere or record
        if elsewhere is not None:
            elsewhere.close_elsewhere()
        return None

    # Giving back ----------------------------------------------------------------------------

    def opened(self, key: Hashable) -> None:
        """The bucket's first connection is open: let the others in."""
        with self._lock:
            bucket = self._buckets.get(key)
            if bucket is not None and not bucket.warm:
                bucket.warm = True
                self._serve()

    def failed(self, key: Hashable, error: Callable[[], Exception]) -> None:
        """A cold bucket's first connection could not be opened: tell those who wait for it.

        Each gets an *error* of its own: one exception raised twice would mix two tracebacks.
        """
        with self._lock:
            bucket = self._buckets.get(key)
            if bucket is None or bucket.warm:
                return
            for queue in list(self._waiting.values()):
                for waiter in [each for each in queue if each.bucket is bucket]:
                    queue.remove(waiter)
                    try:
                        waiter.future.set_exception(error())
                    except InvalidStateError:
                        pass
            self._waiting = OrderedDict((o, q) for o, q in self._waiting.items() if q)

    def give_back(self, record: BucketRecord, owner: str) -> None:
        """*record* is whole and free for the next."""
        with self._lock:
            self._unhold(owner)
            self._buckets[record.bucket_key].idle.append(record)
            self._idle[record] = None
            if self._waiting:
                self._serve()

    def drop(self, key: Hashable, owner: str | None) -> None:
        """A connection of bucket *key*, held by *owner* (``None``: idle), exists no longer."""
        with self._lock:
            if owner is not None:
                self._unhold(owner)
            self._uncount(key)
            self._serve()

    def hand_back(self, grant: Grant, key: Hashable, owner: str) -> None:
        """A grant that nobody will use."""
        with self._lock:
            self._undo(grant, key, owner)
            self._serve()

    def _undo(self, grant: Grant, key: Hashable, owner: str) -> None:
        self._unhold(owner)
        if grant.record is not None:
            self._buckets[grant.record.bucket_key].idle.append(grant.record)
            self._idle[grant.record] = None
        else:
            self._uncount(key)
        if grant.evicted is not None:
            self._relist(grant.evicted)

    def _relist(self, record: BucketRecord) -> None:
        """*record* was to be closed to make room, and stays: the next to be closed is it."""
        server = record.target.server
        bucket = self._buckets.setdefault(
            record.bucket_key, _Bucket(record.bucket_key, server.name, server.max_connections)
        )
        bucket.live += 1
        bucket.warm = True
        self._live += 1
        self._live_on[bucket.server] += 1
        bucket.idle.append(record)
        self._idle[record] = None
        self._idle.move_to_end(record, last=False)

    def claim_idle(self, record: BucketRecord) -> bool:
        """Take *record* out of the idle ones, if it is still there; :meth:`drop` it when closed."""
        with self._lock:
            if record not in self._idle:
                return False
            self._unlist(record)
            return True

    def pull_idle(self, wanted: Callable[[BucketRecord], bool]) -> list[BucketRecord]:
        """Take the idle records that are *wanted* out of the budget, to be closed."""
        with self._lock:
            records = [record for record in self._idle if wanted(record)]
            for record in records:
                self._unlist(record)
                self._uncount(record.bucket_key)
            self._serve()
        return records

    def _unlist(self, record: BucketRecord) -> None:
        del self._idle[record]
        self._buckets[record.bucket_key].idle.remove(record)

    def _unhold(self, owner: str) -> None:
        held = self._held_by[owner] - 1
        if held > 0:
            self._held_by[owner] = held
        else:
            del self._held_by[owner]

    def _uncount(self, key: Hashable) -> None:
        bucket = self._buckets[key]
        bucket.live -= 1
        self._live -= 1
        self._live_on[bucket.server] -= 1
        if not bucket.live:
            bucket.warm = False
        self._drop_if_empty(bucket)

    def _drop_if_empty(self, bucket: _Bucket) -> None:
        """Nothing is kept for a tenant that has no connection and asks for none."""
        if bucket.live or self._buckets.get(bucket.key) is not bucket:
            return
        if not any(waiter.bucket is bucket for queue in self._waiting.values() for waiter in queue):
            del self._buckets[bucket.key]

    def _serve(self) -> None:
        """Grant what can be granted, tenants in turn; the lock is held."""
        progress = bool(self._waiting)
        while progress:
            progress = False
            for owner in list(self._waiting):
                queue = self._waiting[owner]
                if self._serve_one(queue, owner):
                    progress = True
                    self._waiting.move_to_end(owner)  # who got nothing stays where it was
                if not queue:
                    del self._waiting[owner]

    def _serve_one(self, queue: deque[_Waiter], owner: str) -> bool:
        """Let the first of *owner*'s waiters in for whom there is a connection."""
        if self._held_by.get(owner, 0) >= self.per_tenant:
            return False
        refused: set[Hashable] = set()
        for waiter in queue:
            if waiter.bucket.key in refused:
                continue
            grant = self._try(waiter.bucket, owner)
            if grant is None:
                refused.add(waiter.bucket.key)
                continue
            queue.remove(waiter)
            try:
                waiter.future.set_result(grant)
            except InvalidStateError:  # cancelled at this moment; what it got is for the next
                self._undo(grant, waiter.bucket.key, owner)
            return True
        return False
