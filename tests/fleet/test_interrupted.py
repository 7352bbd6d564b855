"""Revisions of which a part is committed before the rest, killed or refused between the two."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tenantry.backends.versions import STEPS_TABLE
from tenantry.fleet import Scripts, Settings, migrate_tenants, migration_status
from tenantry.fleet.replay import Sort, sort_of
from tests.fleet.conftest import MakeFleet
from tests.fleet.fleets import Fleet, migrated

FIRST = (
    "op.create_table('notes', sa.Column('id', sa.Integer, primary_key=True), "
    "sa.Column('body', sa.String(40)))"
)

#: Ends its process at the point that STOP names: amid transactions, between them, after DDL.
AT = """\
import os, signal
def at(point):
    if os.environ.get('STOP') == str(point):
        os.kill(os.getpid(), signal.SIGKILL)
"""
LIVE = f"""\
{AT}
bind = op.get_bind()
at(0)
op.add_column('notes', sa.Column('number', sa.Integer))
at(1)
bind.execute(sa.text("INSERT INTO notes (body, number) VALUES ('one', 1)"))
at(2)
op.create_table('marks', sa.Column('id', sa.Integer, primary_key=True),
    sa.Column('note', sa.Integer), sa.Column('changed', sa.Integer))
at(3)
done = bind.execute(sa.text("INSERT INTO notes (body, number) VALUES ('two', 2)"))
note = getattr(done, 'lastrowid', None)
if bind.dialect.name == 'postgresql':
    note = bind.execute(sa.text("SELECT id FROM notes WHERE number = 2")).scalar()
with bind.begin_nested() as inner:
    bind.execute(sa.text("INSERT INTO notes (body, number) VALUES ('never', 0)"))
    inner.rollback()
at(4)
with op.get_context().autocommit_block():
    at(5)
    op.execute("INSERT INTO notes (body, number) VALUES ('three', 3)")
    at(6)
    op.create_index('notes_number', 'notes', ['number'])
    at(7)
    op.bulk_insert(sa.table('notes', sa.column('body'), sa.column('number')),
        [dict(body='four', number=4), dict(body='five', number=5)])
    at(8)
bind = op.get_bind()
changed = bind.execute(sa.text("UPDATE notes SET number = number + 10 WHERE number > 2"))
at(9)
op.execute("COMMIT")
at(10)
bind.execute(sa.text("INSERT INTO marks VALUES (1, :note, :changed)"),
    dict(note=note, changed=changed.rowcount))
at(11)
op.drop_column('notes', 'body')
at(12)
"""
POINTS = 13

KILLED = """
import os, sys
from tenantry import Tenancy
from tenantry.fleet import Scripts, migrate_tenants
file, ini, *stops = sys.argv[1:]
for stop in stops:
    child = os.fork()
    if not child:
        tenant_id, _, os.environ["STOP"] = stop.partition("=")
        tenancy = Tenancy.from_file(file)
        migrate_tenants(tenancy, Scripts(ini), tenants=[tenancy.get(tenant_id)])
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def kill_at(fleet: Fleet, scripts: Scripts, points: Mapping[str, int | str]) -> None:
    """A migration of each tenant, killed at the point of the revision that is said."""
    stops = [f"{tenant_id}={point}" for tenant_id, point in points.items()]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(fleet.file), str(scripts.path), *stops],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == ["-9"] * len(stops), done.stderr


def begun(fleet: Fleet, folder: Path, revisions: dict[str, str], stop: int | str) -> Scripts:
    """Every tenant at the first revision, and killed in the second."""
    scripts = migrated(fleet, folder, revisions, to="g1")
    kill_at(fleet, scripts, dict.fromkeys(fleet.ids, stop))
    return scripts


def test_a_live_revision_that_is_killed_goes_on_where_it_was(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    """At each point of it: nothing is done twice, nothing is left out, nobody's hand is needed."""
    fleet = make_fleet(POINTS + 1)
    *victims, reference = fleet.ids
    scripts = migrated(fleet, tmp_path, {"g1": FIRST, "g2": LIVE}, to="g1")
    kill_at(fleet, scripts, {each: point for point, each in enumerate(victims)})
    migrate_tenants(fleet.tenancy, scripts, failure_budget=POINTS).raise_if_failed()
    for tenant_id in [reference, *victims]:
        numbers = fleet.rows(tenant_id, "SELECT number FROM notes ORDER BY number")
        assert numbers == [(1,), (2,), (13,), (14,), (15,)], tenant_id
        # What was rolled back may have used up a number.
        marks = "SELECT n.number, m.changed FROM marks m JOIN notes n ON n.id = m.note"
        assert fleet.rows(tenant_id, marks) == [(2, 3)], tenant_id
        assert fleet.rows(tenant_id, "SELECT version_num FROM alembic_version") == [("g2",)]
    assert not any(each.standing.interrupted for each in migration_status(fleet.tenancy, scripts))


def test_one_that_is_killed_again_goes_on_too(make_fleet: MakeFleet, tmp_path: Path) -> None:
    """What the second run did is not forgotten by the third."""
    pairs = [(1, 3), (3, 7), (6, 10), (8, 12)]
    fleet = make_fleet(len(pairs))
    scripts = migrated(fleet, tmp_path, {"g1": FIRST, "g2": LIVE}, to="g1")
    for points in zip(*pairs, strict=True):
        kill_at(fleet, scripts, dict(zip(fleet.ids, points, strict=True)))
    migrate_tenants(fleet.tenancy, scripts).raise_if_failed()
    for tenant_id in fleet.ids:
        numbers = fleet.rows(tenant_id, "SELECT number FROM notes ORDER BY number")
        assert numbers == [(1,), (2,), (13,), (14,), (15,)], tenant_id
        assert fleet.rows(tenant_id, "SELECT changed FROM marks") == [(3,)]


@pytest.mark.parametrize("kind", ["mariadb"])
def test_a_statement_in_doubt_is_sent_again(make_fleet: MakeFleet, tmp_path: Path) -> None:
    """Killed when the server was at it: nobody was told whether it was done."""
    fleet = make_fleet(3)
    scripts = begun(fleet, tmp_path, {"g1": FIRST, "g2": LIVE}, stop=1)
    in_doubt = f"UPDATE {STEPS_TABLE} SET outcome = NULL WHERE statement LIKE 'DDL%'"
    fleet.execute("t000", in_doubt)
    fleet.execute("t001", in_doubt, "ALTER TABLE notes DROP COLUMN number")
    migrate_tenants(fleet.tenancy, scripts).raise_if_failed()
    for tenant_id in fleet.ids:
        numbers = fleet.rows(tenant_id, "SELECT number FROM notes ORDER BY number")
        assert numbers == [(1,), (2,), (13,), (14,), (15,)]


@pytest.mark.parametrize("kind", ["mariadb"])
def test_a_live_revision_that_failed_goes_on_once_the_cause_is_gone(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    fleet = make_fleet(1)
    scripts = migrated(
        fleet,
        tmp_path,
        {
            "g1": FIRST,
            "g2": "bind = op.get_bind()\n"
            "op.add_column('notes', sa.Column('number', sa.Integer))\n"
            "bind.execute(sa.text(\"INSERT INTO notes (body, number) VALUES ('100%', 1)\"))\n"
            "op.create_index('notes_number', 'notes', ['number'], unique=True)\n"
            "op.create_table('marks', sa.Column('id', sa.Integer, primary_key=True))\n"
            "bind.execute(sa.text('INSERT INTO notes (number) VALUES (2)'))",
        },
        to="g1",
    )
    fleet.execute("t000", "CREATE TABLE marks (id INTEGER)")
    for _ in range(2):  # what the server refused is not in doubt: it is refused again
        (outcome,) = migrate_tenants(fleet.tenancy, scripts).outcomes
        assert "already exists" in (outcome.error or "")
        assert migration_status(fleet.tenancy, scripts)[0].standing.interrupted
    fleet.execute("t000", "DROP TABLE marks")
    migrate_tenants(fleet.tenancy, scripts).raise_if_failed()
    assert fleet.rows("t000", "SELECT number FROM notes ORDER BY number") == [(1,), (2,)]
    assert not migration_status(fleet.tenancy, scripts)[0].standing.interrupted


@pytest.mark.parametrize(
    ("kind", "revision"),
    [
        ("mariadb", "op.add_column('notes', sa.Column('number', sa.Integer))"),
        (
            "postgresql-schema",
            (
                "with op.get_context().autocommit_block():\n"
                "    op.create_index('number', 'notes', ['body'], postgresql_concurrently=True)"
            ),
        ),
    ],
)
def test_what_was_refused_is_refused_again(
    make_fleet: MakeFleet, tmp_path: Path, revision: str
) -> None:
    """A column that is there already was not made by the run before, which failed over it."""
    fleet = make_fleet(1)
    scripts = migrated(fleet, tmp_path, {"g1": FIRST, "g2": revision}, to="g1")
    drift, undo = "CREATE INDEX number ON notes (id)", "DROP INDEX number"
    if fleet.kind == "mariadb":
        drift, undo = "ALTER TABLE notes ADD number INTEGER", "ALTER TABLE notes DROP number"
    fleet.execute("t000", drift)
    for _ in range(3):
        (outcome,) = migrate_tenants(fleet.tenancy, scripts).outcomes
        assert outcome.status == "failed"
        assert "g2" in (outcome.error or "")
        assert "goes on from there" in (outcome.error or "")
    fleet.execute("t000", undo)
    migrate_tenants(fleet.tenancy, scripts).raise_if_failed()


#: What each does where DDL is a part of transactions, and where it commits.
STATEMENTS = {
    "select 1": (Sort.READ, Sort.READ),
    "-- why\n /* how */ (SELECT max(id) FROM notes)": (Sort.READ, Sort.READ),
    "SELECT setval('notes_id', 7)": (Sort.OTHER, Sort.READ),
    "SELECT id INTO old FROM notes": (Sort.OTHER, Sort.READ),
    "WITH a AS (SELECT 1) SELECT * FROM a": (Sort.READ, Sort.READ),
    "with a as (delete from notes returning id) select * from a": (Sort.ROWS, Sort.ROWS),
    "insert into notes select 1": (Sort.ROWS, Sort.ROWS),
    "REPLACE INTO notes VALUES (1)": (Sort.ROWS, Sort.ROWS),
    "ALTER TABLE notes ADD a INTEGER": (Sort.DDL, Sort.DDL),
    "CREATE OR REPLACE TEMPORARY TABLE a (b INTEGER)": (Sort.SESSION, Sort.SESSION),
    "CREATE LOCAL TEMP TABLE a (b INTEGER)": (Sort.SESSION, Sort.SESSION),
    "CREATE TABLE temporary_notes (b INTEGER)": (Sort.DDL, Sort.DDL),
    "LOCK TABLES notes WRITE": (Sort.READ, Sort.SESSION),
    "SET autocommit = 1": (Sort.READ, Sort.SESSION),
    "SET FOREIGN_KEY_CHECKS = 0": (Sort.READ, Sort.READ),
    "VACUUM": (Sort.READ, Sort.COMMIT),
    "START TRANSACTION": (Sort.COMMIT, Sort.COMMIT),
    "SAVEPOINT one": (Sort.READ, Sort.READ),
    "CALL tidy()": (Sort.OTHER, Sort.OTHER),
    "DO $$ BEGIN END $$": (Sort.OTHER, Sort.OTHER),
    "/*!40101 ALTER TABLE notes ADD a INTEGER */": (Sort.OTHER, Sort.OTHER),
    "": (Sort.OTHER, Sort.OTHER),
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_what_a_statement_does(statement: str) -> None:
    found = tuple(sort_of(statement, commits_ddl=commits)[1] for commits in (False, True))
    assert found == STATEMENTS[statement]


CANNOT = {
    "other rows": (
        (
            "bind.execute(sa.text('INSERT INTO notes (body) VALUES (:body)'), "
            "dict(body=str(uuid.uuid4())))"
        ),
        "what it sends now is not what it sent then",
    ),
    "rows returned": (
        "list(bind.execute(sa.text(\"INSERT INTO notes (body) VALUES ('a') RETURNING id\")))",
        "the rows that a statement returned",
    ),
    "temporary table": (
        "bind.execute(sa.text('CREATE TEMPORARY TABLE aside (id INTEGER)'))",
        "ended with its session",
    ),
    "driver's cursor": (
        "bind.connection.cursor().execute(\"INSERT INTO notes (body) VALUES ('a')\")",
        "goes round",
    ),
}


@pytest.mark.parametrize("what", CANNOT)
def test_what_cannot_be_had_again_is_left_to_somebodys_hand(
    make_fleet: MakeFleet, tmp_path: Path, what: str
) -> None:
    """And no revision's ``except Exception`` takes the error away."""
    fleet = make_fleet(1)
    statement, why = CANNOT[what]
    revision = (
        f"import uuid\n{AT}bind = op.get_bind()\n"
        "try:\n"
        f"    {statement}\n"
        "except Exception:\n"
        "    pass\n"
        "op.execute('COMMIT')\n"
        "at(0)\n"
        "op.create_table('marks', sa.Column('id', sa.Integer, primary_key=True))"
    )
    scripts = begun(fleet, tmp_path, {"g1": FIRST, "g2": revision}, stop=0)
    rows = fleet.rows("t000", "SELECT id, body FROM notes")
    for _ in range(2):
        (outcome,) = migrate_tenants(fleet.tenancy, scripts).outcomes
        assert outcome.status == "failed"
        assert "cannot go on by itself" in (outcome.error or "")
        assert why in (outcome.error or "")
        assert fleet.rows("t000", "SELECT id, body FROM notes") == rows
        assert fleet.rows("t000", "SELECT version_num FROM alembic_version") == [("g1",)]
    # Somebody looked, and undid it.
    fleet.execute("t000", "DELETE FROM notes", f"DROP TABLE {STEPS_TABLE}")
    migrate_tenants(fleet.tenancy, scripts).raise_if_failed()


@pytest.mark.parametrize("kind", ["mariadb"])
def test_a_revision_that_looks_first_goes_on(make_fleet: MakeFleet, tmp_path: Path) -> None:
    """It does not send again what it finds done."""
    fleet = make_fleet(1)
    revision = (
        f"{AT}bind = op.get_bind()\n"
        "def has(name):\n"
        "    return name in [each['name'] for each in sa.inspect(bind).get_columns('notes')]\n"
        "for name in ('one', 'two', 'three'):\n"
        "    if not has(name):\n"
        "        op.add_column('notes', sa.Column(name, sa.Integer))\n"
        "    at(name)\n"
        'op.execute("INSERT INTO notes (one) VALUES (1)")'
    )
    scripts = begun(fleet, tmp_path, {"g1": FIRST, "g2": revision}, stop="two")
    fleet.execute("t000", f"UPDATE {STEPS_TABLE} SET outcome = NULL WHERE position = 2")
    migrate_tenants(fleet.tenancy, scripts).raise_if_failed()
    assert fleet.rows("t000", "SELECT one, two, three FROM notes") == [(1, None, None)]


def test_a_revision_goes_on_as_it_was_begun(make_fleet: MakeFleet, tmp_path: Path) -> None:
    """Live or as plain statements: what the one wrote down is not the other's."""
    fleet = make_fleet(1)
    revision = (
        "op.add_column('notes', sa.Column('number', sa.Integer))\n"
        "with op.get_context().autocommit_block():\n"
        "    op.create_index('notes_number', 'notes', ['number'])\n"
        "op.execute('INSERT INTO notes (id, number) VALUES (1, 1)')"
    )
    scripts = migrated(fleet, tmp_path, {"g1": FIRST, "g2": revision}, to="g1")
    fleet.execute("t000", "INSERT INTO notes (id) VALUES (1)")
    live = Settings("heads", online=True)
    assert not migrate_tenants(fleet.tenancy, scripts, settings=live).ok
    (outcome,) = migrate_tenants(fleet.tenancy, scripts).outcomes
    assert "with --online" in (outcome.error or "")
    fleet.execute("t000", "DELETE FROM notes")
    migrate_tenants(fleet.tenancy, scripts, settings=live).raise_if_failed()
    assert fleet.rows("t000", "SELECT id, number FROM notes") == [(1, 1)]


@pytest.mark.parametrize("kind", ["postgresql-schema", "mariadb"])
def test_a_revision_begun_as_statements_does_not_go_on_live(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    fleet = make_fleet(1)
    revision = (
        "with op.get_context().autocommit_block():\n"
        "    op.create_index('notes_body', 'notes', ['body'])\n"
        "op.execute('INSERT INTO notes (id) VALUES (1)')"
    )
    scripts = migrated(fleet, tmp_path, {"g1": FIRST, "g2": revision}, to="g1")
    fleet.execute("t000", "INSERT INTO notes (id) VALUES (1)")
    assert not migrate_tenants(fleet.tenancy, scripts).ok
    fleet.execute("t000", "DELETE FROM notes")
    live = Settings("heads", online=True)
    (outcome,) = migrate_tenants(fleet.tenancy, scripts, settings=live).outcomes
    assert "without --online" in (outcome.error or "")
    migrate_tenants(fleet.tenancy, scripts).raise_if_failed()
    assert fleet.rows("t000", "SELECT id FROM notes") == [(1,)]
