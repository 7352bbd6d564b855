"""Rows without row-level security: what SQLAlchemy can say is filtered, the rest is refused.

MariaDB and SQLite keep no rows apart. Each question here is asked as ``uk`` beside the rows of
``aus``, and compared with what the same statement says where ``uk`` lives alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    Column,
    ColumnElement,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    and_,
    column,
    create_engine,
    delete,
    exists,
    extract,
    func,
    insert,
    inspect,
    literal,
    literal_column,
    or_,
    select,
    table,
    text,
    true,
    tuple_,
    union,
    update,
)
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    column_property,
    joinedload,
    lazyload,
    mapped_column,
    relationship,
    selectinload,
    sessionmaker,
    with_polymorphic,
)
from sqlalchemy.sql import quoted_name

from tenantry import Isolation, Tenancy
from tenantry.errors import CrossTenantError, TenantryError, UnsupportedError
from tenantry.orm import TenantRows, mark_shared, tenant_key
from tests.places import Author, Base, Door, Kind, Note, Place, made

KINDS = [
    Kind("sqlite", "pysqlite", isolation=Isolation.ROWS),
    Kind("mariadb", "pymysql", isolation=Isolation.ROWS),
]
notes: Table = Note.__table__  # type: ignore[assignment]  # it is one
authors: Table = Author.__table__  # type: ignore[assignment]  # it is one
Written = list[dict[str, Any]]


@pytest.fixture(params=KINDS, ids=str, scope="module")
def shared_place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    kind: Kind = request.param
    address = None if kind.server == "sqlite" else request.getfixturevalue(kind.server)
    with made(kind, tmp_path_factory.mktemp(str(kind)), address) as place:
        yield place


@pytest.fixture(scope="module")
def tenancy(shared_place: Place) -> Iterator[Tenancy]:
    tenancy = shared_place.tenancy("uk", "aus", max_connections=4)
    yield tenancy
    tenancy.close()


#: Authors 1 to 3 and notes 1 to 4 are uk's, those from 11 are aus's.
AUTHORS = {"uk": [(1, "a"), (2, "b"), (3, "c"), (4, "x")], "aus": [(11, "a"), (12, "x")]}
NOTES = {
    "uk": [(1, "a", 1), (2, "b", 1), (3, "a", 2), (4, "c", None)],
    "aus": [(11, "a", 11), (12, "x", 12), (13, "b", None)],
}


def rows_of(tenant_id: str) -> tuple[Written, Written]:
    named = [{"id": key, "name": name} for key, name in AUTHORS[tenant_id]]
    written = [
        {"id": key, "tenant": tenant_id, "body": body, "author_id": author}
        for key, body, author in NOTES[tenant_id]
    ]
    return named, written


def fill(session: Session, tenant_id: str) -> None:
    named, written = rows_of(tenant_id)
    session.execute(insert(Author), named)
    session.execute(insert(Note), written)


@pytest.fixture
def door(tenancy: Tenancy) -> Iterator[Door]:
    door = Door(tenancy, False)
    for tenant_id in ("uk", "aus"):
        door.run(tenant_id, lambda session, each=tenant_id: fill(session, each))  # type: ignore[misc]
    yield door
    for tenant_id in ("uk", "aus"):
        door.run(tenant_id, lambda session: session.execute(delete(Note)))
        door.run(tenant_id, lambda session: session.execute(delete(Author)))


@pytest.fixture(scope="module")
def alone() -> Iterator[Engine]:
    """Where uk lives alone."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    named, written = rows_of("uk")
    with engine.begin() as connection:
        own = {"tenant_id": "uk"}
        connection.execute(insert(authors), [{**row, **own} for row in named])
        connection.execute(insert(notes), [{**row, **own} for row in written])
    yield engine
    engine.dispose()


def answers(connection: Any, statement: Any) -> list[str]:
    return sorted(map(str, connection.execute(statement).all()))


def counted_notes() -> Any:
    return select(func.count(notes.c.id)).where(notes.c.author_id == authors.c.id).scalar_subquery()


def recursive() -> Any:
    chain = select(notes.c.id, notes.c.body).where(notes.c.id == 1).cte("chain", recursive=True)
    more = select(notes.c.id, notes.c.body).where(notes.c.id > chain.c.id, notes.c.id < 100)
    return select(chain.union(more))


n2, a2 = notes.alias("n2"), authors.alias("a2")

QUESTIONS: dict[str, Any] = {
    "core": select(notes.c.id, notes.c.body),
    "star": select(text("*")).select_from(notes).with_only_columns(notes.c.id),
    "count": select(func.count()).select_from(notes),
    "count of a subquery": select(func.count()).select_from(select(notes.c.id).subquery()),
    "alias": select(n2.c.id),
    "alias of an alias": select(n2.alias("n3").c.id),
    "two tables": select(notes.c.id, authors.c.name).where(notes.c.body == authors.c.name),
    "a table twice": select(notes.c.id, n2.c.id).where(notes.c.body == n2.c.body),
    "join": select(notes.c.id, authors.c.name).join_from(notes, authors),
    "outer join": select(notes.c.id, authors.c.name).join_from(notes, authors, isouter=True),
    "outer join of an alias": select(authors.c.id, n2.c.id).select_from(
        authors.outerjoin(n2, n2.c.author_id == authors.c.id)
    ),
    "outer join on a value": select(authors.c.id, notes.c.id).select_from(
        authors.outerjoin(notes, notes.c.body == authors.c.name)
    ),
    "the partners missing": select(authors.c.id)
    .select_from(authors.outerjoin(notes, notes.c.body == authors.c.name))
    .where(notes.c.id.is_(None)),
    "outer join of a join": select(authors.c.id, notes.c.id, a2.c.id).select_from(
        authors.outerjoin(
            notes.join(a2, a2.c.id == notes.c.author_id), notes.c.body == authors.c.name
        )
    ),
    "join after an outer join": select(authors.c.id, notes.c.id, a2.c.id).select_from(
        authors.outerjoin(notes, notes.c.body == authors.c.name).join(
            a2, a2.c.name == authors.c.name
        )
    ),
    "correlated": select(authors.c.name, counted_notes()),
    "exists": select(authors.c.name).where(exists().where(notes.c.body == authors.c.name)),
    "not exists": select(authors.c.name).where(~exists().where(notes.c.body == authors.c.name)),
    "in": select(authors.c.name).where(authors.c.name.in_(select(notes.c.body))),
    "not in": select(authors.c.name).where(authors.c.name.not_in(select(notes.c.body))),
    "scalar in order": select(authors.c.name).order_by(counted_notes()),
    "having": select(notes.c.body, func.count())
    .group_by(notes.c.body)
    .having(func.count() > select(func.min(authors.c.id)).scalar_subquery()),
    "case": select(select(func.max(notes.c.id)).scalar_subquery() + authors.c.id),
    "cte": select(select(notes.c.id).cte("own").c.id),
    "recursive cte": recursive(),
    "union": union(select(notes.c.body), select(authors.c.name)),
    "nested": select(select(select(notes.c.id).subquery().c.id).subquery().c.id),
    "window": select(notes.c.id, func.count().over(partition_by=notes.c.body)),
    "distinct": select(notes.c.body).distinct(),
    "limit": select(notes.c.id).order_by(notes.c.id.desc()).limit(2),
    "or": select(notes.c.id).where(or_(notes.c.id == 1, notes.c.id > 10, true())),
    "tuple": select(notes.c.id).where(tuple_(notes.c.id, notes.c.body).in_([(1, "a"), (11, "a")])),
    "select table": select(notes.c.id, notes.c.tenant, notes.c.body, notes.c.author_id),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_answer_is_that_of_a_tenant_alone(
    name: str, door: Door, tenancy: Tenancy, alone: Engine
) -> None:
    statement = QUESTIONS[name]
    with alone.connect() as connection:
        wanted = answers(connection, statement)
    assert wanted
    assert door.run("uk", lambda session: answers(session, statement)) == wanted
    with tenancy.use("uk"), tenancy.engine.connect() as connection:
        assert answers(connection, statement) == wanted


def test_a_full_join_is_filtered_before_it_joins(alone: Engine, tmp_path: Path) -> None:
    """MariaDB has none."""
    statement = select(authors.c.id, notes.c.id).select_from(
        authors.join(notes, notes.c.body == authors.c.name, full=True)
    )
    with alone.connect() as connection:
        wanted = answers(connection, statement)
    with made(KINDS[0], tmp_path, None) as place:
        tenancy = place.tenancy("uk", "aus")
        door = Door(tenancy, False)
        for tenant_id in ("uk", "aus"):
            door.run(tenant_id, lambda session, each=tenant_id: fill(session, each))  # type: ignore[misc]
        assert door.run("uk", lambda session: answers(session, statement)) == wanted
        tenancy.close()


# Writing --------------------------------------------------------------------------------------


def of_aus(place: Place) -> list[tuple[Any, ...]]:
    engine = place.admin_engine()
    with engine.connect() as connection:
        found = connection.execute(
            select(notes.c.id, notes.c.body, notes.c.author_id).where(notes.c.tenant == "aus")
        )
        rows = sorted(tuple(row) for row in found)
        found = connection.execute(select(authors.c.id, authors.c.name).where(authors.c.id > 10))
        rows += sorted(tuple(row) for row in found)
    engine.dispose()
    return rows


WRITES: dict[str, Any] = {
    "update all": update(notes).values(body="w"),
    "update by subquery": update(notes)
    .where(notes.c.author_id.in_(select(authors.c.id)))
    .values(body="w"),
    "update to a subquery": update(notes).values(
        body=func.coalesce(
            select(func.max(authors.c.name))
            .where(authors.c.id == notes.c.author_id)
            .scalar_subquery(),
            "",
        )
    ),
    "update of two tables": update(notes)
    .where(notes.c.body == authors.c.name)
    .values(body=authors.c.name + "w"),
    "delete all": delete(notes),
    "delete by subquery": delete(notes).where(~exists().where(notes.c.author_id == authors.c.id)),
    "delete or": delete(notes).where(or_(notes.c.id == 11, true())),
    "many updates": update(notes).where(notes.c.id == 11).values(body="w"),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_touches_the_tenants_rows_alone(name: str, door: Door, shared_place: Place) -> None:
    before = of_aus(shared_place)
    door.run("uk", lambda session: session.connection().execute(WRITES[name]))
    assert of_aus(shared_place) == before


def test_tables_joined_in_a_delete(door: Door, shared_place: Place) -> None:
    if shared_place.kind.server != "mariadb":
        pytest.skip("DELETE of joined tables is MySQL's")
    before = of_aus(shared_place)
    statement = delete(notes).where(notes.c.body == authors.c.name)
    assert door.run("uk", lambda session: session.execute(statement).rowcount) == 4  # type: ignore[attr-defined]
    joined = update(notes.join(authors, notes.c.author_id == authors.c.id)).values(
        {notes.c.body: "w"}
    )
    door.run("uk", lambda session: session.connection().execute(joined))
    assert of_aus(shared_place) == before


def test_an_insert_from_a_select_is_the_tenants(door: Door, shared_place: Place) -> None:
    before = of_aus(shared_place)
    names = ["id", "tenant", "body"]
    source = select(notes.c.id + 100, literal("uk"), notes.c.body)
    door.run("uk", lambda session: session.execute(insert(notes).from_select(names, source)))
    assert of_aus(shared_place) == before
    assert door.run("uk", lambda session: session.query(Note).count()) == 8
    stolen = source.add_columns(literal("aus"))
    with pytest.raises(UnsupportedError, match="must leave the tenant column out"):
        door.run(
            "uk",
            lambda session: session.execute(
                insert(notes).from_select([*names, "tenant_id"], stolen)
            ),
        )


def test_an_upsert_never_changes_another_tenants_row(door: Door, shared_place: Place) -> None:
    before = of_aus(shared_place)
    row = {"id": 11, "tenant": "uk", "body": "taken"}
    if shared_place.kind.server == "sqlite":
        upsert: Any = sqlite.insert(notes).values(row)
        upsert = upsert.on_conflict_do_update(index_elements=["id"], set_={"body": "taken"})
        door.run("uk", lambda session: session.execute(upsert))
        moved = sqlite.insert(notes).values(row)
        moved = moved.on_conflict_do_update(index_elements=["id"], set_={"tenant_id": "aus"})
        with pytest.raises(UnsupportedError, match="must not set the tenant column"):
            door.run("uk", lambda session: session.execute(moved))
        replace = insert(notes).values(row).prefix_with("OR REPLACE")
        with pytest.raises(UnsupportedError, match="SQL text"):
            door.run("uk", lambda session: session.execute(replace))
    else:
        upsert = mysql.insert(notes).values(row).on_duplicate_key_update(body="taken")
        with pytest.raises(UnsupportedError, match="ON DUPLICATE KEY UPDATE"):
            door.run("uk", lambda session: session.execute(upsert))
    assert of_aus(shared_place) == before


# Refused --------------------------------------------------------------------------------------

own = Note.id
REFUSED: dict[str, Callable[[Session], Any]] = {
    "text": lambda s: s.execute(text("SELECT * FROM notes")),
    "text in where": lambda s: s.execute(select(Note).where(text("1 = 1 OR 1 = 1"))),
    "text as column": lambda s: s.execute(select(text("(SELECT max(body) FROM notes)"))),
    "text with a from": lambda s: s.execute(select(text("body FROM notes"))),
    "text in from": lambda s: s.execute(select(column("body")).select_from(text("notes"))),
    "literal column": lambda s: s.execute(select(literal_column("(SELECT body FROM notes)"))),
    "text in order": lambda s: s.execute(select(own).order_by(text("(SELECT 1 FROM notes)"))),
    "prefix": lambda s: s.execute(select(own).prefix_with("body FROM notes --")),
    "suffix": lambda s: s.execute(select(own).suffix_with("UNION SELECT id FROM notes")),
    "statement hint": lambda s: s.execute(
        select(own).with_statement_hint("UNION SELECT id FROM notes")
    ),
    "operator": lambda s: s.execute(select(own).where(own.op("= 1 OR 1 =")(1))),
    "loose operator": lambda s: s.execute(select(own).where(own.op("OR", precedence=100)(1))),
    "bare table": lambda s: s.execute(select(table("notes", column("body")))),
    "unmarked table": lambda s: s.execute(
        select(Table("notes", MetaData(), Column("body", String(20))))
    ),
    "unmarked table in insert": lambda s: s.execute(
        insert(Table("notes", MetaData(), Column("body", String(20)))).values(body="x")
    ),
    "driver's sql": lambda s: s.connection().exec_driver_sql("SELECT * FROM notes"),
    "a list behind a from": lambda s: s.execute(
        select(column("body")).select_from(Author).suffix_with("x, notes")
    ),
    "ddl": lambda s: Base.metadata.drop_all(s.connection()),
    "one table's ddl": lambda s: Table("x", MetaData(), Column("id", Integer)).create(
        s.connection(), checkfirst=False
    ),
    "connection of the connection": lambda s: s.connection().connection.cursor(),
    "driver's connection": lambda s: s.connection().connection.driver_connection,
    "dbapi connection": lambda s: s.connection().connection.dbapi_connection.cursor(),  # type: ignore[union-attr]
    "bare connection": lambda s: s.get_bind().engine.raw_connection(),
    "a connection of the pool": lambda s: s.get_bind().engine.pool.connect(),
    "an unquoted name": lambda s: s.execute(
        select(column(quoted_name("(SELECT max(body) FROM notes)", quote=False)))
    ),
    "a strange field": lambda s: s.execute(select(extract("year FROM x) , (y", Note.body))),
    "default by text": lambda s: s.execute(
        insert(
            Table(
                "notes",
                MetaData(),
                Column("id", Integer, primary_key=True),
                Column("tenant_id", String(64), info={"tenantry": "tenant"}),
                Column("body", String(20), default=text("(SELECT max(body) FROM notes)")),
            )
        ).values(id=77, tenant_id="uk")
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused(name: str, door: Door) -> None:
    with pytest.raises(UnsupportedError) as caught:
        door.run("uk", REFUSED[name])
    assert caught.value.tenant_id == "uk"


ALLOWED: dict[str, Callable[[Session], Any]] = {
    "an order in words": lambda s: s.execute(select(own).order_by(text("notes.id desc"))),
    "a number": lambda s: s.execute(select(literal_column("1"))),
    "a column in words": lambda s: s.execute(select(text("notes.id")).select_from(Note)),
    "an operator": lambda s: s.execute(select(own).where(Note.body.op("LIKE")("a"))),
    "sworn text": lambda s: s.execute(
        text("SELECT 1"), execution_options={"tenantry_filtered": True}
    ),
    "reflection": lambda s: inspect(s.connection()).get_columns("notes"),
    "savepoint": lambda s: s.begin_nested().rollback(),
    "isolation level": lambda s: s.connection().get_isolation_level(),
    "set isolation level": lambda s: s.connection(
        execution_options={"isolation_level": "SERIALIZABLE"}
    ),
    "lock": lambda s: s.execute(select(own).with_for_update()),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_reads_no_table_is_allowed(name: str, door: Door) -> None:
    door.run("uk", ALLOWED[name])


def test_a_plain_sessionmaker_is_kept_too(tenancy: Tenancy, door: Door) -> None:
    make = sessionmaker(tenancy.engine)
    with tenancy.use("uk"), make() as session:
        assert {note.tenant for note in session.query(Note)} == {"uk"}
        session.add(Note(id=70, tenant="uk", tenant_id="aus"))
        with pytest.raises(CrossTenantError):
            session.flush()


# Models of many shapes ------------------------------------------------------------------------


class Shapes(DeclarativeBase):
    metadata = MetaData()


class Animal(TenantRows, Shapes):
    __tablename__ = "animals"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}


class Dog(Animal):
    __tablename__ = "dogs"
    id: Mapped[int] = mapped_column(ForeignKey("animals.id"), primary_key=True)
    trick: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_identity": "dog"}


class Cat(Animal):
    __tablename__ = "cats"
    id: Mapped[int] = mapped_column(ForeignKey("animals.id"), primary_key=True)
    own_tenant: Mapped[str] = mapped_column(
        String(64), default=tenant_key, info={"tenantry": "tenant"}
    )
    lives: Mapped[int] = mapped_column(default=9)
    __mapper_args__ = {"polymorphic_identity": "cat"}


friends_bare = Table(
    "friends_bare",
    Shapes.metadata,
    Column("one", ForeignKey("people.id"), primary_key=True),
    Column("other", ForeignKey("people.id"), primary_key=True),
)
friends = Table(
    "friends",
    Shapes.metadata,
    Column("one", ForeignKey("people.id"), primary_key=True),
    Column("other", ForeignKey("people.id"), primary_key=True),
    Column("tenant_id", String(64), default=tenant_key, info={"tenantry": "tenant"}),
)


class Person(TenantRows, Shapes):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20), default="x")
    friends: Mapped[list[Person]] = relationship(
        secondary=friends,
        primaryjoin=lambda: Person.id == friends.c.one,
        secondaryjoin=lambda: Person.id == friends.c.other,
    )
    bare: Mapped[list[Person]] = relationship(
        secondary=friends_bare,
        primaryjoin=lambda: Person.id == friends_bare.c.one,
        secondaryjoin=lambda: Person.id == friends_bare.c.other,
    )

    @hybrid_property
    def loud(self) -> str:
        return self.name.upper()

    @loud.inplace.expression
    @classmethod
    def _loud(cls) -> ColumnElement[str]:
        return func.upper(cls.name)


class Country(Shapes):
    __tablename__ = "countries"
    __table_args__ = {"info": {"tenantry": "shared"}}
    id: Mapped[int] = mapped_column(primary_key=True)


class Counted(TenantRows, Shapes):
    __tablename__ = "counted"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    others: Mapped[int] = column_property(select(func.count(Animal.id)).scalar_subquery())


@pytest.fixture
def shapes(tmp_path: Path) -> Iterator[Door]:
    with made(KINDS[0], tmp_path, None) as place:
        tenancy = place.tenancy("uk", "aus", tables=False)
        place.create_as_admin(Shapes.metadata)
        yield Door(tenancy, False)
        tenancy.close()


def test_a_subclass_table_without_tenant_column_is_refused(shapes: Door) -> None:
    with pytest.raises(UnsupportedError, match="'dogs' has no tenant column"):
        shapes.run("uk", lambda session: session.query(Dog).all())
    with pytest.raises(UnsupportedError, match="'dogs' has no tenant column"):
        shapes.run("uk", lambda session: session.add(Dog(id=1, name="x", trick="sit")))


def test_a_subclass_with_the_column_is_kept(shapes: Door) -> None:
    for tenant_id, number in (("uk", 1), ("aus", 2)):
        shapes.run(
            tenant_id,
            lambda session, each=number: session.add(Cat(id=each, name="x")),  # type: ignore[misc]
        )

    def body(session: Session) -> list[int]:
        every = with_polymorphic(Animal, [Cat])
        found = [each.id for each in session.scalars(select(every))]
        found += [each.id for each in session.query(Cat)]
        found += session.scalars(select(Cat.__table__.c.id))
        assert session.get(Animal, 2) is None
        return found

    assert shapes.run("uk", body) == [1, 1, 1]


def test_many_to_many_needs_the_column(shapes: Door) -> None:
    def befriend(session: Session) -> None:
        two = Person(id=2)
        session.add(Person(id=1, name="ann", friends=[two]))

    shapes.run("uk", befriend)
    shapes.run("aus", lambda session: session.add(Person(id=11, name="bob")))

    def look(session: Session) -> list[list[int]]:
        ways = (selectinload(Person.friends), joinedload(Person.friends), lazyload(Person.friends))
        found = []
        for way in ways:
            session.expunge_all()
            ann = session.scalars(select(Person).where(Person.id == 1).options(way)).unique().one()
            found.append([each.id for each in ann.friends])
        return found

    assert shapes.run("uk", look) == [[2], [2], [2]]
    with pytest.raises(UnsupportedError, match="'friends_bare' has no tenant column"):
        shapes.run("uk", lambda session: session.get_one(Person, 1).bare)

    def join_bare(session: Session) -> None:
        one, two = session.get_one(Person, 1), session.get_one(Person, 2)
        session.execute(insert(friends_bare).values(one=one.id, other=two.id))

    with pytest.raises(UnsupportedError, match="'friends_bare' has no tenant column"):
        shapes.run("uk", join_bare)


def test_a_hybrid_is_kept(shapes: Door) -> None:
    shapes.run("uk", lambda session: session.add(Person(id=1, name="ann")))
    shapes.run("aus", lambda session: session.add(Person(id=2, name="ann")))
    loud = select(Person.id).where(Person.loud == "ANN")
    assert shapes.run("uk", lambda session: session.scalars(loud).all()) == [1]


def test_a_column_of_a_subquery_counts_the_tenants_rows(shapes: Door) -> None:
    shapes.run("uk", lambda session: session.add(Counted(id=1, name="uk")))
    for tenant_id, numbers in (("uk", (1, 2)), ("aus", (3,))):
        shapes.run(
            tenant_id,
            lambda session, each=numbers: session.add_all(  # type: ignore[misc]
                Animal(id=number, name="x") for number in each
            ),
        )
    assert shapes.run("uk", lambda session: session.get_one(Counted, 1).others) == 2


def test_shared_tables_are_read_by_all(shapes: Door) -> None:
    shapes.run("uk", lambda session: session.add(Country(id=1)))
    assert shapes.run("aus", lambda session: session.query(Country).count()) == 1
    assert mark_shared(MetaData()).info == {"tenantry": "shared"}


# Any select at all ----------------------------------------------------------------------------


@st.composite
def selects(draw: st.DrawFn, depth: int = 2) -> Any:
    """Selects over one to three tables, joined in every way, with subqueries in every place."""
    count = draw(st.integers(1, 3))
    parts: list[Any] = []
    for number in range(count):
        base = draw(st.sampled_from([notes, authors]))
        if depth > 0 and draw(st.integers(0, 4)) == 0:
            inner = draw(selects(depth=depth - 1))
            parts.append(inner.subquery(f"q{depth}{number}"))
        else:
            parts.append(base.alias(f"t{depth}{number}"))
    joined = parts[0]
    for part in parts[1:]:
        left = draw(st.sampled_from(flat(joined)))
        how = draw(st.sampled_from(["inner", "left", "full"]))
        joined = joined.join(
            part, words(left) == words(part), isouter=how == "left", full=how == "full"
        )
    columns = [words(part).label(f"w{number}") for number, part in enumerate(parts)]
    columns.append(keys(parts[0]).label("k"))
    if depth > 0 and draw(st.booleans()):
        target = draw(st.sampled_from([notes, authors])).alias(f"s{depth}")
        counted = select(func.count()).where(words(target) == words(parts[0]))
        columns.append(counted.scalar_subquery().label("n"))
    statement = select(*columns).select_from(joined)
    if draw(st.booleans()):
        target = draw(st.sampled_from([notes, authors])).alias(f"e{depth}")
        found = exists().where(and_(words(target) == words(parts[-1]), keys(target) > 1))
        statement = statement.where(found if draw(st.booleans()) else ~found)
    if draw(st.booleans()):
        # A condition that an unwary filter would let escape.
        statement = statement.where(or_(keys(parts[0]) > draw(st.integers(0, 12)), true()))
    return statement


def flat(part: Any) -> list[Any]:
    if hasattr(part, "onclause"):
        return [*flat(part.left), *flat(part.right)]
    return [part]


def words(part: Any) -> Any:
    return next(part.c[name] for name in ("body", "name", "w0") if name in part.c)


def keys(part: Any) -> Any:
    return part.c["id"] if "id" in part.c else part.c["k"]


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenancy]:
    with made(KINDS[0], tmp_path_factory.mktemp("beside"), None) as place:
        tenancy = place.tenancy("uk", "aus")
        for tenant_id in ("uk", "aus"):
            Door(tenancy, False).run(
                tenant_id,
                lambda session, each=tenant_id: fill(session, each),  # type: ignore[misc]
            )
        yield tenancy
        tenancy.close()


@settings(
    max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(statement=selects())
def test_any_select_gives_what_it_gives_a_tenant_alone(
    statement: Any, beside: Tenancy, alone: Engine
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SQLAlchemy's, of cartesian products
        with alone.connect() as connection:
            wanted = answers(connection, statement)
        with beside.use("uk"), beside.engine.connect() as connection:
            assert answers(connection, statement) == wanted


def test_the_errors_are_no_database_errors() -> None:
    assert issubclass(UnsupportedError, TenantryError)
