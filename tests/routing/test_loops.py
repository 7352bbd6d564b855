"""Connections belong to their event loop; the budget is one for all loops and all threads."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, text

from tenantry import Isolation, Tenancy
from tests.places import KINDS, Kind, Place

ASYNC = [kind for kind in KINDS if kind.is_async and kind.isolation is Isolation.DATABASE]
each_async_kind = pytest.mark.parametrize("place", ASYNC, indirect=True, ids=str)
TENANTS = ("uk", "aus", "eu")


@pytest.fixture
def tenancy(place: Place, caplog: pytest.LogCaptureFixture) -> Iterator[Tenancy]:
    tenancy = place.tenancy(*TENANTS, tables=False, max_connections=2, wait_seconds=10)
    with caplog.at_level(logging.ERROR):
        yield tenancy
        tenancy.close()
    assert caplog.messages == []  # SQLAlchemy logs connections that it could not close


async def ask(tenancy: Tenancy, tenant_id: str) -> int:
    async with tenancy.use(tenant_id), tenancy.asession() as session:
        result = await session.scalar(text("SELECT 1"))
        assert isinstance(result, int)
        return result


def server_connections(place: Place) -> int:
    """How many connections to the place's databases the server has."""
    if place.address is None:
        return 0
    names = ", ".join(f"'{name}'" for name in place._made)
    if place.kind.server == "postgresql":
        query = f"SELECT count(*) FROM pg_stat_activity WHERE datname IN ({names})"
    else:
        query = f"SELECT count(*) FROM information_schema.processlist WHERE db IN ({names})"
    return int(place.address.execute(query)[0][0])


@each_async_kind
def test_connections_of_a_loop_that_ended_make_room_for_the_next(
    place: Place, tenancy: Tenancy
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of the sockets that such loops leave
        for _ in range(3):
            for tenant_id in TENANTS:
                assert asyncio.run(asyncio.wait_for(ask(tenancy, tenant_id), 5)) == 1
        assert tenancy.status()["held_by"] == {}
        tenancy.close()
        gc.collect()


@pytest.mark.newest  # aiosqlite makes no future for its end before 0.22
@pytest.mark.parametrize("place", [Kind("sqlite", "aiosqlite", True)], indirect=True, ids=str)
def test_a_thread_of_aiosqlite_ends_after_the_loop_that_ended_it(
    place: Place, tenancy: Tenancy
) -> None:
    """It is busy when the next loop takes its place, and tells no loop that is gone by then."""
    ended = threading.Event()
    threads: list[Any] = []

    async def first() -> None:
        with tenancy.use("uk"):
            engine = tenancy.aengine.sync_engine

        @event.listens_for(engine, "connect")
        def connect(connection: Any, _record: object) -> None:
            threads.append(connection.driver_connection)

        for tenant_id in ("uk", "aus"):
            await ask(tenancy, tenant_id)
        for each in threads:
            each._tx.put_nowait((None, ended.wait))

    asyncio.run(first())
    assert len(threads) == 2
    asyncio.run(ask(tenancy, "eu"))
    tenancy.close()
    ended.set()
    for each in threads:
        each._thread.join(10)
        assert not each._thread.is_alive()


@each_async_kind
def test_loops_in_threads_take_idle_connections_from_each_other(
    place: Place, tenancy: Tenancy
) -> None:
    failures: list[BaseException] = []
    barrier = threading.Barrier(3)

    async def work(own: int) -> None:
        for number in range(12):
            await ask(tenancy, TENANTS[(own + number) % len(TENANTS)])
            await asyncio.sleep(0.01)
        await asyncio.to_thread(barrier.wait)
        # Both loops still run: what the other one closed is really gone from the server.
        await asyncio.sleep(0.3)
        await asyncio.to_thread(barrier.wait)
        if own == 0:
            await tenancy.aclose()  # the other loop's too, and it runs until that is done
            await asyncio.sleep(0.3)
        await asyncio.to_thread(barrier.wait)

    def thread(own: int) -> None:
        try:
            asyncio.run(work(own))
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=thread, args=(each,)) for each in range(2)]
    for each in threads:
        each.start()
    open_now = 0
    with contextlib.suppress(threading.BrokenBarrierError):
        barrier.wait(60)
        time.sleep(0.2)
        open_now = server_connections(place)
        barrier.wait(60)
        barrier.wait(60)
    for each in threads:
        each.join()
    assert failures == []
    assert open_now <= 2


@pytest.mark.parametrize(
    "place",
    [
        Kind("postgresql", "psycopg", True),
        Kind("postgresql", "asyncpg", True),
        Kind("mariadb", "aiomysql", True),
    ],
    indirect=True,
    ids=str,
)
def test_threads_and_a_loop_share_one_budget(place: Place, tenancy: Tenancy) -> None:
    async def work() -> None:
        for number in range(8):
            tenant_id = TENANTS[number % len(TENANTS)]
            await ask(tenancy, tenant_id)
            await asyncio.to_thread(in_thread, TENANTS[(number + 1) % len(TENANTS)])
        await asyncio.sleep(0.2)
        assert server_connections(place) <= 2
        await tenancy.aclose()

    def in_thread(tenant_id: str) -> None:
        with tenancy.use(tenant_id), tenancy.session() as session:
            session.scalar(text("SELECT 1"))

    asyncio.run(work())
