"""A transaction pooler that the configuration names is treated as one that was found."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from tenantry import Isolation, Placement, Tenancy, Tenant
from tenantry.directory import MappingDirectory
from tenantry.errors import UnsupportedError
from tests.places import KINDS, Door, Place

POOLED = [kind for kind in KINDS if kind.pooled]
OWN_DATABASE = [kind for kind in POOLED if kind.isolation is Isolation.DATABASE]
OTHERS = [kind for kind in POOLED if kind not in OWN_DATABASE]

Run = Callable[[str, Callable[[Session], int]], Awaitable[int]]


def read(session: Session) -> int:
    return int(session.execute(text("SELECT 1")).scalar_one())


def change(session: Session) -> int:
    session.execute(text("SET lock_timeout = '7s'"))
    return 0


def prepared(session: Session) -> int:
    found = "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT 1'"
    return int(session.execute(text(found)).scalar_one())


def with_tenants(
    place: Place,
    declared: bool | None,
    tenants: list[Tenant],
    body: Callable[[Run], Awaitable[None]],
) -> None:
    """*body* on one connection to a server of which *declared* is said, in one event loop."""
    servers = {"main": place.server(pooler=declared)}
    tenancy = Tenancy(MappingDirectory(tenants, servers=servers), servers, max_connections=1)
    door = Door(tenancy, place.kind.is_async)

    async def run(tenant_id: str, work: Callable[[Session], int]) -> int:
        return (
            await door.arun(tenant_id, work) if place.kind.is_async else door.run(tenant_id, work)
        )

    async def together() -> None:
        await body(run)
        await tenancy.aclose()

    asyncio.run(together())
    tenancy.close()


@pytest.mark.parametrize(
    ("place", "declared"),
    [
        *((kind, None) for kind in POOLED),
        *((kind, True) for kind in POOLED),
        *((kind, False) for kind in OTHERS),
    ],
    ids=str,
    indirect=["place"],
)
def test_nothing_of_a_session_is_left_to_a_stranger(place: Place, declared: bool | None) -> None:
    """No statement is prepared, and none that changes the session goes through.

    Also where the configuration denies the pooler: connections by which a tenant is found in its
    schema or among others' rows are looked at whatever it says.
    """

    async def body(run: Run) -> None:
        for _ in range(8):  # psycopg prepares at the sixth time
            assert await run("uk", read) == 1
        assert await run("uk", prepared) == 0
        with pytest.raises(UnsupportedError, match="behind a transaction pooler"):
            await run("uk", change)

    with_tenants(place, declared, [place.tenant("uk")], body)


@pytest.mark.parametrize("place", OWN_DATABASE, ids=str, indirect=True)
def test_with_an_own_database_a_denied_pooler_is_not_looked_for(place: Place) -> None:
    async def body(run: Run) -> None:
        assert await run("uk", change) == 0  # a found one refuses it

    with_tenants(place, False, [place.tenant("uk")], body)


@pytest.mark.parametrize("place", OTHERS, ids=str, indirect=True)
def test_a_denied_pooler_that_one_tenant_finds_is_found_for_its_server(place: Place) -> None:
    own = Tenant("own", Placement("main", database=place.database("own")))

    async def body(run: Run) -> None:
        assert await run("own", change) == 0
        assert await run("uk", read) == 1
        with pytest.raises(UnsupportedError, match="behind a transaction pooler"):
            await run("own", change)

    with_tenants(place, False, [own, place.tenant("uk")], body)
