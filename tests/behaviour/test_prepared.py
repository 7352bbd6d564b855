"""A statement prepared for one tenant is never used for another: enums and drifted columns."""

from __future__ import annotations

import enum

import pytest
from sqlalchemy import Enum, MetaData, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tenantry import Isolation
from tests.places import Door, Place


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
