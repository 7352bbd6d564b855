"""A tenant whose tables change while its connections are open: what was prepared is stale.

PostgreSQL refuses to run a prepared statement whose columns are no longer those that were
promised. That must happen once for a connection, whatever the statement ran in, and must touch
no other tenant on it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Executable, select, text
from sqlalchemy.exc import NotSupportedError
from sqlalchemy.orm import Session

from tenantry import Isolation
from tenantry.tenant import Switch
from tenantry.testing.address import ServerAddress
from tests.places import Author, Door, Kind, Place, made

KINDS = [
    Kind("postgresql", "psycopg"),
    Kind("postgresql", "psycopg", isolation=Isolation.SCHEMA),
    Kind("postgresql", "psycopg", True, Isolation.SCHEMA),
    Kind("postgresql", "psycopg", isolation=Isolation.SCHEMA, switch=Switch.MAP),
    Kind("postgresql", "psycopg", isolation=Isolation.ROWS),
    Kind("postgresql", "asyncpg", True),
    Kind("postgresql", "asyncpg", True, Isolation.SCHEMA),
    Kind("postgresql", "asyncpg", True, Isolation.SCHEMA, Switch.MAP),
    Kind("postgresql", "asyncpg", True, Isolation.ROWS),
]

#: In the order in which they are run.
STATEMENTS: dict[str, Executable] = {
    "columns": select(Author.id, Author.name),
    "all": text("SELECT * FROM authors"),
    "sorted": text("SELECT * FROM authors ORDER BY id"),
}
#: What is changed, and the first statement that it makes stale.
CHANGES = {
    "ALTER COLUMN name TYPE varchar(200)": "columns",
    "ADD COLUMN extra text DEFAULT 'more'": "all",
}
STALE = ["stale"]
ROUNDS = 8  # psycopg prepares at the sixth time

T = TypeVar("T")


@pytest.fixture(params=KINDS, ids=str)
def place(
    request: pytest.FixtureRequest, tmp_path: Path, postgresql: ServerAddress
) -> Iterator[Place]:
    with made(request.param, tmp_path, postgresql) as place:
        yield place


@pytest.mark.parametrize("within", ["transaction", "savepoint", "autocommit"])
def test_what_a_migration_made_stale_fails_once_on_a_connection(place: Place, within: str) -> None:
    """A longer name makes every statement stale, a further column those that name none."""
    own_database = place.kind.isolation is Isolation.DATABASE
    tenancy = place.tenancy("uk", "aus", max_connections=2 if own_database else 1)
    door = Door(tenancy, place.kind.is_async)
    placement = tenancy.get("uk").placement
    table = f'"{placement.schema}".authors' if placement.schema else "authors"

    def write(session: Session, tenant_id: str) -> int:
        session.add(Author(name=tenant_id))
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            session.connection()
            raise ZeroDivisionError  # psycopg looks at the first ROLLBACK TO SAVEPOINT only
        return backend(session)

    def read(session: Session, statement: str) -> list[str]:
        if within == "autocommit":
            session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        if within != "savepoint":
            return names(session, statement)
        try:
            with session.begin_nested():
                return names(session, statement)
        except NotSupportedError as error:
            return stale(error)

    async def run(tenant_id: str, body: Callable[[Session], T]) -> T:
        return (
            await door.arun(tenant_id, body) if place.kind.is_async else door.run(tenant_id, body)
        )

    async def find(tenant_id: str, statement: str) -> list[str]:
        try:
            return await run(tenant_id, partial(read, statement=statement))
        except NotSupportedError as error:
            return stale(error)

    async def rounds() -> list[tuple[str, list[str]]]:
        """What uk found in each statement; aus, in between, finds its own and nothing else."""
        seen = []
        for _, statement in itertools.product(range(ROUNDS), STATEMENTS):
            seen.append((statement, await find("uk", statement)))
            assert await find("aus", statement) == ["aus"]
        return seen

    async def attack() -> None:
        backends = [await run(each, partial(write, tenant_id=each)) for each in ("uk", "aus")]
        assert all(found == ["uk"] for _, found in await rounds())
        for change, first in CHANGES.items():
            migrate(place, f"ALTER TABLE {table} {change}", placement.database)
            seen = await rounds()
            assert seen.pop(list(STATEMENTS).index(first)) == (first, STALE)
            assert all(found == ["uk"] for _, found in seen)
        assert [await run(each, backend) for each in ("uk", "aus")] == backends

    async def together() -> None:
        try:
            await attack()
        finally:
            await tenancy.aclose()

    try:
        asyncio.run(together())
    finally:
        tenancy.close()


def migrate(place: Place, statement: str, database: str | None) -> None:
    """Run *statement* as a migration does: on a connection of its own."""
    if database is None:
        place.execute(statement)
    else:
        assert place.address is not None
        place.address.execute(statement, database)


def names(session: Session, statement: str) -> list[str]:
    return [row.name for row in session.execute(STATEMENTS[statement])]


def backend(session: Session) -> int:
    return int(session.execute(text("SELECT pg_backend_pid()")).scalar_one())


def stale(error: NotSupportedError) -> list[str]:
    """The server's refusal, as each driver words it."""
    assert "cached plan must not change" in str(error) or "cached statement plan" in str(error)
    return STALE
