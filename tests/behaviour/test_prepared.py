"""A statement prepared for one tenant is never used for another: enums and drifted columns."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from functools import partial

import pytest
from sqlalchemy import Enum, MetaData, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tenantry import Isolation
from tests.places import KINDS, Author, Door, Place


class Base(DeclarativeBase):
    metadata = MetaData()


class Status(enum.Enum):
    NEW = "new"
    DONE = "done"


class Task(Base):
    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[Status] = mapped_column(Enum(Status, name="st"))


def test_an_enum_of_each_schema_and_a_column_more(place: Place, door: Door) -> None:
    if place.kind.server != "postgresql" or place.kind.isolation is Isolation.ROWS:
        pytest.skip("the types of several schemas in one database are PostgreSQL's")

    def create(session: Session) -> None:
        Base.metadata.create_all(session.connection())
        session.add(Task(id=1, status=Status.NEW))

    def drift(session: Session) -> None:
        session.execute(text("ALTER TABLE tasks ADD COLUMN extra text DEFAULT 'more'"))

    def work(session: Session) -> tuple[int, int]:
        for number in range(8):  # psycopg prepares at the sixth time
            session.add(Task(id=10 + number, status=Status.DONE))
            session.flush()
            found = session.scalars(select(Task).where(Task.status == Status.DONE)).all()
            assert len(found) == number + 1
        columns = len(session.execute(text("SELECT * FROM tasks")).all()[0])
        session.rollback()
        return columns, len(session.scalars(select(Task)).all())

    for tenant_id in ("uk", "aus"):
        door.run(tenant_id, create)
    door.run("aus", drift)
    try:
        for _ in range(3):
            assert door.run("uk", work) == (2, 1)
            assert door.run("aus", work) == (3, 1)
    finally:
        for tenant_id in ("uk", "aus"):
            door.run(tenant_id, lambda session: Base.metadata.drop_all(session.connection()))


@pytest.mark.parametrize(
    "place",
    [
        kind
        for kind in KINDS
        if kind.driver == "psycopg" and kind.isolation is Isolation.SCHEMA and kind.switch is None
    ],
    ids=str,
    indirect=True,
)
def test_the_driver_prepares_for_each_tenant_apart(place: Place) -> None:
    """One connection, one statement: it is prepared once for each of the tenants who share it."""
    tenancy = place.tenancy("uk", "aus", max_connections=1)
    door = Door(tenancy, place.kind.is_async)

    def add(session: Session, tenant_id: str) -> list[str]:
        session.add(Author(name=tenant_id))
        return []

    def work(session: Session) -> list[str]:
        return list(session.scalars(select(Author.name)))

    def prepared(session: Session) -> list[str]:
        found = "SELECT statement FROM pg_prepared_statements WHERE NOT from_sql"
        return [each for each in session.scalars(text(found)) if "authors" in each]

    async def run(tenant_id: str, body: Callable[[Session], list[str]]) -> list[str]:
        if not place.kind.is_async:
            return door.run(tenant_id, body)
        return await door.arun(tenant_id, body)

    async def together() -> None:
        for tenant_id in ("uk", "aus"):
            await run(tenant_id, partial(add, tenant_id=tenant_id))
        for _ in range(8):  # psycopg prepares at the sixth time
            for tenant_id in ("uk", "aus"):
                assert await run(tenant_id, work) == [tenant_id]
        once = await run("uk", prepared)
        assert len(once) == (0 if place.kind.pooled else 2)
        assert len(set(once)) == (0 if place.kind.pooled else 1)
        await tenancy.aclose()

    asyncio.run(together())
    tenancy.close()
