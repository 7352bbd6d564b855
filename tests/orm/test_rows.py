"""The 26 operations that row filters of an ORM were probed with: none reaches another's row.

Ten of them leak through SQLAlchemy's documented recipe (``with_loader_criteria``). Both tenants'
rows stand in the same tables; each body runs as tenant ``uk`` and tries to reach those of ``aus``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Table, delete, exists, func, insert, inspect, select, text, union_all, update
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import (
    Session,
    aliased,
    joinedload,
    make_transient_to_detached,
    selectinload,
    subqueryload,
)
from sqlalchemy.orm.exc import StaleDataError

from tenantry import Isolation, Tenancy
from tenantry.errors import CrossTenantError, UnsupportedError
from tests.places import Author, Door, Kind, Note, Place, made

KINDS = [
    Kind("postgresql", "psycopg", isolation=Isolation.ROWS),
    Kind("postgresql", "asyncpg", True, Isolation.ROWS),
    Kind("mariadb", "pymysql", isolation=Isolation.ROWS),
    Kind("mariadb", "aiomysql", True, Isolation.ROWS),
    Kind("sqlite", "pysqlite", isolation=Isolation.ROWS),
    Kind("sqlite", "aiosqlite", True, Isolation.ROWS),
]
THEIRS = 11  # the primary key of a row of aus; uk has 1 and 2
notes: Table = Note.__table__  # type: ignore[assignment]  # it is one


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
    tenancy = place.tenancy("uk", "aus", max_connections=8)
    yield tenancy
    tenancy.close()


def fill(first: int, name: str) -> Callable[[Session], None]:
    def body(session: Session) -> None:
        author = Author(id=first, name=name)
        session.add_all(
            [
                Note(id=first, tenant=name, body=name, author=author),
                Note(id=first + 1, tenant=name, body=name),
            ]
        )

    return body


def empty(session: Session) -> None:
    session.execute(delete(Note))
    session.execute(delete(Author))


@pytest.fixture
def door(place: Place, tenancy: Tenancy) -> Iterator[Door]:
    door = Door(tenancy, place.kind.is_async)
    door.run("uk", fill(1, "uk"))
    door.run("aus", fill(THEIRS, "aus"))
    yield door
    door.run("uk", empty)
    door.run("aus", empty)


def names(rows: Any) -> list[str]:
    return [row.tenant for row in rows]


def forged(session: Session, **values: Any) -> Note:
    """An object that claims to be uk's, with the primary key of a row of aus."""
    note = Note(id=THEIRS, **values)
    state = inspect(note)
    state.identity_token = session.tenant.key  # type: ignore[attr-defined]  # a TenantSession
    make_transient_to_detached(note)
    return note


def entity(session: Session) -> list[str]:
    return names(session.scalars(select(Note)))


def columns(session: Session) -> list[str]:
    return list(session.scalars(select(Note.tenant)))


def count(session: Session) -> list[str]:
    assert session.scalar(select(func.count()).select_from(Note)) == 2
    assert session.scalar(select(func.count(Note.id))) == 2
    return ["uk"]


def alias(session: Session) -> list[str]:
    other = aliased(Note)
    return names(session.scalars(select(other))) + names(
        session.scalars(select(other).join(Note, other.id != Note.id))
    )


def get_not_loaded(session: Session) -> list[str]:
    assert session.get(Note, THEIRS) is None
    return names([session.get(Note, 1)])


def get_loaded(session: Session) -> list[str]:
    list(session.scalars(select(Note)))
    assert session.get(Note, THEIRS) is None
    assert session.get(Note, THEIRS, populate_existing=True) is None
    return names([session.get(Note, 1)])


def refresh_foreign(session: Session) -> list[str]:
    note = forged(session)
    session.add(note)
    with pytest.raises(InvalidRequestError):
        session.refresh(note)
    session.expunge(note)
    return entity(session)


def lazy_load(session: Session) -> list[str]:
    note = session.get_one(Note, 1)
    author = note.author
    assert author is not None
    session.expire_all()
    return [author.name, *names(author.notes)]


def joined(session: Session) -> list[str]:
    found = session.scalars(select(Author).options(joinedload(Author.notes))).unique().all()
    return [each.name for each in found] + [note.tenant for each in found for note in each.notes]


def selectin(session: Session) -> list[str]:
    found = session.scalars(select(Author).options(selectinload(Author.notes))).all()
    return [each.name for each in found] + [note.tenant for each in found for note in each.notes]


def subquery(session: Session) -> list[str]:
    found = session.scalars(select(Author).options(subqueryload(Author.notes))).all()
    return [each.name for each in found] + [note.tenant for each in found for note in each.notes]


def exists_(session: Session) -> list[str]:
    assert not session.scalar(select(exists().where(Note.id == THEIRS)))
    assert not session.scalar(select(exists(Note.id).where(Note.tenant == "aus")))
    foreign = select(Author.name).where(Author.notes.any(Note.tenant == "aus"))
    assert session.scalars(foreign).all() == []
    return list(session.scalars(select(Author.name).where(Author.notes.any())))


def scalar_subquery(session: Session) -> list[str]:
    most = select(func.max(Note.id)).scalar_subquery()
    assert session.scalar(select(most)) == 2
    correlated = select(func.count(Note.id)).where(Note.author_id == Author.id).scalar_subquery()
    assert session.execute(select(Author.name, correlated)).all() == [("uk", 1)]
    return ["uk"]


def cte(session: Session) -> list[str]:
    own = select(Note).cte("own")
    return list(session.scalars(select(own.c.tenant))) + names(
        session.scalars(select(aliased(Note, own)))
    )


def union(session: Session) -> list[str]:
    both = union_all(select(Note.tenant), select(notes.c.tenant))
    return list(session.scalars(both))


def legacy_query(session: Session) -> list[str]:
    assert session.query(Note).count() == 2
    assert session.query(Note).filter_by(id=THEIRS).first() is None
    return names(session.query(Note).all())


def orm_update(session: Session) -> list[str]:
    session.execute(update(Note).values(body="changed"))
    session.execute(update(Note).where(Note.id == THEIRS).values(body="changed"))
    session.query(Note).update({"body": "changed"})
    return names(session.scalars(select(Note).where(Note.body == "changed")))


def orm_delete(session: Session) -> list[str]:
    session.execute(delete(Note).where(Note.id == THEIRS))
    session.execute(delete(Note).where(Note.id == 2))
    session.query(Note).filter_by(id=THEIRS).delete()
    return entity(session)


def core_select(session: Session) -> list[str]:
    return names(session.execute(select(notes)))


def from_statement(session: Session) -> list[str]:
    return names(session.scalars(select(Note).from_statement(text("SELECT * FROM notes"))))


def plain_text(session: Session) -> list[str]:
    return names(session.execute(text("SELECT * FROM notes")))


def connection_execute(session: Session) -> list[str]:
    connection = session.connection()
    connection.execute(update(notes).values(body="changed"))
    connection.execute(delete(notes).where(notes.c.id == THEIRS))
    return names(connection.execute(select(notes)))


def bulk_update_by_key(session: Session) -> list[str]:
    session.execute(update(Note), [{"id": 1, "body": "by key"}])
    with pytest.raises(StaleDataError), session.begin_nested():
        session.execute(update(Note), [{"id": THEIRS, "body": "by key"}])
    return entity(session)


def flush_foreign(session: Session) -> list[str]:
    note = forged(session)
    session.add(note)
    with pytest.raises(StaleDataError), session.begin_nested():
        note.body = "forged"
        session.flush()
    session.expunge_all()
    note = forged(session)
    with pytest.raises((StaleDataError, InvalidRequestError)), session.begin_nested():
        session.add(note)
        session.delete(note)
        session.flush()
    session.expunge_all()
    return entity(session)


def flush_loaded_elsewhere(session: Session) -> list[str]:
    note = Note(id=THEIRS)
    make_transient_to_detached(note)
    with pytest.raises(CrossTenantError):
        session.add(note)
    return entity(session)


def add_named(session: Session) -> list[str]:
    aus = session.info["aus"]
    session.add(Note(id=90, tenant="uk", tenant_id=aus))
    with pytest.raises(CrossTenantError):
        session.flush()
    session.expunge_all()
    return entity(session)


def orm_insert(session: Session) -> list[str]:
    aus = session.info["aus"]
    row = {"id": 91, "tenant": "uk", "body": "", "tenant_id": aus}
    for statement, rows in (
        (insert(Note), [row]),
        (insert(Note).values(row), None),
        (insert(Note).values([row, {**row, "id": 92}]), None),
        (insert(Note).returning(Note), [row]),
    ):
        with pytest.raises(CrossTenantError):
            session.execute(statement, rows)
    row.pop("tenant_id")
    assert names(session.scalars(insert(Note).returning(Note), [row])) == ["uk"]
    return entity(session)


OPERATIONS: list[Callable[[Session], list[str]]] = [
    entity,
    columns,
    count,
    alias,
    get_not_loaded,
    lazy_load,
    joined,
    selectin,
    subquery,
    exists_,
    scalar_subquery,
    cte,
    union,
    legacy_query,
    orm_update,
    orm_delete,
    get_loaded,
    refresh_foreign,
    core_select,
    from_statement,
    plain_text,
    connection_execute,
    bulk_update_by_key,
    flush_foreign,
    add_named,
    orm_insert,
]
#: Refused where the server has no row-level security, because nobody can read text.
NEEDS_ROW_SECURITY = (from_statement, plain_text)


def test_the_operations_are_26() -> None:
    assert len(set(OPERATIONS)) == 26


@pytest.mark.parametrize(
    "operation", [*OPERATIONS, flush_loaded_elsewhere], ids=lambda each: each.__name__
)
def test_no_operation_reaches_another_tenants_row(
    place: Place, door: Door, tenancy: Tenancy, operation: Callable[[Session], list[str]]
) -> None:
    aus = next(each for each in tenancy.tenants() if each.id == "aus")

    def body(session: Session) -> list[str]:
        session.info["aus"] = aus.key
        return operation(session)

    if place.kind.server != "postgresql" and operation in NEEDS_ROW_SECURITY:
        with pytest.raises(UnsupportedError, match="SQL text"):
            door.run("uk", body)
    else:
        assert set(door.run("uk", body)) == {"uk"}
    engine = place.admin_engine()
    with engine.connect() as connection:
        theirs = select(notes).where(notes.c.tenant_id == aus.key).order_by(notes.c.id)
        left = connection.execute(theirs).all()
    engine.dispose()
    assert [(row.id, row.tenant, row.body) for row in left] == [
        (THEIRS, "aus", "aus"),
        (THEIRS + 1, "aus", "aus"),
    ]


def test_a_connection_opened_anew_is_the_tenants(
    place: Place, door: Door, tenancy: Tenancy
) -> None:
    """SQLAlchemy reconnects a Connection after its driver's connection was lost."""
    if place.kind.is_async:
        pytest.skip("asyncio's Connection has the same one within")
    with tenancy.use("uk"), tenancy.engine.connect() as connection:
        assert len(connection.execute(select(notes)).all()) == 2
        connection.invalidate()
        connection.rollback()
        assert {row.tenant for row in connection.execute(select(notes))} == {"uk"}
        assert tenancy.status()["held_by"]
    assert tenancy.status()["held_by"] == {}
