"""Whatever SQLAlchemy can do, it does in the tenant's own database."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Table,
    delete,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, selectinload

from tenantry import Isolation, Tenancy
from tenantry.errors import UnsupportedError
from tests.places import Author, Base, Door, Note, Place

BOTH = ("uk", "aus")


def add_note(tenant_id: str) -> Any:
    def body(session: Session) -> None:
        session.add(Note(id=1, tenant=tenant_id, author=Author(id=1, name=tenant_id)))

    return body


@pytest.fixture
def filled(door: Door) -> Door:
    for tenant_id in BOTH:
        door.run(tenant_id, add_note(tenant_id))
    return door


def readings(session: Session) -> list[str]:
    """The tenant's name, read in every way that a session knows."""
    connection = session.connection()
    note = session.get(Note, 1)
    assert note is not None
    session.expire(note)
    seen = [note.tenant]
    session.refresh(note)
    seen += [note.tenant, note.author.name if note.author else "none"]
    seen += session.scalars(select(Note.tenant))
    seen += [
        each.tenant for each in session.scalars(select(Note).options(selectinload(Note.author)))
    ]
    seen += session.scalars(text("SELECT tenant FROM notes"))
    loaded = session.scalars(select(Note).from_statement(text("SELECT * FROM notes")))
    seen += [each.tenant for each in loaded]
    seen += connection.scalars(select(Note.__table__.c.tenant))
    seen += connection.exec_driver_sql("SELECT tenant FROM notes").scalars()
    seen += [each.tenant for each in session.query(Note)]
    return seen


def test_every_way_of_reading_reads_the_tenants_rows(filled: Door) -> None:
    for tenant_id in (*BOTH, *BOTH):
        assert set(filled.run(tenant_id, readings)) == {tenant_id}


def test_every_way_of_writing_writes_to_the_tenants_rows(filled: Door) -> None:
    def write(session: Session) -> None:
        session.execute(insert(Note), [{"id": 2, "tenant": "a"}, {"id": 3, "tenant": "b"}])
        session.execute(update(Note).where(Note.id == 2).values(body="updated"))
        session.execute(delete(Note).where(Note.id == 3))
        session.execute(update(Note), [{"id": 1, "body": "by key"}])
        session.bulk_save_objects([Note(id=4, tenant="bulk")])
        session.execute(text("INSERT INTO notes (id, tenant, body) VALUES (5, 'text', '')"))

    def count(session: Session) -> int:
        return session.scalar(select(func.count()).select_from(Note)) or 0

    filled.run("uk", write)
    assert filled.run("uk", count) == 4
    assert filled.run("aus", count) == 1


def test_commit_rollback_and_savepoint_stay_with_the_tenant(filled: Door) -> None:
    def body(session: Session) -> list[str]:
        seen = list(session.scalars(select(Note.tenant)))
        session.commit()
        seen += session.scalars(select(Note.tenant))
        session.rollback()
        seen += session.scalars(select(Note.tenant))
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            session.add(Note(id=9, tenant="never"))
            session.flush()
            raise ZeroDivisionError
        seen += session.scalars(select(Note.tenant))
        return seen

    for tenant_id in (*BOTH, *BOTH):
        assert set(filled.run(tenant_id, body)) == {tenant_id}


def test_tables_are_created_and_reflected_in_the_tenants_database(place: Place, door: Door) -> None:
    def create(session: Session) -> None:
        own = MetaData()
        Table("only_uk", own, Column("id", Integer, primary_key=True))
        own.create_all(session.connection())

    def reflect(session: Session) -> set[str]:
        inspector = inspect(session.connection())
        reflected = MetaData()
        reflected.reflect(session.connection())
        assert set(reflected.tables) == set(inspector.get_table_names())
        assert inspector.has_table("only_uk") is ("only_uk" in reflected.tables)
        return set(inspector.get_table_names())

    if place.kind.isolation is Isolation.ROWS:
        with pytest.raises(DBAPIError, match="permission denied"):
            door.run("uk", create)
        assert door.run("aus", reflect) == set(Base.metadata.tables)
        return
    door.run("uk", create)
    assert "only_uk" in door.run("uk", reflect)
    assert door.run("aus", reflect) == set(Base.metadata.tables)


def test_one_engine_one_cache_and_nothing_left_checked_out(filled: Door, tenancy: Tenancy) -> None:
    for tenant_id in BOTH:
        filled.run(tenant_id, readings)
    engines = tenancy._router.engines()
    assert len([each for each in engines if each.dialect.is_async is filled.is_async]) == 1
    assert tenancy.status()["held_by"] == {}


def test_autocommit_reads_and_writes_the_tenants_rows(place: Place, filled: Door) -> None:
    def body(session: Session) -> list[str]:
        connection = session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        connection.execute(update(Note).values(body="auto"))
        return list(connection.scalars(select(Note.tenant)))

    if place.kind.pooled and place.kind.isolation is not Isolation.DATABASE:
        with pytest.raises(UnsupportedError, match="behind a transaction pooler"):
            filled.run("uk", body, commit=False)
        return
    if place.kind.citus and place.kind.isolation is Isolation.ROWS:
        with pytest.raises(Exception, match="do not reach the workers"):
            filled.run("uk", body, commit=False)
        return
    for tenant_id in (*BOTH, *BOTH):
        assert filled.run(tenant_id, body, commit=False) == [tenant_id]
    assert filled.run("uk", lambda session: session.scalar(select(Note.body))) == "auto"
