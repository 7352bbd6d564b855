"""Copies of a tenant that hold more than tables: all that a schema may hold, or a refusal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry import Isolation, Placement, Server, Tenancy, Tenant
from tenantry.directory import MappingDirectory
from tenantry.errors import ProvisionError
from tenantry.fleet import Access, Blueprints, copying, make_place, migrate_tenants
from tenantry.fleet.fingerprint import shape_of
from tenantry.fleet.statements import exec_all, run
from tenantry.testing.address import ServerAddress
from tests.fleet.conftest import MakeFleet
from tests.fleet.fleets import Fleet, migrated, scripts_of
from tests.servers.session import missing

EVERYTHING = """
CREATE TYPE mood AS ENUM ('good', 'bad')
CREATE DOMAIN short AS varchar(10) CHECK (length(VALUE) > 1)
CREATE TYPE a_pair AS (mood mood, name short)
CREATE SEQUENCE numbers START 100 INCREMENT 5
CREATE FUNCTION twice(n integer) RETURNS integer IMMUTABLE LANGUAGE sql AS 'SELECT n * 2'
CREATE TABLE parents (id integer GENERATED ALWAYS AS IDENTITY (START 50 INCREMENT 2) PRIMARY KEY,
    name short NOT NULL DEFAULT 'xx' UNIQUE, feeling mood DEFAULT 'good', first_child integer)
CREATE TABLE children (id serial PRIMARY KEY, number integer NOT NULL DEFAULT nextval('numbers'),
    parent integer REFERENCES parents ON DELETE CASCADE, CHECK (number > 0), pair a_pair,
    doubled integer GENERATED ALWAYS AS (twice(number)) STORED, tags text[], during tsrange,
    EXCLUDE USING gist (during WITH &&))
ALTER TABLE parents ADD FOREIGN KEY (first_child) REFERENCES children
CREATE UNIQUE INDEX partly ON children (number) INCLUDE (parent) WHERE number > 5
CREATE INDEX by_expression ON parents (lower(name))
CREATE FUNCTION shown(one parents) RETURNS text LANGUAGE sql AS 'SELECT one.name || one.id'
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO notes VALUES (NEW.id); RETURN NEW; END'
CREATE TABLE notes (id integer, CONSTRAINT once UNIQUE (id) DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT here CHECK (id > 0) NO INHERIT)
CREATE PROCEDURE a_tidy() LANGUAGE sql AS 'DELETE FROM notes'
CREATE TRIGGER noted AFTER INSERT ON parents FOR EACH ROW EXECUTE FUNCTION noted()
CREATE TRIGGER asleep AFTER INSERT ON children FOR EACH ROW EXECUTE FUNCTION noted()
ALTER TABLE children DISABLE TRIGGER asleep
CREATE VIEW z_base AS SELECT id, name, twice(id) AS t, shown(parents) AS s FROM parents
CREATE MATERIALIZED VIEW m_summary AS SELECT count(*) AS n FROM z_base
CREATE UNIQUE INDEX summary_n ON m_summary (n)
CREATE VIEW a_top AS SELECT z_base.* FROM z_base, m_summary WHERE t > n
ALTER TABLE notes ENABLE ROW LEVEL SECURITY
CREATE POLICY mine ON notes FOR SELECT TO PUBLIC USING (id > 0)
GRANT SELECT, UPDATE ON parents TO PUBLIC
GRANT SELECT ON m_summary TO PUBLIC
GRANT USAGE ON SEQUENCE numbers TO PUBLIC
DO $$ BEGIN EXECUTE format('GRANT CREATE ON SCHEMA %I TO pg_monitor', current_schema()); END $$
GRANT EXECUTE ON FUNCTION twice(integer) TO PUBLIC
COMMENT ON TABLE parents IS 'they''re'
COMMENT ON COLUMN parents.name IS 'short'
COMMENT ON VIEW a_top IS 'top'
COMMENT ON MATERIALIZED VIEW m_summary IS 'sum'
COMMENT ON FUNCTION twice(integer) IS 'n and n'
COMMENT ON INDEX partly IS 'said of an index'
COMMENT ON CONSTRAINT parents_name_key ON parents IS 'said of a constraint'
COMMENT ON SEQUENCE numbers IS 'said of a sequence'
COMMENT ON TYPE mood IS 'said of a type'
COMMENT ON COLUMN a_pair.mood IS 'said of a part'
COMMENT ON DOMAIN short IS 'said of a domain'
COMMENT ON CONSTRAINT short_check ON DOMAIN short IS 'said of its constraint'
COMMENT ON TRIGGER noted ON parents IS 'said of a trigger'
COMMENT ON POLICY mine ON notes IS 'said of a policy'
INSERT INTO parents (name) VALUES ('one'), ('two')
INSERT INTO children (parent, pair, tags, during)
    VALUES (50, '(bad,xy)', '{a,b}', '[2026-01-01,2026-01-02)')
UPDATE parents SET first_child = 1
ALTER TABLE notes ADD CONSTRAINT from_now_on CHECK (id > 50) NOT VALID
REFRESH MATERIALIZED VIEW m_summary
"""
#: What is compared besides the shapes: rows, and how everything goes on from there.
QUERIES = (
    "SELECT * FROM parents ORDER BY id",
    "SELECT * FROM children",
    "SELECT * FROM notes ORDER BY id",
    "SELECT n FROM m_summary",
    "SELECT name, s FROM a_top ORDER BY name",
    "SELECT twice(4), shown(parents) FROM parents WHERE id = 50",
    "SELECT tgname FROM pg_trigger WHERE tgrelid = 'children'::regclass AND tgenabled = 'D'",
    "INSERT INTO parents (name) VALUES ('three') RETURNING id",
    "INSERT INTO children (parent) VALUES (52) RETURNING id, number, doubled",
    "SELECT * FROM notes ORDER BY id",
    "SELECT obj_description('a_top'::regclass), obj_description('m_summary'::regclass)",
    "SELECT obj_description('twice(integer)'::regprocedure)",
    "SELECT count(*) FROM pg_description WHERE description LIKE 'said of %'",
    "SELECT has_schema_privilege('pg_monitor', current_schema(), 'CREATE')",
)
#: The same kinds of things, by names that have to be quoted.
ODD_NAMES = """
CREATE TYPE "My Mood" AS ENUM ('good', 'bad')
CREATE DOMAIN "Short One" AS varchar(10) CONSTRAINT "Long Enough" CHECK (length(VALUE) > 1)
CREATE TYPE "A Pair" AS ("My Mood" "My Mood", "Name" "Short One")
CREATE SEQUENCE "Numbers" START 100 INCREMENT 5
CREATE FUNCTION "Twice"("N" integer) RETURNS integer IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2'
CREATE TABLE "Parents" ("Id" serial PRIMARY KEY, "select" "Short One", "Feeling" "My Mood"[])
CREATE TABLE "my.children" ("Id" serial CONSTRAINT "The Key" PRIMARY KEY,
    "a b" integer DEFAULT nextval('"Numbers"'), "Of" integer REFERENCES "Parents", "%" "A Pair",
    "d.e" integer GENERATED ALWAYS AS ("Twice"("a b")) STORED)
CREATE TABLE "it is :so" ("a :b" integer, "it's" text COLLATE "C" DEFAULT ' NOT NULL')
CREATE UNIQUE INDEX "Partly" ON "my.children" ("a b") WHERE "a b" > 5
CREATE FUNCTION "Shown"(one "Parents") RETURNS text LANGUAGE sql AS 'SELECT one."select"::text'
CREATE FUNCTION "Noted"() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'
CREATE TRIGGER "When New" AFTER INSERT ON "my.children" FOR EACH ROW EXECUTE FUNCTION "Noted"()
ALTER TABLE "my.children" ENABLE ALWAYS TRIGGER "When New"
CREATE VIEW "A View" AS SELECT "Id", "Twice"("Id") AS "T", "Shown"("Parents") FROM "Parents"
CREATE MATERIALIZED VIEW "A Sum" AS SELECT count(*) AS "N" FROM "A View"
CREATE UNIQUE INDEX "Sum N" ON "A Sum" ("N")
ALTER TABLE "Parents" ENABLE ROW LEVEL SECURITY
CREATE POLICY "Mine" ON "Parents" TO PUBLIC USING ("Id" > 0)
GRANT SELECT ON "Parents" TO PUBLIC
GRANT USAGE ON SEQUENCE "Numbers" TO PUBLIC
COMMENT ON TABLE "my.children" IS 'children'
COMMENT ON COLUMN "my.children"."d.e" IS 'two'
COMMENT ON VIEW "A View" IS 'top'
COMMENT ON FUNCTION "Twice"(integer) IS 'n and n'
INSERT INTO "Parents" ("select", "Feeling") VALUES ('one', '{good}')
INSERT INTO "my.children" ("Of", "%") VALUES (1, '(bad,xy)')
INSERT INTO "it is :so" ("a :b") VALUES (7)
REFRESH MATERIALIZED VIEW "A Sum"
"""
QUERIES_OF_ODD_NAMES = (
    'SELECT * FROM "Parents"',
    'SELECT * FROM "my.children"',
    'SELECT * FROM "it is :so"',
    'SELECT "N" FROM "A Sum"',
    'SELECT * FROM "A View"',
    """INSERT INTO "Parents" ("select") VALUES ('xy') RETURNING "Id" AS id""",
    'INSERT INTO "my.children" ("Of") VALUES (2) RETURNING "Id", "a b", "d.e"',
    """SELECT obj_description('"Twice"(integer)'::regprocedure)""",
    """SELECT pg_get_serial_sequence('"my.children"', 'Id') IS NOT NULL""",
)
#: What can be seen and not made.
UNKNOWN = {
    "aggregate total(integer)": (
        "CREATE AGGREGATE total (integer) (SFUNC = int4pl, STYPE = integer, INITCOND = '0')"
    ),
    "rule kept": "CREATE RULE kept AS ON DELETE TO log DO INSTEAD NOTHING",
    "statistics paired": "CREATE STATISTICS paired ON a, b FROM log",
    "partitioned table parts": "CREATE TABLE parts (n integer) PARTITION BY RANGE (n)",
    "child more of log": "CREATE TABLE more () INHERITS (log)",
    "settings of log": "ALTER TABLE log SET (fillfactor = 70)",
    "settings of log.a": "GRANT SELECT (a) ON log TO PUBLIC",
    "type span": "CREATE TYPE span AS RANGE (subtype = integer)",
    "operator <+>(integer,integer)": (
        "CREATE OPERATOR <+> (FUNCTION = int4pl, LEFTARG = integer, RIGHTARG = integer)"
    ),
    "collation plain": 'CREATE COLLATION plain FROM pg_catalog."C" ',
    "text search configuration words": "CREATE TEXT SEARCH CONFIGURATION words (PARSER = default)",
    "default privileges on new relations": (
        "DO 'BEGIN EXECUTE format(''ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT ON TABLES "
        "TO PUBLIC'', current_schema()); END'"
    ),
    "grants on one()": (
        "CREATE FUNCTION one() RETURNS integer LANGUAGE sql AS 'SELECT 1'; "
        "REVOKE EXECUTE ON FUNCTION one() FROM PUBLIC"
    ),
}
ON_POSTGRESQL = pytest.mark.parametrize("kind", ["postgresql-schema", "postgresql-database"])


def copy(fleet: Fleet) -> None:
    """``t001`` as a copy of ``t000``."""
    source, place = fleet.place("t000"), fleet.place("t001")
    make_place(fleet.access, place)
    copying(source)(fleet.tenancy, fleet.access, place)


def statements(text: str) -> list[str]:
    return text.strip().replace("\n    ", " ").split("\n")


@ON_POSTGRESQL
@pytest.mark.parametrize(
    ("made", "queries"),
    [(EVERYTHING, QUERIES), (ODD_NAMES, QUERIES_OF_ODD_NAMES)],
    ids=["everything", "odd-names"],
)
def test_everything_in_a_schema_is_copied(
    make_fleet: MakeFleet, made: str, queries: tuple[str, ...]
) -> None:
    fleet = make_fleet(2, make=False)
    fleet.make_places(["t000"])
    with fleet.connect("t000") as connection:
        exec_all(connection, *statements(made))
        connection.commit()
    copy(fleet)
    source, place = fleet.place("t000"), fleet.place("t001")
    assert shape_of(fleet.access, place) == shape_of(fleet.access, source)
    for query in queries:
        found = []
        for tenant_id in fleet.ids:
            with fleet.connect(tenant_id) as connection:
                rows = run(connection, query).all()
                found.append([tuple(row) for row in rows])
                connection.commit()
        assert found[0] == found[1], query
        assert found[0], query


@ON_POSTGRESQL
@pytest.mark.parametrize("what", UNKNOWN)
def test_what_cannot_be_made_is_not_left_out(
    make_fleet: MakeFleet, tmp_path: Path, what: str
) -> None:
    """A copy is refused; a new tenant gets it from the revisions, and is compared."""
    fleet = make_fleet(2, make=False)
    fleet.make_places(["t000"])
    made = "; ".join(["CREATE TABLE log (a integer, b integer)", UNKNOWN[what]])
    scripts = migrated(fleet, tmp_path, {"w1": f'op.execute("""{made}""")'}, ids=["t000"])
    with pytest.raises(ProvisionError, match="create the tenant by its revisions") as caught:
        copy(fleet)
    assert what in str(caught.value)
    with Access(fleet.tenancy.servers) as access:
        blueprints = Blueprints(access, scripts)
        source, place = (access.place(fleet.tenant(each)) for each in fleet.ids)
        blueprints.make(place)
        assert shape_of(access, place) == shape_of(access, source)
        assert blueprints.drift(place) == []


@pytest.fixture
def extension(address: ServerAddress) -> str:
    """One that this server can be given: of its contributed ones, or of the wheel's."""
    query = "SELECT name FROM pg_available_extensions WHERE name IN ('citext', 'vector')"
    found = sorted(str(name) for (name,) in address.execute(query))
    if not found:
        missing("this PostgreSQL has no extensions; install postgresql-contrib")
    return found[0]


@pytest.mark.parametrize("kind", ["postgresql-database"])
def test_an_extension_comes_with_the_database(
    make_fleet: MakeFleet, tmp_path: Path, extension: str
) -> None:
    """As itself: its types and functions are not made one by one."""
    fleet = make_fleet(3, make=False)
    fleet.make_places(["t000"])
    made = f"CREATE EXTENSION {extension}; CREATE TABLE words (word {extension})"
    scripts = migrated(fleet, tmp_path, {"w1": f'op.execute("{made}")'}, ids=["t000"])
    copy(fleet)
    with Access(fleet.tenancy.servers) as access:
        Blueprints(access, scripts).make(access.place(fleet.tenant("t002")))
    routines = "SELECT FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    for tenant_id in fleet.ids:
        query = f"SELECT extversion FROM pg_extension WHERE extname = '{extension}'"
        assert fleet.rows(tenant_id, query) == fleet.rows("t000", query) != []
        assert fleet.rows(tenant_id, routines) != []
    for tenant_id in fleet.ids:
        fleet.execute(tenant_id, f"DROP EXTENSION {extension} CASCADE")
        assert fleet.rows(tenant_id, routines) == []


@pytest.mark.parametrize("kind", ["postgresql-database"])
@pytest.mark.parametrize("where", ["pg_catalog", "elsewhere"])
def test_an_extension_of_a_further_schema_is_not_left_out(
    make_fleet: MakeFleet, tmp_path: Path, extension: str, where: str
) -> None:
    fleet = make_fleet(3, make=False)
    fleet.make_places(["t000"])
    made = f"CREATE EXTENSION {extension} SCHEMA {where}"
    if where != "pg_catalog":
        made = f"CREATE SCHEMA {where}; {made}"
    scripts = migrated(fleet, tmp_path, {"w1": f'op.execute("{made}")'}, ids=["t000"])
    if where == "elsewhere":
        with pytest.raises(ProvisionError, match="schema elsewhere"):
            copy(fleet)
    else:
        copy(fleet)
    with Access(fleet.tenancy.servers) as access:
        blueprints = Blueprints(access, scripts)
        blueprints.make(access.place(fleet.tenant("t002")))
        assert blueprints.drift(access.place(fleet.tenant("t002"))) == []
    query = "SELECT extnamespace::regnamespace::text, extversion FROM pg_extension ORDER BY 2"
    assert fleet.rows("t002", query) == fleet.rows("t000", query)
    assert where != "pg_catalog" or fleet.rows("t001", query) == fleet.rows("t000", query)


@pytest.mark.parametrize("kind", ["postgresql-schema"])
def test_an_extension_in_a_schema_is_not_left_out(make_fleet: MakeFleet, extension: str) -> None:
    """A database has it once, so that a second schema cannot be given it."""
    fleet = make_fleet(2, make=False)
    fleet.make_places(["t000"])
    fleet.execute("t000", f"CREATE EXTENSION {extension}")
    try:
        with pytest.raises(ProvisionError, match=f"extension {extension}"):
            copy(fleet)
    finally:
        fleet.execute("t000", f"DROP EXTENSION {extension}")


@pytest.mark.parametrize("kind", ["postgresql-database"])
def test_a_further_schema_is_not_left_out(make_fleet: MakeFleet, tmp_path: Path) -> None:
    fleet = make_fleet(2, make=False)
    fleet.make_places(["t000"])
    made = "CREATE SCHEMA audit; CREATE TABLE audit.log (a integer)"
    scripts = migrated(fleet, tmp_path, {"w1": f'op.execute("{made}")'}, ids=["t000"])
    with pytest.raises(ProvisionError, match="schema audit"):
        copy(fleet)
    with Access(fleet.tenancy.servers) as access:
        blueprints = Blueprints(access, scripts)
        place = access.place(fleet.tenant("t001"))
        blueprints.make(place)
        assert fleet.rows("t001", "SELECT count(*) FROM audit.log") == [(0,)]
        assert blueprints.drift(place) == []
        fleet.execute("t001", "CREATE SCHEMA other")
        assert [each.words for each in blueprints.drift(place)] == [
            "schema other should not be there"
        ]


@pytest.fixture
def owner(address: ServerAddress) -> Iterator[str]:
    """A login that is no superuser."""
    name = f"clone{os.getpid():x}"
    address.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'clone'")
    yield name
    address.execute(f"DROP OWNED BY {name}")
    address.execute(f"DROP ROLE {name}")


@pytest.mark.parametrize("kind", ["postgresql-schema"])
def test_rows_that_a_policy_hides_are_not_left_out(
    address: ServerAddress, owner: str, tmp_path: Path
) -> None:
    """A blueprint has them, for its place is nobody's; a copy is refused."""
    address.execute(f"GRANT CREATE ON DATABASE {address.database} TO {owner}")
    url = address.url("postgresql+psycopg").set(username=owner, password="clone")
    tenants = [
        Tenant(
            f"{each}{os.getpid():x}", Placement("main", Isolation.SCHEMA, None, f"{owner}{each}")
        )
        for each in ("one", "two", "three")
    ]
    tenancy = Tenancy(MappingDirectory(tenants), {"main": Server.from_url("main", url)})
    scripts = scripts_of(
        tmp_path,
        {
            "x1": "op.create_table('plans', sa.Column('id', sa.Integer, primary_key=True))\n"
            "op.execute('INSERT INTO plans VALUES (1)')\n"
            "op.execute('ALTER TABLE plans ENABLE ROW LEVEL SECURITY')\n"
            "op.execute('ALTER TABLE plans FORCE ROW LEVEL SECURITY')\n"
            "op.execute('CREATE POLICY few ON plans USING (id > 7)')"
        },
    )
    with Access(tenancy.servers) as access:
        one, two, three = (access.place(each) for each in tenants)
        for place in (one, three):
            make_place(access, place)
        migrate_tenants(tenancy, scripts, tenants=tenants[:1]).raise_if_failed()
        Blueprints(access, scripts).make(two)
        count = f'SELECT count(*) FROM "{two.schema}".plans'
        assert address.execute(count) == [(1,)]
        with pytest.raises(Exception, match="row-level security policy"):
            copying(one)(tenancy, access, three)
    tenancy.close()


@pytest.mark.parametrize("kind", ["mariadb"])
def test_a_copy_on_mariadb(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(2, make=False)
    fleet.make_places(["t000"])
    fleet.execute(
        "t000",
        "CREATE TABLE one (id INTEGER AUTO_INCREMENT PRIMARY KEY, two INTEGER, "
        "doubled INTEGER AS (id * 2) VIRTUAL, tripled INTEGER AS (two * 3) STORED) "
        "COMMENT 'it''s one'",
        "CREATE TABLE two (id INTEGER PRIMARY KEY, one INTEGER REFERENCES one (id))",
        "ALTER TABLE one ADD FOREIGN KEY (two) REFERENCES two (id)",
        "CREATE VIEW both_of_them AS SELECT one.id, tripled FROM one JOIN two ON one.two = two.id",
        "SET foreign_key_checks = 0",
        "INSERT INTO one (id, two) VALUES (7, 1)",
        "INSERT INTO two VALUES (1, 7)",
    )
    copy(fleet)
    for query in ("SELECT * FROM one", "SELECT * FROM two", "SELECT * FROM both_of_them"):
        assert fleet.rows("t001", query) == fleet.rows("t000", query) != []
    query = "SELECT table_comment FROM information_schema.tables WHERE table_schema = DATABASE()"
    assert sorted(fleet.rows("t001", query)) == sorted(fleet.rows("t000", query))


#: What can be seen on MariaDB and not made.
UNKNOWN_ON_MARIADB = {
    "trigger t of log": "CREATE TRIGGER t BEFORE INSERT ON log FOR EACH ROW SET NEW.a = 7",
    "function f": "CREATE FUNCTION f(n INTEGER) RETURNS INTEGER RETURN n",
    "procedure f": "CREATE PROCEDURE f(n INTEGER) SELECT n",
    "event e": "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DISABLE DO DELETE FROM log",
    "sequence s": "CREATE SEQUENCE s",
    "system versioned v": "CREATE TABLE v (a INTEGER) WITH SYSTEM VERSIONING",
    "partition p of log": "ALTER TABLE log PARTITION BY HASH (a) (PARTITION p)",
    "settings of log": "ALTER TABLE log ROW_FORMAT=COMPRESSED",
}


@pytest.mark.parametrize("kind", ["mariadb"])
@pytest.mark.parametrize("what", UNKNOWN_ON_MARIADB)
def test_what_cannot_be_made_on_mariadb_is_not_left_out(make_fleet: MakeFleet, what: str) -> None:
    fleet = make_fleet(2, make=False)
    fleet.make_places(["t000"])
    fleet.execute("t000", "CREATE TABLE log (a INTEGER, b INTEGER)", UNKNOWN_ON_MARIADB[what])
    with pytest.raises(ProvisionError, match=what):
        copy(fleet)


@ON_POSTGRESQL
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE a (b text DEFAULT 'see {schema}.example.org')",
        "CREATE FUNCTION a() RETURNS text LANGUAGE sql AS 'SELECT ''{schema}.a'''",
        "CREATE VIEW a AS SELECT 'at {schema}.a'::text AS b",
    ],
)
def test_a_text_that_names_the_place_is_not_cut(make_fleet: MakeFleet, statement: str) -> None:
    """It means the tenant that is copied, or just says so: nobody knows, so it is not changed."""
    fleet = make_fleet(2, make=False)
    fleet.make_places(["t000"])
    schema = fleet.place("t000").schema or "public"
    made = statement.format(schema=schema)
    fleet.execute("t000", made)
    if schema != "public":
        with pytest.raises(ProvisionError, match=" a"):
            copy(fleet)
        return
    copy(fleet)
    query = (
        "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef UNION ALL "
        "SELECT prosrc FROM pg_proc WHERE proname = 'a' UNION ALL "
        "SELECT definition FROM pg_views WHERE viewname = 'a'"
    )
    assert fleet.rows("t001", query) == fleet.rows("t000", query) != []
