"""What is written to shared tables is the tenant's: stamped if nothing is said, else refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import func, insert, literal, select, update
from sqlalchemy.orm import Session, sessionmaker

from tenantry import Isolation, Tenancy
from tenantry.errors import CrossTenantError
from tests.places import Author, Door, Kind, Note, Place, made

KINDS = [
    Kind("postgresql", "psycopg", isolation=Isolation.ROWS),
    Kind("postgresql", "asyncpg", True, Isolation.ROWS),
    Kind("mariadb", "pymysql", isolation=Isolation.ROWS),
    Kind("sqlite", "pysqlite", isolation=Isolation.ROWS),
    Kind("sqlite", "aiosqlite", True, Isolation.ROWS),
]
notes: Any = Note.__table__
Body = Callable[[Session], object]


@pytest.fixture(params=KINDS, ids=str, scope="module")
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    kind: Kind = request.param
    address = None if kind.server == "sqlite" else request.getfixturevalue(kind.server)
    with made(kind, tmp_path_factory.mktemp(str(kind)), address) as place:
        yield place


@pytest.fixture(scope="module")
def tenancy(place: Place) -> Iterator[Tenancy]:
    tenancy = place.tenancy("uk", "aus", max_connections=4)
    yield tenancy
    tenancy.close()


@pytest.fixture
def door(place: Place, tenancy: Tenancy) -> Iterator[Door]:
    door = Door(tenancy, place.kind.is_async)
    door.run("uk", lambda session: session.add(Note(id=1, tenant="uk")))
    yield door
    engine = place.admin_engine()
    with engine.begin() as connection:
        connection.execute(notes.delete())
        connection.execute(Author.__table__.delete())  # type: ignore[attr-defined]
    engine.dispose()


ROW = {"id": 5, "tenant": "uk", "body": ""}
MORE = {"id": 6, "tenant": "uk", "body": ""}
PLAIN: dict[str, Body] = {
    "add": lambda s: s.add(Note(**ROW)),
    "add all": lambda s: s.add_all([Note(**ROW), Note(**MORE)]),
    "by relation": lambda s: s.add(Author(id=5, name="a", notes=[Note(**ROW)])),
    "merge": lambda s: s.merge(Note(**ROW)),
    "bulk save": lambda s: s.bulk_save_objects([Note(**ROW)]),
    "bulk mappings": lambda s: s.bulk_insert_mappings(Note, [ROW, MORE]),
    "insert many": lambda s: s.execute(insert(Note), [ROW, MORE]),
    "insert values": lambda s: s.execute(insert(Note).values(ROW)),
    "insert multi values": lambda s: s.execute(insert(Note).values([ROW, MORE])),
    "insert returning": lambda s: s.scalars(insert(Note).returning(Note), [ROW]).all(),
    "insert many returning": lambda s: s.scalars(
        insert(Note).returning(Note.id), [ROW, MORE]
    ).all(),
    "core insert": lambda s: s.connection().execute(notes.insert(), [ROW, MORE]),
    "core values": lambda s: s.connection().execute(notes.insert().values(**ROW)),
    "core multi values": lambda s: s.connection().execute(notes.insert().values([ROW, MORE])),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_names_no_tenant_is_stamped(door: Door, name: str) -> None:
    door.run("uk", PLAIN[name])
    assert door.run("uk", lambda s: s.scalar(select(func.count(Note.id)))) in (2, 3)
    keys = door.run("uk", lambda s: set(s.scalars(select(Note.tenant_id))))
    assert keys == {"uk"}


def flushed(session: Session, added: object) -> None:
    session.add(added)
    session.flush()


def changed(session: Session, key: Any) -> None:
    session.get_one(Note, 1).tenant_id = key
    session.flush()


FOREIGN: dict[str, Body] = {
    "add": lambda s: flushed(s, Note(**ROW, tenant_id="aus")),
    "by relation": lambda s: flushed(
        s, Author(id=5, name="a", notes=[Note(**ROW, tenant_id="aus")])
    ),
    "merge": lambda s: flushed(s, s.merge(Note(**ROW, tenant_id="aus"))),
    "bulk save": lambda s: s.bulk_save_objects([Note(**ROW, tenant_id="aus")]),
    "bulk mappings": lambda s: s.bulk_insert_mappings(
        Note,
        [ROW, {**MORE, "tenant_id": "aus"}],
    ),
    "insert many": lambda s: s.execute(
        insert(Note), [{**ROW, "tenant_id": "uk"}, {**MORE, "tenant_id": "aus"}]
    ),
    "insert values": lambda s: s.execute(insert(Note).values({**ROW, "tenant_id": "aus"})),
    "insert an expression": lambda s: s.execute(
        insert(Note).values({**ROW, "tenant_id": literal("a") + "us"})
    ),
    "insert multi values": lambda s: s.execute(
        insert(Note).values([{**ROW, "tenant_id": "uk"}, {**MORE, "tenant_id": "aus"}])
    ),
    "insert in order": lambda s: s.connection().execute(
        notes.insert().values([(5, "uk", "", None, "uk"), (6, "uk", "", None, "aus")])
    ),
    "insert by column": lambda s: s.execute(
        insert(Note).values({Note.id: 5, Note.tenant: "uk", Note.tenant_id: "aus"})
    ),
    "insert returning": lambda s: s.scalars(
        insert(Note).returning(Note), [{**ROW, "tenant_id": "aus"}]
    ).all(),
    "core insert": lambda s: s.connection().execute(notes.insert(), {**ROW, "tenant_id": "aus"}),
    "update": lambda s: s.execute(update(Note).values(tenant_id="aus")),
    "update by attribute": lambda s: s.execute(update(Note).values({Note.tenant_id: "aus"})),
    "update an expression": lambda s: s.execute(update(Note).values(tenant_id=Note.tenant)),
    "update by parameters": lambda s: s.connection().execute(notes.update(), {"tenant_id": "aus"}),
    "update in order": lambda s: s.execute(update(Note).ordered_values((Note.tenant_id, "aus"))),
    "update by key": lambda s: s.execute(update(Note), [{"id": 1, "tenant_id": "aus"}]),
    "bulk update mappings": lambda s: s.bulk_update_mappings(
        Note,
        [{"id": 1, "tenant_id": "aus"}],
    ),
    "query update": lambda s: s.query(Note).update({"tenant_id": "aus"}),
    "given away": lambda s: changed(s, "aus"),
    "disowned": lambda s: changed(s, None),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_names_another_tenant_is_refused(place: Place, door: Door, name: str) -> None:
    with pytest.raises(CrossTenantError) as caught:
        door.run("uk", FOREIGN[name])
    assert caught.value.tenant_id == "uk"
    engine = place.admin_engine()
    with engine.connect() as connection:
        assert connection.execute(select(notes.c.id, notes.c.tenant_id)).all() == [(1, "uk")]
    engine.dispose()


@pytest.mark.parametrize("name", FOREIGN)
def test_the_same_through_a_plain_session(
    place: Place, tenancy: Tenancy, door: Door, name: str
) -> None:
    """A ``sessionmaker`` on the engine is taken over when it meets it."""
    if place.kind.is_async:
        pytest.skip("the door of threads is enough: the body is the same")
    make = sessionmaker(tenancy.engine)
    with tenancy.use("uk"), make() as session, pytest.raises(CrossTenantError):
        FOREIGN[name](session)
        session.commit()
