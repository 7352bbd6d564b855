"""Known ways around row-level security, tried by the application's login as tenant ``uk``.

Each attack begins with what somebody may have left in the database and with what the owner runs
after every migration (``policy_statements``); then it tries to see or touch a row of ``aus``.
What remains is named in ``docs/rows.md`` and shown at the end: it needs ``database`` isolation or
a login role per tenant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, String, Table, delete, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from tenantry import Isolation, Tenancy
from tenantry.backends.base import sqlstate
from tenantry.errors import CallerError, ConfigurationError
from tenantry.isolation.policies import policy_statements, rows_metadata, view_statements
from tenantry.testing.address import ServerAddress
from tests.places import Author, Base, Door, Kind, Note, Place, made

SYNC = Kind("postgresql", "psycopg", isolation=Isolation.ROWS)
ASYNC = Kind("postgresql", "asyncpg", True, Isolation.ROWS)
SECRET = "known to aus alone"
#: What an attack must not fail with: syntax, unknown column, function, table, object.
MISTAKES = ("42601", "42703", "42883", "42P01", "42704", "22023")


@pytest.fixture(scope="module")
def place(postgresql: ServerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with made(SYNC, tmp_path_factory.mktemp("rows"), postgresql) as place:
        yield place


@pytest.fixture(scope="module")
def tenancy(place: Place) -> Iterator[Tenancy]:
    # One connection, so that each piece of work follows another tenant's on it.
    tenancy = place.tenancy("uk", "aus", max_connections=1)
    yield tenancy
    tenancy.close()


@pytest.fixture
def door(place: Place, tenancy: Tenancy) -> Iterator[Door]:
    door = Door(tenancy, False)
    door.run("aus", lambda session: session.add(Note(id=1, tenant="aus", body=SECRET)))
    door.run("uk", lambda session: session.add(Note(id=1, tenant="uk", body="own")))
    yield door
    for tenant_id in ("uk", "aus"):
        door.run(tenant_id, lambda session: session.execute(delete(Note)))
        door.run(tenant_id, lambda session: session.execute(delete(Author)))


def protect(place: Place, *more: str) -> None:
    """What the owner runs after each migration."""
    engine = place.admin_engine()
    with engine.begin() as connection:
        metadata = rows_metadata(Base.metadata)
        for statement in policy_statements(metadata, schema="public", login=place.login):
            connection.exec_driver_sql(statement)
        for statement in more:
            connection.exec_driver_sql(statement)
    engine.dispose()


def theirs(place: Place) -> list[tuple[Any, ...]]:
    return place.execute("SELECT id, body FROM notes WHERE tenant_id = 'aus'")


@dataclass(frozen=True)
class Attack:
    """*left* are the owner's statements beforehand, *tries* those of the application's login.

    ``{login}`` in them is the application's login. *undo* takes *left* away again.
    """

    name: str
    tries: tuple[str, ...]
    left: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()


ATTACKS = [
    Attack("plain read", ("SELECT body FROM notes", "TABLE notes")),
    Attack("row security off", ("SET LOCAL row_security = off; SELECT body FROM notes",)),
    Attack("disable", ("ALTER TABLE notes DISABLE ROW LEVEL SECURITY; SELECT body FROM notes",)),
    Attack("no force", ("ALTER TABLE notes NO FORCE ROW LEVEL SECURITY",)),
    Attack("drop the policies", ("DROP POLICY tenantry_fence ON notes",)),
    Attack(
        "a second permissive policy",
        ("SELECT body FROM notes", "UPDATE notes SET body = 'taken'"),
        ("CREATE POLICY everything ON notes USING (true) WITH CHECK (true)",),
        ("DROP POLICY everything ON notes",),
    ),
    Attack(
        "a policy with check true",
        ("INSERT INTO notes (id, tenant, body, tenant_id) VALUES (7, 'x', 'planted', 'aus')",),
        ("CREATE POLICY anything ON notes FOR INSERT WITH CHECK (true)",),
        ("DROP POLICY anything ON notes",),
    ),
    Attack(
        "an empty setting passes",
        (
            "RESET tenantry.tenant; SELECT body FROM notes",
            "SET LOCAL tenantry.tenant = ''; SELECT body FROM notes",
        ),
        (
            (
                "CREATE POLICY empty ON notes USING "
                "(coalesce(current_setting('tenantry.tenant', true), '') = '')"
            ),
        ),
        ("DROP POLICY empty ON notes",),
    ),
    Attack(
        "a view of the owner",
        ("SELECT body FROM every_note",),
        (
            "CREATE VIEW every_note AS SELECT * FROM notes",
            'GRANT SELECT ON every_note TO "{login}"',
        ),
        ("DROP VIEW every_note",),
    ),
    Attack(
        "a materialized view",
        ("SELECT body FROM kept_notes",),
        (
            "CREATE MATERIALIZED VIEW kept_notes AS SELECT * FROM notes",
            'GRANT SELECT ON kept_notes TO "{login}"',
        ),
        ("DROP MATERIALIZED VIEW kept_notes",),
    ),
    Attack(
        "a function with its owner's rights",
        ("SELECT read_notes()",),
        (
            (
                "CREATE FUNCTION read_notes() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER "
                "AS 'SELECT body::text FROM public.notes'"
            ),
        ),
        ("DROP FUNCTION read_notes",),
    ),
    Attack(
        "a forgotten table",
        ("SELECT body FROM forgotten",),
        (
            "CREATE TABLE forgotten AS SELECT * FROM notes",
            'GRANT ALL ON forgotten TO "{login}", PUBLIC',
        ),
        ("DROP TABLE forgotten",),
    ),
    Attack(
        "a table that inherits, addressed directly",
        ("SELECT body FROM old_notes", "SELECT body FROM notes"),
        (
            "CREATE TABLE old_notes () INHERITS (notes)",
            (
                "INSERT INTO old_notes (id, tenant, body, tenant_id) "
                f"VALUES (900, 'aus', '{SECRET}', 'aus')"
            ),
            'GRANT ALL ON old_notes TO "{login}"',
        ),
        ("DROP TABLE old_notes",),
    ),
    Attack(
        "an existing key tells of itself",
        # Had keys no tenant, this would fail as a duplicate.
        ("INSERT INTO notes (id, tenant, body) VALUES (2, 'uk', 'free')",),
        ("INSERT INTO notes (id, tenant, body, tenant_id) VALUES (2, 'aus', 'second', 'aus')",),
        ("DELETE FROM notes WHERE id = 2",),
    ),
    Attack(
        "a foreign key to a row of another",
        ("UPDATE notes SET author_id = 500",),
        ("INSERT INTO authors (id, name, tenant_id) VALUES (500, 'aus', 'aus')",),
        ("DELETE FROM authors WHERE id = 500",),
    ),
    Attack("truncate", ("TRUNCATE notes", "TRUNCATE notes CASCADE")),
    Attack(
        "references and triggers",
        (
            (
                "CREATE TRIGGER t BEFORE INSERT ON notes FOR EACH ROW "
                "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
            ),
            "CREATE RULE r AS ON SELECT TO notes DO ALSO NOTHING",
            (
                "CREATE TABLE public.child (tenant_id varchar, id int, "
                "FOREIGN KEY (tenant_id, id) REFERENCES notes (tenant_id, id))"
            ),
            (
                "CREATE TEMP TABLE child (tenant_id varchar, id int, "
                "FOREIGN KEY (tenant_id, id) REFERENCES notes (tenant_id, id))"
            ),
        ),
    ),
    Attack(
        "another role",
        (
            'SET ROLE "{owner}"',
            'SET SESSION AUTHORIZATION "{owner}"',
            "SET ROLE pg_read_all_data",
            "RESET ROLE; SELECT body FROM notes",
            "RESET SESSION AUTHORIZATION; SELECT body FROM notes",
        ),
    ),
    Attack(
        "copy",
        (
            "COPY notes FROM STDIN",
            "COPY (SELECT body FROM notes) TO PROGRAM 'cat'",
            "COPY notes TO '/tmp/notes'",
        ),
    ),
    Attack(
        "on conflict",
        (
            (
                "INSERT INTO notes (id, tenant, body, tenant_id) VALUES (1, 'x', 'planted', 'aus') "
                "ON CONFLICT (tenant_id, id) DO UPDATE SET body = 'planted' RETURNING body"
            ),
            (
                "INSERT INTO notes (id, tenant, body) VALUES (1, 'x', 'planted') "
                "ON CONFLICT (tenant_id, id) DO UPDATE SET tenant_id = 'aus', body = 'planted'"
            ),
            (
                "INSERT INTO notes (id, tenant, body, tenant_id) VALUES (1, 'x', 'planted', 'aus') "
                "ON CONFLICT DO NOTHING"
            ),
        ),
    ),
    Attack(
        "a row moved to another tenant",
        (
            "UPDATE notes SET tenant_id = 'aus', id = 50",
            "UPDATE notes SET tenant_id = 'uk' WHERE tenant_id = 'aus'",
            "INSERT INTO notes (id, tenant, body, tenant_id) VALUES (51, 'x', 'planted', 'aus')",
        ),
    ),
    Attack(
        "merge",
        (
            (
                "MERGE INTO notes n USING (SELECT 1) s ON n.id = 1 "
                "WHEN MATCHED THEN UPDATE SET tenant_id = 'aus'"
            ),
            (
                "MERGE INTO notes n USING (SELECT 1) s ON n.tenant_id = 'aus' "
                "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN DO NOTHING"
            ),
        ),
    ),
    Attack("delete", ("DELETE FROM notes WHERE tenant_id = 'aus'", "DELETE FROM notes")),
    Attack("locks tell nothing", ("SELECT body FROM notes FOR UPDATE",)),
    Attack("by position", ("SELECT body FROM notes WHERE ctid = '(0,1)'",)),
    Attack(
        "a cheap function sees rows first",
        (
            (
                "CREATE TEMP TABLE seen (body text) ;; "
                "CREATE FUNCTION pg_temp.peek(text) RETURNS boolean LANGUAGE plpgsql "
                "COST 0.0000001 "
                "AS $$ BEGIN INSERT INTO pg_temp.seen VALUES ($1); RETURN true; END $$ ;; "
                "SELECT 1 FROM notes WHERE pg_temp.peek(body) ;; SELECT body FROM seen"
            ),
        ),
    ),
    Attack(
        "statistics of the planner",
        (
            "SELECT most_common_vals::text FROM pg_stats WHERE tablename = 'notes'",
            "SELECT stavalues1::text FROM pg_statistic",
        ),
        (
            (
                "INSERT INTO notes (id, tenant, body, tenant_id) "
                f"SELECT i, 'aus', '{SECRET}', 'aus' FROM generate_series(1000, 1100) i"
            ),
            "ANALYZE notes",
        ),
        ("DELETE FROM notes WHERE id BETWEEN 1000 AND 1100",),
    ),
    Attack(
        "the sequence is set back",
        ("SELECT setval('public.notes_id_seq', 1)", "SELECT last_value FROM public.notes_id_seq"),
    ),
    Attack("a table of one's own before theirs", ("CREATE TABLE public.notes2 AS TABLE notes",)),
]


def attempt(door: Door, statement: str) -> list[str]:
    """Every value that a statement of uk gives; an error is as good as none, and rolled back."""

    def body(session: Session) -> list[str]:
        try:
            connection = session.connection()
            seen: list[str] = []
            for part in statement.split(" ;; " if "$$" in statement else "; "):
                result = connection.exec_driver_sql(part)
                if result.returns_rows:
                    seen += [str(value) for row in result for value in row]
            session.commit()
            return seen
        except CallerError:  # raw text that ends the transaction, for instance
            return []
        except DBAPIError as error:
            if sqlstate(error) in MISTAKES:
                raise
            session.rollback()
            return []

    return door.run("uk", body, commit=False)


def test_the_ways_are_29() -> None:
    assert len({attack.name for attack in ATTACKS}) == 29


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name.replace(" ", "-"))
def test_no_known_way_reaches_another_tenants_row(place: Place, door: Door, attack: Attack) -> None:
    try:
        for statement in attack.left:
            place.execute(statement.replace("{login}", place.login))
        protect(place)
        before = theirs(place)
        for statement in attack.tries:
            seen = attempt(door, statement.replace("{owner}", place.address.user))  # type: ignore[union-attr]
            assert not [each for each in seen if SECRET in each or "second" in each], statement
        assert theirs(place) == before
        # It works for who it belongs to.
        assert door.run("uk", lambda session: session.query(Note).count()) in (0, 1, 2)
    finally:
        for statement in attack.undo:
            place.execute(statement)


def test_a_new_key_does_not_tell_of_another_tenants(place: Place, door: Door) -> None:
    place.execute("INSERT INTO notes (id, tenant, body, tenant_id) VALUES (3, 'a', 'x', 'aus')")
    door.run("uk", lambda session: session.add(Note(id=3, tenant="uk")))
    with pytest.raises(DBAPIError, match="foreign key"):
        door.run("uk", lambda session: session.execute(text("UPDATE notes SET author_id = 777")))


def test_a_view_reads_as_who_asks(place: Place, door: Door) -> None:
    place.execute("CREATE VIEW bodies AS SELECT body FROM notes")
    protect(place, *view_statements(["bodies"], schema="public", login=place.login))
    read = text("SELECT body FROM bodies")
    assert door.run("uk", lambda session: list(session.scalars(read))) == ["own"]
    assert door.run("aus", lambda session: list(session.scalars(read))) == [SECRET]
    place.execute("DROP VIEW bodies")


def test_a_partition_is_reached_through_its_table_only(place: Place, door: Door) -> None:
    place.execute(
        "CREATE TABLE parted (tenant_id varchar(64) NOT NULL, body text) PARTITION BY LIST (body)"
    )
    place.execute("CREATE TABLE parted_rest PARTITION OF parted DEFAULT")
    place.execute(f"INSERT INTO parted VALUES ('aus', '{SECRET}'), ('uk', 'own')")
    place.execute(f'GRANT ALL ON parted, parted_rest TO "{place.login}"')
    metadata = rows_metadata(Base.metadata)
    more = MetaData()
    Table(
        "parted", more, Column("tenant_id", String(64), info={"tenantry": "tenant"}),
        Column("body", String),
    )  # fmt: skip
    engine = place.admin_engine()
    with engine.begin() as connection:
        for each in (more, metadata):
            statements = policy_statements(
                each, schema="public", login=place.login, close_others=False
            )
            for statement in statements:
                connection.exec_driver_sql(statement)
        more.tables["parted"].to_metadata(metadata)
        for statement in policy_statements(metadata, schema="public", login=place.login):
            connection.exec_driver_sql(statement)
    engine.dispose()
    assert attempt(door, "SELECT body FROM parted") == ["own"]
    assert attempt(door, "SELECT body FROM parted_rest") == []
    place.execute("DROP TABLE parted")


def test_a_cursor_and_a_prepared_statement_do_not_outlive_their_tenant(door: Door) -> None:
    def leave(session: Session) -> None:
        connection = session.connection()
        connection.exec_driver_sql("DECLARE kept CURSOR WITH HOLD FOR SELECT body FROM notes")
        connection.exec_driver_sql("PREPARE kept AS SELECT body FROM notes")

    door.run("aus", leave)
    for statement in ("FETCH ALL FROM kept", "EXECUTE kept"):
        with pytest.raises(DBAPIError, match="does not exist"):
            door.run("uk", lambda session, each=statement: session.execute(text(each)))  # type: ignore[misc]


def test_copy_to_the_client_gives_the_tenants_rows(tenancy: Tenancy, door: Door) -> None:
    with tenancy.use("uk"), tenancy.engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        raw: Any = connection.connection.driver_connection
        with raw.cursor().copy("COPY notes TO STDOUT") as copy:
            copied = b"".join(bytes(part) for part in copy)
    assert b"own" in copied
    assert SECRET.encode() not in copied


def test_a_bare_connection_and_autocommit_are_the_tenants(tenancy: Tenancy, door: Door) -> None:
    with tenancy.use("uk"):
        raw = tenancy.engine.raw_connection()
        cursor = raw.cursor()
        cursor.execute("SELECT body FROM notes")
        assert cursor.fetchall() == [("own",)]
        raw.close()
        automatic = tenancy.engine.execution_options(isolation_level="AUTOCOMMIT")
        with automatic.connect() as connection:
            read = connection.exec_driver_sql("SELECT body FROM notes")
            assert read.scalars().all() == ["own"]


@pytest.mark.parametrize("kind", [SYNC, ASYNC], ids=str)
@pytest.mark.parametrize(
    ("make_bad", "why"),
    [
        ('ALTER ROLE "{login}" SUPERUSER', "superuser"),
        ('ALTER ROLE "{login}" BYPASSRLS', "BYPASSRLS"),
        ('ALTER TABLE notes OWNER TO "{login}"', "owns tables"),
        ('GRANT "{owner}" TO "{login}"', "owns tables"),
        ('ALTER ROLE "{login}" NOINHERIT; GRANT "{owner}" TO "{login}"', "owns tables"),
        ('GRANT "{bypass}" TO "{login}"', "superuser or has BYPASSRLS"),
    ],
)
def test_a_login_that_policies_do_not_bind_is_refused_at_start(
    postgresql: ServerAddress, tmp_path: Path, kind: Kind, make_bad: str, why: str
) -> None:
    with made(kind, tmp_path, postgresql) as place:
        tenancy = place.tenancy("uk")
        owner, bypass = place.role("owner"), place.role("bypass")
        place.execute(f'ALTER ROLE "{bypass}" BYPASSRLS')
        place.execute(f'ALTER TABLE notes OWNER TO "{owner}"')
        words = {"{login}": place.login, "{owner}": owner, "{bypass}": bypass}
        for statement in make_bad.split("; "):
            for word, name in words.items():
                statement = statement.replace(word, name)
            place.execute(statement)
        with pytest.raises(ConfigurationError, match=why):
            Door(tenancy, kind.is_async).run(
                "uk", lambda session: session.execute(text("SELECT 1"))
            )
        tenancy.close()
        place.execute(f'DROP OWNED BY "{owner}" CASCADE')
        place.execute(f'ALTER TABLE IF EXISTS notes OWNER TO "{postgresql.user}"')


# What raw SQL of the application's login can do: named in docs/rows.md -----------------------


def test_named_any_sql_can_say_who_it_is(door: Door) -> None:
    """Hence ``untrusted_sql`` tenants are refused with rows isolation."""
    statement = "SELECT set_config('tenantry.tenant', 'aus', true); SELECT body FROM notes"
    assert SECRET in attempt(door, statement)


def test_named_explain_and_statistics_count_rows_of_all(place: Place, door: Door) -> None:
    seen = "\n".join(attempt(door, "EXPLAIN (ANALYZE, COSTS OFF) SELECT body FROM notes"))
    assert SECRET not in seen
    place.execute("ANALYZE notes")
    counted = attempt(door, "SELECT reltuples::int FROM pg_class WHERE relname = 'notes'")
    assert int(counted[0]) >= 2


def test_named_a_shared_sequence_counts_inserts_of_all(door: Door) -> None:
    first = attempt(door, "SELECT nextval('public.notes_id_seq')")
    door.run("aus", lambda session: session.add(Note(tenant="aus")))
    second = attempt(door, "SELECT nextval('public.notes_id_seq')")
    assert int(second[0]) - int(first[0]) == 2
