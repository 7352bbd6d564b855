"""A connection that the server ends is an error once, for its own tenant, and then gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from tenantry import Isolation, Tenancy
from tenantry.errors import ServerUnavailableError
from tests.places import KINDS, Author, Kind, Place

POSTGRESQL = [
    kind
    for kind in KINDS
    if kind.server == "postgresql" and kind.isolation is not Isolation.ROWS and not kind.pooled
]
PID = text("SELECT pg_backend_pid()")


@pytest.fixture
def tenancy(place: Place) -> Iterator[Tenancy]:
    tenancy = place.tenancy("uk", "aus", max_connections=6, per_tenant=4)
    yield tenancy
    tenancy.close()


async def run(
    tenancy: Tenancy, is_async: bool, tenant_id: str, body: Callable[[Session], int]
) -> int:
    if is_async:
        async with tenancy.use(tenant_id), tenancy.asession() as asession:
            return await asession.run_sync(body)
    with tenancy.use(tenant_id), tenancy.session() as session:
        return body(session)


def pid(session: Session) -> int:
    return session.scalar(PID) or 0


@pytest.mark.parametrize("place", POSTGRESQL, indirect=True, ids=str)
async def test_a_killed_connection_is_an_error_once(place: Place, tenancy: Tenancy) -> None:
    is_async = place.kind.is_async

    def killed_in_transaction(session: Session) -> int:
        session.add(Author(id=1, name="never"))
        session.flush()
        assert place.address is not None
        place.address.execute(f"SELECT pg_terminate_backend({pid(session)})")
        session.scalars(select(Author.name)).all()
        return 0

    with pytest.raises(DBAPIError):
        await run(tenancy, is_async, "uk", killed_in_transaction)
    assert tenancy.status()["held_by"] == {}

    # Idle: those that are found dead say so as a database error, and are gone after it.
    number = await run(tenancy, is_async, "uk", pid)
    assert place.address is not None
    place.address.execute(f"SELECT pg_terminate_backend({number})")
    for _ in range(3):
        try:
            assert await run(tenancy, is_async, "uk", pid) != number
            break
        except DBAPIError:
            await asyncio.sleep(0)
    for _ in range(3):
        count = await run(tenancy, is_async, "uk", lambda s: len(s.scalars(select(Author)).all()))
        assert count == 0
    await tenancy.aclose()


@pytest.mark.parametrize(
    "place",
    [kind for kind in POSTGRESQL if kind.isolation is Isolation.DATABASE],
    indirect=True,
    ids=str,
)
async def test_one_tenants_lost_connection_closes_nobody_elses(
    place: Place, tenancy: Tenancy
) -> None:
    is_async = place.kind.is_async
    others = await run(tenancy, is_async, "aus", pid)
    number = await run(tenancy, is_async, "uk", pid)
    assert place.address is not None
    place.address.execute(f"SELECT pg_terminate_backend({number})")
    for _ in range(3):
        try:
            await run(tenancy, is_async, "uk", pid)
            break
        except DBAPIError:
            await asyncio.sleep(0.01)
    assert await run(tenancy, is_async, "aus", pid) == others
    await tenancy.aclose()


@pytest.mark.parametrize("place", [Kind("mariadb", "pymysql")], indirect=True, ids=str)
def test_a_connection_that_mariadb_closed_while_idle_is_opened_anew(
    place: Place, tenancy: Tenancy
) -> None:
    """Pointing it at the tenant's database shows that it is dead, before anything was sent."""
    for tenant_id in ("uk", "aus"):
        with tenancy.use(tenant_id), tenancy.session() as session:
            session.scalars(select(Author)).all()
    assert place.address is not None
    query = "SELECT id FROM information_schema.processlist WHERE db = "
    ((number,),) = place.address.execute(f"{query}'{place._made[-1]}'")
    place.address.execute(f"KILL {number}")
    time.sleep(1.1)  # as idle as a server's wait_timeout can be at least
    for tenant_id in ("aus", "uk", "aus", "uk"):
        with tenancy.use(tenant_id), tenancy.session() as session:
            assert session.scalars(select(Author)).all() == []


@pytest.mark.parametrize(
    "place", [kind for kind in POSTGRESQL if kind.is_async], indirect=True, ids=str
)
async def test_a_connection_that_ends_while_it_is_set_up(place: Place, tenancy: Tenancy) -> None:
    """An error that applications know, and never the driver's own."""
    ended: list[object] = []

    def end(connection: Any, record: object) -> None:
        if not ended:
            ended.append(record)
            connection.run_async(lambda raw: raw.close())
            connection.run_async(lambda raw: raw.execute("SELECT 1"))

    await tenancy.aclose()  # what made the tables
    with tenancy.use("uk"):
        event.listen(tenancy.aengine.sync_engine, "connect", end)
    with pytest.raises((DBAPIError, ServerUnavailableError)):
        await run(tenancy, True, "uk", pid)
    assert tenancy.status()["held_by"] == {}
    assert await run(tenancy, True, "uk", pid)
    assert await run(tenancy, True, "aus", pid)
    await tenancy.aclose()


@pytest.mark.parametrize("place", POSTGRESQL, indirect=True, ids=str)
async def test_a_connection_in_doubt_is_closed_although_a_listener_fails(
    place: Place, tenancy: Tenancy
) -> None:
    """It is not given back when neither cleaning it nor telling of it succeeds."""
    is_async = place.kind.is_async

    def fail(_connection: object, _record: object, _error: object) -> None:
        raise RuntimeError("nobody to tell")

    def dirty_and_killed(session: Session) -> int:
        bind = session.get_bind()
        assert isinstance(bind, Engine)
        with bind.connect() as connection:
            connection.execute(text("SELECT set_config('lock_timeout', '7s', false)"))
            number = connection.scalar(PID)
            connection.commit()
            assert place.address is not None
            place.address.execute(f"SELECT pg_terminate_backend({number})")
        return 0

    await tenancy.aclose()  # what made the tables
    with tenancy.use("uk"):
        engine = tenancy.aengine.sync_engine if is_async else tenancy.engine
        event.listen(engine.pool, "invalidate", fail)
    with pytest.raises(RuntimeError, match="nobody to tell"):
        await run(tenancy, is_async, "uk", dirty_and_killed)
    assert tenancy.status()["live"] == 0
    event.remove(engine.pool, "invalidate", fail)
    assert await run(tenancy, is_async, "uk", pid)
    await tenancy.aclose()
