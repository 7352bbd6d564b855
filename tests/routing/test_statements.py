"""Which statements may leave something on their session: the doubt goes to safety."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Sequence,
    String,
    Table,
    cast,
    event,
    func,
    insert,
    literal_column,
    select,
    table,
    text,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql import column, quoted_name
from sqlalchemy.sql.expression import ColumnElement

from tenantry import Tenancy
from tenantry.routing.statements import (
    commands,
    ends_transaction,
    keeps_session_state,
    text_leaves_nothing,
)
from tests.places import Author, Note, Place

HARMLESS = [
    "SELECT 1",
    "SELECT count(*), max(id) FROM notes WHERE id IN (1, 2)",
    "select a.x from (select 1 as x) as a where (a.x = 1) and (a.x in (1))",
    "INSERT INTO notes (id, tenant) VALUES (1, 'x')",
    "UPDATE notes SET body = upper(body) WHERE id = (SELECT max(id) FROM notes)",
    "DELETE FROM notes WHERE id = 1",
    "SAVEPOINT sa_savepoint_1",
    "RELEASE SAVEPOINT sa_savepoint_1",
    "ROLLBACK TO SAVEPOINT sa_savepoint_1",
]

DIRTY = [
    "SET search_path TO evil",
    "RESET ALL",
    "SELECT set_config('search_path', 'evil', false)",
    "SELECT pg_catalog.set_config('search_path', 'evil', false)",
    "SELECT \"set_config\"('search_path', 'evil', false)",
    "SELECT pg_catalog . set_config ('search_path', 'evil', false)",
    "SELECT U&\"\\0073\\0065\\0074\\005f\\0063\\006f\\006e\\0066\\0069\\0067\"('a', 'b', false)",
    'SELECT "1"()',
    "SELECT é()",
    'SELECT "my function"()',
    "SELECT `get_lock`('x', 1)",
    "SELECT get_lock#\n('x', 1)",
    "SELECT 1; SET search_path TO evil",
    "SELECT 1 -- harmless?",
    "SELECT/**/1",
    "SELECT 'x' AS tenant INTO TEMP notes",
    "SELECT 'x' AS tenant INTO TEMPORARY TABLE notes",
    "SELECT 'x' AS tenant INTO LOCAL TEMPORARY TABLE notes",
    "SELECT 'x' AS tenant INTO LOCAL TEMP notes",
    "SELECT 'x' AS tenant INTO pg_temp.notes",
    "SELECT 'x' AS tenant INTO \"pg_temp\".notes",
    "SELECT 1 INTO @x",
    "SELECT 1 INTO @`x`",
    "SELECT @'x' := 1",
    "SELECT @.x := 1",
    "SELECT @$x := 1",
    "SELECT 1 INTO OUTFILE '/tmp/x'",
    "WITH x AS (SELECT pg_advisory_lock(1)) SELECT * FROM x",
    "CREATE TEMP TABLE notes (id int)",
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "PREPARE p AS SELECT 1",
    "LISTEN somebody",
    "COMMIT",
    "USE other",
    "CALL something()",
    "DO $$ BEGIN END $$",
    "EXPLAIN ANALYZE SELECT set_config('a', 'b', false)",
    "PRAGMA foreign_keys = ON",
    "ATTACH DATABASE 'x' AS y",
    "\ufeffSELECT 1",
]


@pytest.mark.parametrize("statement", HARMLESS)
def test_plain_reads_and_writes_cost_no_reset(statement: str) -> None:
    assert text_leaves_nothing(statement)


@pytest.mark.parametrize("statement", DIRTY)
def test_whatever_may_leave_something_is_reset(statement: str) -> None:
    assert not text_leaves_nothing(statement)


COMMANDS = {
    "SELECT 1": ("SELECT 1",),
    " SELECT 1 ; -- and\n;SELECT 2;": ("SELECT 1", "SELECT 2"),
    "SELECT 'a; b', \"c; d\" /* ; */ FROM e": ("SELECT '', ''   FROM e",),
    "SELECT 'a\\'; SELECT E'\\'; b'": ("SELECT ''", "SELECT ''"),
    "SELECT 'it''s; so', 'f'; x": ("SELECT '', 'f'", "x"),
    "DO $$ BEGIN; END $$; DO $a$ $$; $a$": ("DO ''", "DO ''"),
    "SELECT $1; SELECT a$b$c; SELECT $2": ("SELECT $1", "SELECT a$b$c", "SELECT $2"),
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END; x": (
        "CREATE FUNCTION f() RETURNS int",
        "x",
    ),
    "": (),
}


@pytest.mark.parametrize("statement", COMMANDS)
def test_a_text_is_cut_into_its_commands(statement: str) -> None:
    assert commands(statement) == COMMANDS[statement]


ENDS = {
    "COMMIT": True,
    "  rollback": True,
    "; END;": True,
    "/* why */ COMMIT": True,
    "/* a /* b */ c */ COMMIT": True,
    "/* /* */ ' */ COMMIT /* ' */": True,  # comments nest
    "/* a; /* b */ COMMIT */ SELECT 1": False,
    "SELECT a$b$; COMMIT; SELECT a$b$": True,  # a name
    "SELECT name'; COMMIT; SELECT '": False,
    "SELECT one'\\'; COMMIT; SELECT '": True,  # no text with escapes, for its e is a name's
    "-- why\rCOMMIT": True,
    "-- why\nBEGIN": True,
    "SELECT 1; COMMIT; SELECT 2": True,
    "SELECT E'\\''; '; COMMIT": True,  # the last text is not ended: in doubt
    "SELECT E'\\'; '; COMMIT": True,
    "PREPARE TRANSACTION 'a'": True,
    "ROLLBACK TO SAVEPOINT a": False,
    "ROLLBACK WORK TO a": False,
    "SAVEPOINT a": False,
    "SELECT 'COMMIT'; SELECT $$; COMMIT$$": False,
    "SELECT 1 -- ; COMMIT": False,
    "DO $$ BEGIN NULL; END $$": False,
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END": False,
}


@pytest.mark.parametrize("statement", ENDS)
def test_what_ends_a_transaction_is_found_wherever_it_stands(statement: str) -> None:
    assert ends_transaction(statement) is ENDS[statement]


KEEPS = {
    "SET search_path TO a": True,
    "SELECT 1; SET search_path TO a": True,
    "/* why */ LISTEN a": True,
    "SELECT set_config('a', 'b', false)": True,
    "SELECT set_config('a', 'b; c', 'f')": True,
    "SELECT pg_advisory_lock(1)": True,
    "create temp table a (b int)": True,
    "SELECT set_config('a', 'b', true)": False,
    "SET LOCAL lock_timeout = 1": False,
    "UPDATE notes SET body = own(body)": False,
    "SELECT 'SET a; LISTEN b'": False,
}


@pytest.mark.parametrize("statement", KEEPS)
def test_what_outlives_a_transaction_is_found_wherever_it_stands(statement: str) -> None:
    assert keeps_session_state(statement) is KEEPS[statement]


class HidesACall(ColumnElement[int]):
    inherit_cache = True
    type = Integer()


@compiles(HidesACall)
def _compile(element: HidesACall, compiler: Any, **kw: Any) -> str:
    return "length(set_config('statement_timeout', '1234', false))"


CALL = "set_config('statement_timeout', '1234', false)"
ELEMENTS: dict[str, Any] = {
    "text": text(f"SELECT {CALL}"),
    "function": select(func.set_config("statement_timeout", "1234", False)),
    "function of a schema": select(func.pg_catalog.set_config("statement_timeout", "1234", False)),
    "literal column": select(literal_column(CALL)),
    "text in a list": select(text(CALL)),
    "where": select(Author.id).where(text(f"{CALL} = 'x'")),
    "order by": select(Author.name).order_by(text(CALL)),
    "prefix": select(column("x"))
    .select_from(select(literal_column("1").label("x")).subquery())
    .prefix_with(f"{CALL},", dialect="postgresql"),
    "suffix": select(Author.name).suffix_with(f"ORDER BY {CALL}"),
    "operator": select(cast("a", String).op(f"|| {CALL} ||")("b")),
    "hint": select(Author.id).with_statement_hint(f"ORDER BY {CALL}"),
    "unquoted name": select(text("*")).select_from(table(quoted_name(CALL, quote=False))),
    "own element": select(HidesACall()),
    "update": update(Author).values(name=func.set_config("statement_timeout", "1234", False)),
}


@pytest.fixture
def tenancy(place: Place) -> Any:
    tenancy = place.tenancy("uk", max_connections=1)
    with tenancy.use("uk"), tenancy.session() as session:
        session.add(Author(id=1, name="somebody"))
        session.commit()
    yield tenancy
    tenancy.close()


def timeout_and_process(session: Session) -> Any:
    return session.execute(
        text("SELECT setting, pg_backend_pid() FROM pg_settings WHERE name = 'statement_timeout'")
    ).one()


@pytest.mark.parametrize("name", ELEMENTS)
def test_what_an_element_hides_is_reset_too(name: str, tenancy: Tenancy) -> None:
    with tenancy.use("uk"):
        with tenancy.session() as session:
            usual, process = timeout_and_process(session)
        with tenancy.session() as session:
            session.execute(ELEMENTS[name])
            setting = "SELECT setting FROM pg_settings WHERE name = 'statement_timeout'"
            assert session.scalar(text(setting)) == "1234"  # it bites
            session.commit()
        with tenancy.session() as session:
            assert timeout_and_process(session) == (usual, process)


def test_a_default_may_be_asked_for_before_the_statement_that_needs_it(tenancy: Tenancy) -> None:
    number = Column("id", Integer, Sequence("numbers_id"), primary_key=True)
    numbers = Table("numbers", MetaData(), number, implicit_returning=False)
    with tenancy.use("uk"), tenancy.engine.begin() as connection:
        numbers.metadata.create_all(connection)
        keys = [connection.execute(numbers.insert()).inserted_primary_key for _ in range(2)]
        assert keys == [(1,), (2,)]


def test_a_statement_that_a_listener_changed_is_looked_at_again(tenancy: Tenancy) -> None:
    @event.listens_for(tenancy.engine, "before_cursor_execute", retval=True)
    def change(_: object, cursor: object, statement: str, parameters: Any, *more: object) -> Any:
        if "authors" in statement:
            statement = f"SELECT {CALL}"
        return statement, parameters

    with tenancy.use("uk"):
        with tenancy.session() as session:
            usual, _ = timeout_and_process(session)
        with tenancy.session() as session:
            session.execute(select(Author.name))
            session.commit()
        with tenancy.session() as session:
            assert timeout_and_process(session)[0] == usual


ORDINARY: dict[str, Any] = {
    "select": select(Note).where(Note.id.in_([1, 2])).order_by(Note.id).limit(3),
    "join": select(Note, Author).join(Note.author),
    "aggregate": select(func.count(), func.max(Note.id)).group_by(Note.tenant),
    "insert": insert(Note).values(tenant="uk", body="x").returning(Note.id),
    "conflict": postgresql.insert(Note)
    .values(id=1, tenant="uk", body="x")
    .on_conflict_do_nothing(index_elements=["id"]),
    "update": update(Note).values(body=func.upper(Note.body)),
}


def test_ordinary_work_is_never_reset(tenancy: Tenancy) -> None:
    resets: list[str] = []
    with tenancy.use("uk"):
        for statement in ORDINARY.values():
            with tenancy.session() as session:
                session.execute(statement)
                record = session.connection()._dbapi_connection._connection_record  # type: ignore[union-attr]
                if record.dirty or record.lent:
                    resets.append(str(statement))
                session.commit()
        with tenancy.session() as session:
            session.add_all([Note(tenant="uk", body=str(n)) for n in range(5)])
            session.flush()
            with session.begin_nested():
                session.add(Note(tenant="uk", body="nested"))
            record = session.connection()._dbapi_connection._connection_record  # type: ignore[union-attr]
            if record.dirty or record.lent:
                resets.append("flush of several objects, and a savepoint")
            session.rollback()
    assert resets == []
