"""A transaction pooler that the configuration names is treated as one that was found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from tenantry import Tenancy
from tenantry.directory import MappingDirectory
from tenantry.errors import UnsupportedError
from tests.places import KINDS, Door, Place


@pytest.mark.parametrize("place", [kind for kind in KINDS if kind.pooled], ids=str, indirect=True)
@pytest.mark.parametrize("declared", [None, True], ids=["found", "declared"])
def test_nothing_of_a_session_is_left_to_a_stranger(place: Place, declared: bool | None) -> None:
    """No statement is prepared, and none that changes the session goes through."""
    tenants = [place.tenant("uk")]
    servers = {"main": place.server(pooler=declared)}
    tenancy = Tenancy(MappingDirectory(tenants, servers=servers), servers, max_connections=1)
    door = Door(tenancy, place.kind.is_async)

    def read(session: Session) -> int:
        return int(session.execute(text("SELECT 1")).scalar_one())

    def change(session: Session) -> int:
        session.execute(text("SET lock_timeout = '7s'"))
        return 0

    def prepared(session: Session) -> int:
        found = "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT 1'"
        return int(session.execute(text(found)).scalar_one())

    async def run(body: Callable[[Session], int]) -> int:
        return await door.arun("uk", body) if place.kind.is_async else door.run("uk", body)

    async def together() -> None:
        for _ in range(8):  # psycopg prepares at the sixth time
            assert await run(read) == 1
        assert await run(prepared) == 0
        with pytest.raises(UnsupportedError, match="behind a transaction pooler"):
            await run(change)
        await tenancy.aclose()

    asyncio.run(together())
    tenancy.close()
