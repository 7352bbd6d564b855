"""What routing costs: round trips, CPU, Python calls and memory beside a hand-picked engine.

Each figure is a ratio of one run, its two sides measured in turns, or a count. A PostgreSQL is
started for it, or ``TENANTRY_TEST_POSTGRESQL_URL`` names one.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks.proxy import CountingProxy, counting_proxy
from tenantry import Placement, Server, Tenancy, Tenant
from tenantry.directory import MappingDirectory
from tenantry.testing.address import ServerAddress
from tenantry.testing.postgresql import running_postgresql

DATABASES = ("bench_a", "bench_b", "bench_c", "bench_d")


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]


@contextmanager
def server() -> Iterator[ServerAddress]:
    given = os.environ.get("TENANTRY_TEST_POSTGRESQL_URL")
    if given is None:
        with running_postgresql() as address:
            yield address
        return
    url = sqlalchemy.make_url(given)
    yield ServerAddress(
        url.host or "127.0.0.1",
        url.port or 5432,
        url.username or "postgres",
        str(url.password or ""),
        url.database or "postgres",
        "given",
        "postgresql+psycopg",
    )


class Bench:
    def __init__(self, address: ServerAddress, proxy: CountingProxy | None) -> None:
        self.address = address
        self.proxy = proxy
        self.misses: list[str] = []

    def url(self, driver: str, database: str, *, proxied: bool = False) -> sqlalchemy.URL:
        url = self.address.url(f"postgresql+{driver}", database)
        if proxied:
            assert self.proxy is not None
            url = url.set(host="127.0.0.1", port=self.proxy.port)
        return url

    def tenancy(self, driver: str, *, proxied: bool = False, is_async: bool = False) -> Tenancy:
        plain = "psycopg" if is_async else driver
        place = Server.from_url(
            "main",
            self.url(plain, "postgres", proxied=proxied),
            async_driver=driver if is_async else None,
        )
        tenants = [Tenant(f"t{n}", Placement("main", database=n)) for n in DATABASES]
        servers = {"main": place}
        return Tenancy(MappingDirectory(tenants, servers=servers), servers, max_connections=20)

    def make(self) -> None:
        for name in DATABASES:
            self.address.execute(f"CREATE DATABASE {name}")
            engine = create_engine(self.url("psycopg", name))
            Base.metadata.create_all(engine)
            with Session(engine) as session:
                session.add(Order(id=1, item=name))
                session.commit()
            engine.dispose()

    def drop(self) -> None:
        for name in DATABASES:
            self.address.execute(f"DROP DATABASE {name} WITH (FORCE)")

    # The two sides -------------------------------------------------------------------------

    def sides(self, driver: str, *, proxied: bool = False) -> tuple[Any, Any, Any]:
        engines = {n: create_engine(self.url(driver, n, proxied=proxied)) for n in DATABASES}
        tenancy = self.tenancy(driver, proxied=proxied)

        def hand_picked(name: str) -> None:
            with Session(engines[name]) as session:
                order = session.get(Order, 1)
                assert order is not None
                assert order.item == name
                session.commit()

        def routed(name: str) -> None:
            with tenancy.use(f"t{name}"), tenancy.session() as session:
                order = session.get(Order, 1)
                assert order is not None
                assert order.item == name
                session.commit()

        def close() -> None:
            tenancy.close()
            for engine in engines.values():
                engine.dispose()

        return hand_picked, routed, close

    def check(self, name: str, value: float, limit: float | None, unit: str = "") -> None:
        missed = limit is not None and value > limit
        goal = "" if limit is None else f"   (at most {limit:g}{unit})"
        print(f"  {name:<58}{value:>10.3f}{unit}{goal}{'   MISSED' if missed else ''}")
        if missed:
            self.misses.append(name)

    # Figures -------------------------------------------------------------------------------

    def round_trips(self, driver: str) -> None:
        hand_picked, routed, close = self.sides(driver, proxied=True)
        found = []
        for side in (hand_picked, routed):
            for name in DATABASES * 8:  # psycopg prepares a statement at its sixth use
                side(name)
            before = self.proxy.trips
            for name in DATABASES * 5:
                side(name)
            found.append((self.proxy.trips - before) / (len(DATABASES) * 5))
        close()
        self.check(f"round trips a transaction, hand-picked, {driver}", found[0], None)
        self.check(f"round trips a transaction, routed, {driver}", found[1], found[0])

    async def async_round_trips(self, driver: str) -> None:
        engines = {n: create_async_engine(self.url(driver, n, proxied=True)) for n in DATABASES}
        tenancy = self.tenancy(driver, proxied=True, is_async=True)

        async def hand_picked(name: str) -> None:
            async with AsyncSession(engines[name]) as session:
                await session.get(Order, 1)
                await session.commit()

        async def routed(name: str) -> None:
            async with tenancy.use(f"t{name}"), tenancy.asession() as session:
                await session.get(Order, 1)
                await session.commit()

        found = []
        for side in (hand_picked, routed):
            for name in DATABASES * 8:
                await side(name)
            before = self.proxy.trips
            for name in DATABASES * 5:
                await side(name)
            found.append((self.proxy.trips - before) / (len(DATABASES) * 5))
        await tenancy.aclose()
        for engine in engines.values():
            await engine.dispose()
        self.check(f"round trips a transaction, hand-picked, async {driver}", found[0], None)
        self.check(f"round trips a transaction, routed, async {driver}", found[1], found[0])

    def cpu_and_calls(self, driver: str, pairs: int) -> None:
        hand_picked, routed, close = self.sides(driver)
        for name in DATABASES * 8:
            hand_picked(name)
            routed(name)
        calls = [count_calls(side, DATABASES) for side in (hand_picked, routed)]
        close()
        self.check(f"Python calls, routed : hand-picked, {driver}", calls[1] / calls[0], None)
        ratios, twice = [], []
        for _ in range(pairs):
            ratios += self.compare(driver, 0, 1)
            twice += self.compare(driver, 0, 0)
        noise = statistics.median(twice)
        self.check(f"client CPU, hand-picked : itself, {driver} (noise)", noise, None)
        self.check(f"client CPU, routed : hand-picked, {driver}", statistics.median(ratios), 1.10)

    def compare(self, driver: str, first: int, second: int) -> list[float]:
        """Ratios of the second side's CPU to the first's, batch by batch in turns."""
        ratios = []
        with self.worker(driver, first) as one, self.worker(driver, second) as other:
            for number in range(20):
                both = [one, other] if number % 2 else [other, one]
                spent = {side: side() for side in both}
                ratios.append(spent[other] / spent[one])
        return ratios

    @contextmanager
    def worker(self, driver: str, side: int) -> Iterator[Callable[[], float]]:
        """One side in a process of its own: each call runs a batch and gives its CPU seconds.

        In one process they would spoil each other's: the interpreter adapts its code to the types
        that it meets (PEP 659), and a program has one of the two kinds of connections.
        """
        spawn = multiprocessing.get_context("spawn")
        ours, its = spawn.Pipe()
        process = spawn.Process(target=serve_side, args=(its, self.address, driver, side))
        process.start()
        its.close()

        def batch() -> float:
            ours.send("batch")
            return float(ours.recv())

        try:
            yield batch
        finally:
            ours.close()
            process.join()

    def set_up(self) -> None:
        """Round trips of the first transaction on a tenant never seen before."""
        tenancy = self.tenancy("psycopg", proxied=True)
        trips = []
        for name in DATABASES:
            before = self.proxy.trips
            with tenancy.use(f"t{name}"), tenancy.session() as session:
                session.scalar(text("SELECT 1"))
                session.commit()
            trips.append(self.proxy.trips - before)
        tenancy.close()
        time.sleep(0.3)  # for the farewells
        before = self.proxy.trips

        url = self.url("psycopg", DATABASES[0], proxied=True)
        with psycopg.connect(
            url.render_as_string(hide_password=False).replace("+psycopg", "")
        ) as c:
            c.execute("SELECT 1")
            c.commit()
            bare = self.proxy.trips - before
        self.check("round trips of a bare connection and its transaction", bare, None)
        self.check("the same, a further tenant's first transaction", max(trips[1:]), bare)

    def memory(self, tenants: int) -> None:
        """Megabytes that tenants add, 50 connections among them."""
        place = Server.from_url("main", self.url("psycopg", DATABASES[0]))
        everybody = {
            f"t{n}": Tenant(f"t{n}", Placement("main", database=DATABASES[0]), key=f"k{n}")
            for n in range(tenants)
        }
        tenancy = Tenancy(_Known(everybody), {"main": place}, max_connections=50)

        def visit(tenant_id: str) -> None:
            with tenancy.use(tenant_id), tenancy.session() as session:
                session.get(Order, 1)
                session.commit()

        for number in range(60):
            visit(f"t{number}")
        gc.collect()
        before = resident_mb()
        for tenant_id in everybody:
            visit(tenant_id)
        gc.collect()
        grown = resident_mb() - before
        live = tenancy.status()["live"]
        tenancy.close()
        self.check(f"MB that {tenants} tenants add ({live} connections open)", grown, 20.0, " MB")

    def entering(self) -> None:
        tenancy = self.tenancy("psycopg")
        tenant_id = f"t{DATABASES[0]}"

        def enter(times: int) -> float:
            started = time.perf_counter()
            for _ in range(times):
                with tenancy.use(tenant_id):
                    pass
            return (time.perf_counter() - started) / times * 1e6

        best = min(enter(2000) for _ in range(20))
        self.check("entering and leaving a tenant", best, 5.0, " us")


class _Known:
    """A directory of tenants that stand in one database, which a real one refuses."""

    def __init__(self, tenants: dict[str, Tenant]) -> None:
        self._tenants = tenants

    def get(self, tenant_id: str) -> Tenant:
        return self._tenants[tenant_id]

    find = get

    def peek(self, tenant_id: str) -> Tenant | None:
        return self._tenants.get(tenant_id)

    def tenants(self) -> list[Tenant]:
        return list(self._tenants.values())


def count_calls(side: Callable[[str], None], names: Sequence[str]) -> float:
    """Calls of Python functions for each run of *side*."""
    count = 0

    def profile(_: object, event: str, __: object) -> None:
        nonlocal count
        count += event == "call"

    gc.disable()
    sys.setprofile(profile)
    try:
        for name in names:
            side(name)
    finally:
        sys.setprofile(None)
        gc.enable()
    return count / len(names)


def cpu(side: Callable[[str], None], names: Sequence[str]) -> float:
    """Seconds of this thread's CPU."""
    started = time.thread_time()
    for name in names:
        side(name)
    return time.thread_time() - started


def serve_side(pipe: Any, address: ServerAddress, driver: str, side: int) -> None:
    """A worker's life: a batch of transactions for each message, until the pipe is closed."""
    *sides, close = Bench(address, None).sides(driver)
    transaction = sides[side]
    for name in DATABASES * 100:
        transaction(name)
    gc.collect()
    gc.disable()
    with suppress(EOFError):
        while pipe.recv():
            pipe.send(cpu(transaction, DATABASES * 10))
    close()


def resident_mb() -> float:
    """The process's resident memory, or its largest so far where /proc is missing."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> list[str]:
    """Print every figure; the names of those that miss their goal are returned."""
    full = "--full" in sys.argv
    with server() as address, counting_proxy(address.host, address.port) as proxy:
        bench = Bench(address, proxy)
        bench.make()
        try:
            for driver in ("psycopg", "psycopg2"):
                bench.round_trips(driver)
            for driver in ("psycopg", "asyncpg"):
                asyncio.run(bench.async_round_trips(driver))
            bench.set_up()
            for driver in ("psycopg", "psycopg2"):
                bench.cpu_and_calls(driver, pairs=20 if full else 8)
            bench.memory(1000 if full else 300)
            bench.entering()
        finally:
            bench.drop()
    if bench.misses:
        print("\nmissed: " + ", ".join(bench.misses))
    return bench.misses


if __name__ == "__main__":
    sys.exit(bool(main()))
