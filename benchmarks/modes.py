"""Every way to reach a tenant on PostgreSQL beside a plain engine: round trips, and wall time at
one millisecond of network.

The same ORM transaction (begin, one select, commit) on each, in turns, through a proxy that counts
and holds back. A PostgreSQL is started for it, or ``TENANTRY_TEST_POSTGRESQL_URL`` names one.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from sqlalchemy import String, create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks.proxy import CountingProxy, counting_proxy
from benchmarks.routing import server
from tests.places import KINDS, Author, Door, Kind, Place, made

KEYS = {"uk": 1, "aus": 2}  # the row that each tenant reads
TENANTS = list(KEYS)
ROUND_TRIP = 0.001  # seconds
Transaction = Callable[[str], Awaitable[None]]


class Plain(DeclarativeBase):
    pass


class PlainAuthor(Plain):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80))


def plain_side(place: Place) -> tuple[Transaction, Callable[[], Awaitable[None]]]:
    """The transaction on an engine that somebody made for a database of its own."""
    assert place.address is not None
    url = place.address.url("postgresql+psycopg", place.database("plain"))
    owner = create_engine(url)
    Plain.metadata.create_all(owner)
    with Session(owner) as session:
        session.add_all(PlainAuthor(id=key, name="plain") for key in KEYS.values())
        session.commit()
    owner.dispose()
    url = url.set(drivername=f"postgresql+{place.kind.driver}")
    if place.kind.is_async:
        engine = create_async_engine(url)

        async def awaited(tenant_id: str) -> None:
            async with AsyncSession(engine) as session:
                assert await session.get(PlainAuthor, KEYS[tenant_id]) is not None
                await session.commit()

        return awaited, engine.dispose
    plain = create_engine(url)

    async def blocking(tenant_id: str) -> None:
        with Session(plain) as session:
            assert session.get(PlainAuthor, KEYS[tenant_id]) is not None
            session.commit()

    async def dispose() -> None:
        plain.dispose()

    return blocking, dispose


def routed_side(place: Place) -> tuple[Transaction, Callable[[], Awaitable[None]]]:
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


async def compare(
    plain: Transaction, routed: Transaction, proxy: CountingProxy, rounds: int
) -> tuple[float, float, float]:
    """Round trips of the plain one and of the routed one, and the ratio of their wall times."""
    trips = []
    for side in (plain, routed):
        for tenant_id in TENANTS * 8:  # psycopg prepares a statement at its sixth use
            await side(tenant_id)
        before = proxy.trips
        for tenant_id in TENANTS * 5:
            await side(tenant_id)
        trips.append((proxy.trips - before) / (len(TENANTS) * 5))
    ratios = []
    proxy.delay = ROUND_TRIP / 2
    for number in range(rounds):
        seconds = {}
        for side in (plain, routed) if number % 2 else (routed, plain):
            started = time.perf_counter()
            for tenant_id in TENANTS * 3:
                await side(tenant_id)
            seconds[side] = time.perf_counter() - started
        ratios.append(seconds[routed] / seconds[plain])
    proxy.delay = 0.0
    return trips[0], trips[1], statistics.median(ratios)


async def both(place: Place, proxy: CountingProxy, rounds: int) -> tuple[float, float, float]:
    routed, close = await asyncio.to_thread(routed_side, place)
    plain, dispose = await asyncio.to_thread(plain_side, place)
    try:
        return await compare(plain, routed, proxy, rounds)
    finally:
        await close()
        await dispose()


def measured(kind: Kind) -> bool:
    return kind.server == "postgresql" and not kind.pooled


def main() -> list[str]:
    """Print a line for each way; those that miss the goal are returned."""
    rounds = 100 if "--full" in sys.argv else 30
    missed = []
    print(f"  {'':<42} round trips, plain and routed   wall time at 1 ms (at most 1.05)")
    with server() as address, counting_proxy(address.host, address.port) as proxy:
        through = replace(address, host="127.0.0.1", port=proxy.port)
        for kind in filter(measured, KINDS):
            with (
                tempfile.TemporaryDirectory() as folder,
                made(kind, Path(folder), through) as place,
            ):
                plain, routed, ratio = asyncio.run(both(place, proxy, rounds))
            is_missed = routed > plain or ratio > 1.05
            missed += [str(kind)] * is_missed
            note = "   MISSED" if is_missed else ""
            print(f"  {kind!s:<42}{plain:>8.2f}{routed:>8.2f}{ratio:>28.3f}{note}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(bool(main()))
