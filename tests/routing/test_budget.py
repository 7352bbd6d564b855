"""The budget: never exceeded, fair, bounded in time, one attempt for a cold tenant."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from tenantry import Placement, Tenancy, Tenant, events
from tenantry.directory import MappingDirectory
from tenantry.errors import BudgetExhaustedError, PlacementMissingError
from tests.places import Kind, Place
from tests.routing.test_servers import ask
from tests.threads import in_threads

SLOW = "SELECT 1 FROM pg_sleep({seconds})"


class OneDatabase(MappingDirectory):
    """Many tenants whose databases are one, which saves making hundreds of them."""

    def _check_free(self, *_: Any, **__: Any) -> None: ...


def many(place: Place, count: int, **options: Any) -> Tenancy:
    database = place.database("many")
    servers = {"main": place.server()}
    tenants = [
        Tenant(f"t{number}", Placement("main", database=database), key=f"key{number}")
        for number in range(count)
    ]
    return Tenancy(OneDatabase(tenants), servers, **options)


def sleep(tenancy: Tenancy, tenant_id: str, seconds: float) -> None:
    with tenancy.use(tenant_id), tenancy.session() as session:
        session.execute(text(SLOW.format(seconds=seconds)))


class Sampler:
    """Counts, as the server sees them, the connections to a database while a block runs."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.most = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        assert self.place.address is not None
        url = self.place.address.url("postgresql").render_as_string(hide_password=False)
        names = list(self.place._made)
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = ANY(%s) "
            "AND backend_type = 'client backend'"
        )
        with psycopg.connect(url, autocommit=True) as connection:
            while not self._stop.is_set():
                row = connection.execute(query, (names,)).fetchone()
                self.most = max(self.most, row[0] if row else 0)
                time.sleep(0.01)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()


def test_200_tenants_and_16_threads_stay_within_20_connections(
    place: Place, close: list[Tenancy]
) -> None:
    tenancy = many(place, 200, max_connections=20)
    close.append(tenancy)

    def work(number: int) -> int:
        dice = random.Random(number)
        for _ in range(25):
            ask(tenancy, f"t{dice.randrange(200)}")
            status = tenancy.status()
            assert isinstance(status["live"], int)
            assert status["live"] <= 20
        return 1

    numbers = iter(range(16))
    sampler = Sampler(place)
    with sampler.running():
        assert in_threads(16, lambda: work(next(numbers))) == [1] * 16
    # A backend that was told to end takes a moment to leave the server's list.
    assert 0 < sampler.most <= 20 + 4
    assert tenancy.status()["held_by"] == {}
    assert tenancy.status()["waiting"] == 0


def test_one_flooder_does_not_keep_others_out(place: Place, close: list[Tenancy]) -> None:
    tenancy = many(place, 4, max_connections=4)
    close.append(tenancy)
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            sleep(tenancy, "t0", 0.05)

    floods = [threading.Thread(target=flood) for _ in range(12)]
    for each in floods:
        each.start()
    time.sleep(0.2)
    waited = []
    try:
        for number in range(30):
            held = tenancy.status()["held_by"]
            assert isinstance(held, dict)
            assert held.get("t0", 0) <= 2, "half of the budget at most"
            started = time.monotonic()
            ask(tenancy, f"t{1 + number % 3}")
            waited.append(time.monotonic() - started)
    finally:
        stop.set()
        for each in floods:
            each.join()
    assert sorted(waited)[15] < 0.5
    assert max(waited) < 5


def test_waiters_take_turns_by_tenant(place: Place, close: list[Tenancy]) -> None:
    """With one connection and two tenants who wait, neither gets it twice in a row."""
    tenancy = many(place, 3, max_connections=1, per_tenant=1)
    close.append(tenancy)
    order: list[str] = []
    start = threading.Event()

    def wait(tenant_id: str) -> None:
        start.wait()
        with tenancy.use(tenant_id), tenancy.session() as session:
            session.execute(text("SELECT 1"))
            order.append(tenant_id)

    with tenancy.use("t0"), tenancy.session() as session:
        session.execute(text("SELECT 1"))
        threads = [
            threading.Thread(target=wait, args=(tenant_id,))
            for tenant_id in ["t1"] * 6 + ["t2"] * 6
        ]
        for each in threads:
            each.start()
        start.set()
        while tenancy.status()["waiting"] != 12:
            time.sleep(0.01)
    for each in threads:
        each.join()
    assert Counter(order) == {"t1": 6, "t2": 6}
    assert Counter(order[:6])["t2"] == 3


def test_the_deadline_says_who_holds_what(place: Place, close: list[Tenancy]) -> None:
    tenancy = many(place, 3, max_connections=2, wait_seconds=0.2)
    close.append(tenancy)
    with (
        tenancy.use("t0"),
        tenancy.session() as one,
        tenancy.use("t1", switch=True),
        tenancy.session() as two,
    ):
        two.execute(text("SELECT 1"))
        with tenancy.use("t0", switch=True):
            one.execute(text("SELECT 1"))
        with (
            tenancy.use("t2", switch=True),
            tenancy.session() as three,
            pytest.raises(BudgetExhaustedError) as caught,
        ):
            three.execute(text("SELECT 1"))
    message = str(caught.value)
    assert "tenant 't2' got no connection within 0.2 s" in message
    assert "2 of 2 overall" in message
    assert "t0 1" in message
    assert "t1 1" in message
    assert caught.value.tenant_id == "t2"
    assert ask(tenancy, "t2") == 1


def test_the_least_recently_used_connection_makes_room(place: Place, close: list[Tenancy]) -> None:
    tenancy = many(place, 4, max_connections=3, per_tenant=1)
    close.append(tenancy)
    closed: list[str | None] = []
    for tenant_id in ("t0", "t1", "t2", "t0"):
        ask(tenancy, tenant_id)
    stop = events.listen(
        lambda each: (
            closed.append(each.tenant_id) if isinstance(each, events.ConnectionClosed) else None
        )
    )
    ask(tenancy, "t3")
    ask(tenancy, "t0")
    stop()
    assert closed == ["t1"]


def test_a_servers_own_limit_and_a_tenants(place: Place, close: list[Tenancy]) -> None:
    database = place.database("limits")
    servers = {"main": place.server(max_connections=2)}
    tenants = [Tenant(f"t{n}", Placement("main", database=database), key=f"k{n}") for n in range(5)]
    tenancy = Tenancy(OneDatabase(tenants), servers, max_connections=50, per_tenant=1)
    close.append(tenancy)
    sampler = Sampler(place)
    with sampler.running():
        numbers = iter(range(10))
        in_threads(10, lambda: sleep(tenancy, f"t{next(numbers) % 5}", 0.05))
    assert 0 < sampler.most <= 2 + 1
    assert tenancy.status()["live_on"] == {"main": 2}


def test_500_cold_requests_open_one_connection_first(place: Place, close: list[Tenancy]) -> None:
    tenancy = many(place, 1, max_connections=8)
    close.append(tenancy)
    opened: list[float] = []
    stop = events.listen(
        lambda each: (
            opened.append(time.monotonic()) if isinstance(each, events.ConnectionOpened) else None
        )
    )

    async def herd() -> list[int]:
        async def one() -> int:
            async with tenancy.use("t0"), tenancy.asession() as session:
                return await session.scalar(text("SELECT 1")) or 0

        try:
            return await asyncio.gather(*(one() for _ in range(500)))
        finally:
            await tenancy.aclose()

    assert asyncio.run(herd()) == [1] * 500
    stop()
    assert len(opened) <= 4


@pytest.mark.parametrize(
    "place", [Kind("postgresql", "psycopg"), Kind("mariadb", "pymysql")], indirect=True, ids=str
)
def test_a_herd_on_a_missing_database_makes_few_attempts(
    place: Place, close: list[Tenancy]
) -> None:
    servers = {"main": place.server()}
    gone = Tenant("gone", Placement("main", database="there_is_none"))
    tenancy = Tenancy(MappingDirectory([gone], servers=servers), servers, max_connections=20)
    close.append(tenancy)

    def refused() -> str | None:
        with pytest.raises(PlacementMissingError) as caught:
            ask(tenancy, "gone")
        return caught.value.tenant_id

    assert in_threads(60, refused) == ["gone"] * 60
    assert tenancy.status()["live"] in (0, 1)
    assert tenancy.status()["held_by"] == {}


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_cancelled_leader_hands_over(place: Place, close: list[Tenancy], driver: str) -> None:
    place.kind = Kind("postgresql", driver, True)
    tenancy = many(place, 1, max_connections=8)
    close.append(tenancy)

    async def one() -> int:
        async with tenancy.use("t0"), tenancy.asession() as session:
            return await session.scalar(text("SELECT 1")) or 0

    async def herd() -> list[Any]:
        tasks = [asyncio.ensure_future(one()) for _ in range(50)]
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        tasks[0].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        await tenancy.aclose()
        return done

    first, *rest = asyncio.run(herd())
    assert isinstance(first, asyncio.CancelledError) or first == 1
    assert rest == [1] * 49
    assert tenancy.status()["held_by"] == {}


def test_a_new_generation_closes_what_the_old_one_opened(
    place: Place, close: list[Tenancy]
) -> None:
    servers = {"main": place.server()}
    tenant = Tenant("uk", Placement("main", database=place.database("before")))
    directory = MappingDirectory([tenant], servers=servers)
    tenancy = Tenancy(directory, servers, max_connections=4)
    close.append(tenancy)
    before = tenancy.get("uk")
    where = text("SELECT current_database()")
    with tenancy.use("uk"), tenancy.session() as session:
        assert session.scalar(where) == before.placement.database
    with tenancy.use("uk"), tenancy.session() as held:
        held.execute(where)
        moved = Tenant("uk", Placement("main", database=place.database("after")), key=before.key)
        directory.replace(moved, expected=before)
        with tenancy.session() as other:
            assert other.scalar(where) == moved.placement.database
        held.commit()
        assert held.scalar(where) == moved.placement.database
    assert place.address is not None
    query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{before.placement.database}'"
    for _ in range(50):
        if place.address.execute(query) == [(0,)]:
            break
        time.sleep(0.02)
    assert place.address.execute(query) == [(0,)]


def test_dispose_closes_what_is_idle_now_and_what_is_used_later(
    place: Place, close: list[Tenancy]
) -> None:
    tenancy = many(place, 2, max_connections=4)
    close.append(tenancy)
    ask(tenancy, "t0")
    with tenancy.use("t1"), tenancy.session() as session:
        session.execute(text("SELECT 1"))
        tenancy.close()
        assert tenancy.status()["live"] == 1
        session.execute(text("SELECT 1"))
    assert tenancy.status()["live"] == 0
    assert ask(tenancy, "t1") == 1
