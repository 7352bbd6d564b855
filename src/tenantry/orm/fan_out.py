"""One statement, many tenants: reads on purpose, one tenant after the other or several at once.

Each tenant's rows are read in a session of that tenant, in its own context; what leaves is the
tenant id and the row. Rows stream: a tenant's are read in portions, and a slow consumer stops
the readers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from sqlalchemy import Result, Row, Select
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import CompoundSelect

from .. import context, events
from ..errors import CallerError
from ..tenant import Tenant

__all__ = ["fan_out"]

_PORTION = 500
_END = object()

TenantRow = tuple[str, Row[Any]]
Readable = Select[Any] | CompoundSelect[Any]


def fan_out(
    statement: Readable,
    tenants: Sequence[Tenant],
    open_session: Callable[[Tenant], Session],
    *,
    permission: str,
    workers: int = 1,
) -> Generator[TenantRow, None, None]:
    """Yield ``(tenant id, row)`` of *statement* for each tenant.

    With one worker the tenants come in their order; with more, as they are read. Emits
    :class:`~tenantry.events.FannedOut` with *permission* before the first row.

    Raises:
        CallerError: A tenant is current, no permission is given, or the statement writes.
    """
    current = context.current()
    if current is not None:
        raise CallerError(
            f"tenant {current.id!r} is current, and reading many tenants is nobody's request; "
            "do it inside `with tenancy.shared()`",
            tenant_id=current.id,
        )
    if not context.in_shared():
        raise CallerError("reading many tenants is done inside `with tenancy.shared()`")
    if not permission.strip():
        raise CallerError("say in `permission` who or what allows to read many tenants")
    if not isinstance(statement, (Select, CompoundSelect)):
        raise CallerError("fan_out reads: give it a select(); tenancy.each() runs anything else")
    if workers < 1:
        raise CallerError("workers is at least 1")
    if events.listening():
        events.emit(events.FannedOut(None, permission, tuple(each.id for each in tenants)))
    if workers == 1:
        return _one_by_one(statement, tenants, open_session)
    return _side_by_side(statement, tenants, open_session, workers)


def _rows(
    statement: Readable, tenant: Tenant, open_session: Callable[[Tenant], Session]
) -> Generator[Sequence[Row[Any]], None, None]:
    """The rows of one tenant in portions; the tenant is current while one is fetched."""
    with context.use(tenant, switch=True):
        session = open_session(tenant)
    with closing(session):
        with context.use(tenant, switch=True):
            result: Result[Any] = session.execute(
                statement, execution_options={"yield_per": _PORTION}
            )
        with closing(result):
            portions = result.partitions(_PORTION)
            while True:
                with context.use(tenant, switch=True):
                    portion = next(portions, None)
                if portion is None:
                    return
                yield portion


def _one_by_one(
    statement: Readable, tenants: Sequence[Tenant], open_session: Callable[[Tenant], Session]
) -> Generator[TenantRow, None, None]:
    for tenant in tenants:
        with closing(_rows(statement, tenant, open_session)) as portions:
            for portion in portions:
                for row in portion:
                    yield tenant.id, row


def _side_by_side(
    statement: Readable,
    tenants: Sequence[Tenant],
    open_session: Callable[[Tenant], Session],
    workers: int,
) -> Generator[TenantRow, None, None]:
    ready: queue.Queue[Any] = queue.Queue(maxsize=2 * workers)
    stopped = threading.Event()

    def put(item: Any) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def read(tenant: Tenant) -> None:
        try:
            with closing(_rows(statement, tenant, open_session)) as portions:
                for portion in portions:
                    put((tenant.id, portion))
                    if stopped.is_set():
                        return
            put((tenant.id, _END))
        except BaseException as error:
            put((tenant.id, error))

    executor = ThreadPoolExecutor(workers, thread_name_prefix="tenantry-fan-out")
    try:
        for tenant in tenants:
            executor.submit(read, tenant)
        left = len(tenants)
        while left:
            tenant_id, item = ready.get()
            if item is _END:
                left -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                for row in item:
                    yield tenant_id, row
    finally:
        stopped.set()
        executor.shutdown(cancel_futures=True)
