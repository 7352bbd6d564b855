"""Every way to reach a tenant on PostgreSQL beside a plain engine: round trips, and wall time at
one millisecond of network.

The same ORM transaction of the same model (begin, one select, commit) on each, in turns, through
a proxy that counts and holds back. Each side is a process of its own, as in ``routing``, and the
plain one has as many engines as the other has connections: one for each tenant, or one for all
where they share it.
Two processes of the same code differ by more than what is measured here, so each way has several
pairs of them; what counts is the median of the pairs.
A PostgreSQL is started for it, or ``TENANTRY_TEST_POSTGRESQL_URL`` names one.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from benchmarks.proxy import CountingProxy, counting_proxy
from benchmarks.routing import server
from tenantry import Isolation
from tenantry.tenant import Switch
from tenantry.testing.address import ServerAddress
from tests.places import KINDS, Author, Base, Door, Kind, Place, made

KEYS = {"uk": 1, "aus": 2}  # the row that each tenant reads
TENANTS = list(KEYS)
ROUND_TRIP = 0.001  # seconds
Transaction = Callable[[str], Awaitable[None]]
Close = Callable[[], Awaitable[None]]


def plain_side(place: Place) -> tuple[Transaction, Close]:
    """The transaction on engines that somebody made for databases of their own."""
    shared = place.kind.isolation is not Isolation.DATABASE and place.kind.switch in (
        None,
        Switch.MAP,
    )
    urls = {}
    for tenant_id in TENANTS[:1] if shared else TENANTS:
        urls[tenant_id] = plain_database(place)
    if shared:
        urls = dict.fromkeys(TENANTS, urls[TENANTS[0]])
    if place.kind.is_async:
        aengines = {url: create_async_engine(url) for url in urls.values()}

        async def awaited(tenant_id: str) -> None:
            async with AsyncSession(aengines[urls[tenant_id]]) as session:
                assert await session.get(Author, KEYS[tenant_id]) is not None
                await session.commit()

        async def adispose() -> None:
            for engine in aengines.values():
                await engine.dispose()

        return awaited, adispose
    engines = {url: create_engine(url) for url in urls.values()}

    async def blocking(tenant_id: str) -> None:
        with Session(engines[urls[tenant_id]]) as session:
            assert session.get(Author, KEYS[tenant_id]) is not None
            session.commit()

    async def dispose() -> None:
        for engine in engines.values():
            engine.dispose()

    return blocking, dispose


def plain_database(place: Place) -> sqlalchemy.URL:
    """A new database with the rows of all; its address."""
    assert place.address is not None
    url = place.address.url("postgresql+psycopg", place.database("plain"))
    owner = create_engine(url)
    Base.metadata.create_all(owner)
    with Session(owner) as session:
        session.add_all(Author(id=key, name="plain", tenant_id=name) for name, key in KEYS.items())
        session.commit()
    owner.dispose()
    return url.set(drivername=f"postgresql+{place.kind.driver}")


def routed_side(place: Place) -> tuple[Transaction, Close]:
    tenancy = place.tenancy(*TENANTS, max_connections=4)
    for tenant_id, key in KEYS.items():
        author = Author(id=key, name=tenant_id)
        Door(tenancy, place.kind.is_async).run(tenant_id, adder(author))
    if place.kind.is_async:

        async def awaited(tenant_id: str) -> None:
            async with tenancy.use(tenant_id), tenancy.asession() as session:
                assert await session.get(Author, KEYS[tenant_id]) is not None
                await session.commit()

        return awaited, tenancy.aclose

    async def blocking(tenant_id: str) -> None:
        with tenancy.use(tenant_id), tenancy.session() as session:
            assert session.get(Author, KEYS[tenant_id]) is not None
            session.commit()

    return blocking, tenancy.aclose


def adder(author: Author) -> Callable[[Session], None]:
    return lambda session: session.add(author)


def serve_side(pipe: Any, address: ServerAddress, kind: Kind, routed: bool) -> None:
    """A side's process: so many transactions for each tenant when asked, and their seconds."""

    async def serve(place: Place) -> None:
        transaction, close = await asyncio.to_thread(routed_side if routed else plain_side, place)
        times = 8  # psycopg prepares a statement at its sixth use
        while times:
            started = time.perf_counter()
            for tenant_id in TENANTS * times:
                await transaction(tenant_id)
            pipe.send(time.perf_counter() - started)
            times = pipe.recv()
        await close()

    with tempfile.TemporaryDirectory() as folder, made(kind, Path(folder), address) as place:
        asyncio.run(serve(place))


@contextmanager
def side(address: ServerAddress, kind: Kind, routed: bool) -> Iterator[Callable[[int], float]]:
    """Runs so many transactions for each tenant in the side's process; gives their seconds."""
    spawn = multiprocessing.get_context("spawn")
    ours, its = spawn.Pipe()
    process = spawn.Process(target=serve_side, args=(its, address, kind, routed))
    process.start()
    its.close()
    ours.recv()  # warm

    def run(times: int) -> float:
        ours.send(times)
        return float(ours.recv())

    try:
        yield run
    finally:
        ours.send(0)
        process.join()


def compare(
    address: ServerAddress, kind: Kind, proxy: CountingProxy, rounds: int
) -> tuple[float, float, float]:
    """A pair: round trips of the plain one and of the routed one, the ratio of their wall times."""
    with side(address, kind, False) as plain, side(address, kind, True) as routed:
        trips = []
        for run in (plain, routed):
            before = proxy.trips
            run(5)
            trips.append((proxy.trips - before) / (len(TENANTS) * 5))
        ratios = []
        proxy.delay = ROUND_TRIP / 2
        for number in range(rounds):
            both = (plain, routed) if number % 2 else (routed, plain)
            seconds = {run: run(3) for run in both}
            ratios.append(seconds[routed] / seconds[plain])
        proxy.delay = 0.0
    return trips[0], trips[1], statistics.median(ratios)


def measured(kind: Kind) -> bool:
    return kind.server == "postgresql" and not kind.pooled


def main() -> list[str]:
    """Print a line for each way; those that miss the goal are returned."""
    pairs, rounds = (5, 40) if "--full" in sys.argv else (1, 30)
    missed = []
    print(f"  {'':<42} round trips, plain and routed   wall time at 1 ms (at most 1.05)")
    with server() as address, counting_proxy(address.host, address.port) as proxy:
        through = replace(address, host="127.0.0.1", port=proxy.port)
        for kind in filter(measured, KINDS):
            found = [compare(through, kind, proxy, rounds) for _ in range(pairs)]
            plain, routed = (max(pair[side] for pair in found) for side in (0, 1))
            ratios = [pair[2] for pair in found]
            ratio = statistics.median(ratios)
            is_missed = routed > plain or ratio > 1.05
            missed += [str(kind)] * is_missed
            note = f"   {min(ratios):.3f} to {max(ratios):.3f}" + "   MISSED" * is_missed
            print(f"  {kind!s:<42}{plain:>8.2f}{routed:>8.2f}{ratio:>28.3f}{note}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(bool(main()))
