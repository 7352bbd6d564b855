"""What must hold whatever happens: kill -9, several migrators at once, tables in use.

The short forms run always; ``-m long`` runs them at the size of the promise.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from tenantry.backends.versions import STEPS_TABLE
from tenantry.fleet import Access, Scripts, Settings, migrate_tenants, migration_status
from tenantry.fleet.apply import LockedError
from tenantry.fleet.bring import Todo, Work, bring
from tenantry.fleet.fingerprint import Shape, shapes_of
from tenantry.fleet.locks import holding
from tenantry.fleet.status import Standing
from tests.fleet.conftest import MakeFleet
from tests.fleet.fleets import KINDS, Fleet, kill, migrated, project, scripts_of

#: The promise; fewer where time is short.
KILLS = int(os.environ.get("TENANTRY_TEST_KILLS", "100"))
SIZES = [
    pytest.param((3, 3), id="short"),
    pytest.param((50, KILLS), id="promised", marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
]

#: A revision of each sort: a table, rows, an index outside any transaction, a live one.
SMALL = {
    "h1": "op.create_table('categories', sa.Column('id', sa.Integer, primary_key=True), "
    "sa.Column('name', sa.String(20)))\n"
    "op.create_table('things', sa.Column('id', sa.Integer, primary_key=True))",
    "h2": "op.execute(\"INSERT INTO categories VALUES (1, 'one')\")\n"
    "op.create_index('categories_name', 'categories', ['name'])",
    "h3": "with op.get_context().autocommit_block():\n"
    "    op.create_index('categories_id', 'categories', ['id'], postgresql_concurrently=True)",
    "h4": "op.add_column('things', sa.Column('name', sa.String(20)))\n"
    "op.execute(\"INSERT INTO categories VALUES (2, 'two')\")",
    "h5": "op.add_column('things', sa.Column('number', sa.Integer))\n"
    "op.get_bind().execute(sa.text(\"INSERT INTO categories VALUES (3, 'three')\"))\n"
    "op.create_index('things_number', 'things', ['number'])",
}


def shapes_by_revision(fleet: Fleet, scripts: Scripts, tenant_id: str) -> dict[str, Shape]:
    """What a tenant looks like at each revision, made step by step and without a fault."""
    shapes = {}
    tenant = fleet.tenant(tenant_id)
    with Access(fleet.tenancy.servers, keep=2) as access:
        place = access.place(tenant)
        shapes["base"] = shapes_of(access, [place])[place.key]
        for script in [*scripts.directory.walk_revisions()][::-1]:
            migrate_tenants(
                fleet.tenancy,
                scripts,
                tenants=[tenant],
                settings=Settings(script.revision),
                access=access,
            ).raise_if_failed()
            shapes[script.revision] = shapes_of(access, [place])[place.key]
    return shapes


@pytest.mark.newest  # what a kill or a lock leaves is the servers' doing, not the libraries'
@pytest.mark.parametrize("size", SIZES)
def test_kill_9_leaves_no_tenant_between_two_revisions(
    make_fleet: MakeFleet, tmp_path: Path, size: tuple[int, int]
) -> None:
    """And the same command finishes, with nothing applied twice."""
    count, kills = size
    fleet = make_fleet(count + 1)
    ini = project(tmp_path, SMALL if count < 10 else None)
    scripts = Scripts(ini)
    *victims, reference = fleet.ids
    expected = shapes_by_revision(fleet, scripts, reference)
    chance = random.Random(4)
    killed = at_work = begun_again = 0
    began = time.monotonic()
    assert fleet.run("status", "--config", str(ini)).returncode == 1
    start = time.monotonic() - began  # to be up and to look where everybody stands
    left = _check(fleet, scripts, victims, expected)
    arguments = ["migrate", "--config", str(ini), "--workers", "2", "--canary", "0"]
    for _ in range(kills):
        process = fleet.start(*arguments)
        time.sleep(start * 0.8 + chance.uniform(0.0, 0.06 * count))
        if process.poll() is None:
            kill(process)
            killed += 1
        else:
            process.communicate()
        before, left = left, _check(fleet, scripts, victims, expected)
        at_work += 0 < left < before
        if count >= 10 and left == 0:
            _down(fleet, scripts, victims)
            left = _check(fleet, scripts, victims, expected)
            begun_again += 1
    done = fleet.run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not any(each.behind for each in migration_status(fleet.tenancy, scripts))
    _check(fleet, scripts, victims, expected)
    wanted = fleet.rows(reference, "SELECT id, name FROM categories ORDER BY id")
    for tenant_id in victims:
        assert fleet.rows(tenant_id, "SELECT id, name FROM categories ORDER BY id") == wanted
    print(
        f"\n{count} tenants, {fleet.kind}: {killed} of {kills} runs killed, {at_work} of them with "
        f"some revisions applied and others not, {begun_again} times anew"
    )


def _check(
    fleet: Fleet, scripts: Scripts, tenant_ids: list[str], expected: dict[str, Shape]
) -> int:
    """Every tenant is whole at its revision; or, where DDL commits itself, says it is within.

    Returns how many steps they are behind, together.
    """
    _wait_for_the_server(fleet)
    tenants = [fleet.tenant(each) for each in tenant_ids]
    with Access(fleet.tenancy.servers, keep=2) as access:
        standings = migration_status(fleet.tenancy, scripts, tenants=tenants, access=access)
        shapes = shapes_of(access, [access.place(each) for each in tenants])
        for each in standings:
            assert each.standing.error is None
            if each.standing.interrupted:
                continue  # recorded: the next run goes on with just this statement
            shape = shapes[access.place(each.tenant).key]
            wanted = expected[each.standing.revision]
            if each.standing.revision == "base":
                assert not set(shape.tables) - {"alembic_version"}
            else:
                assert shape == wanted, (each.tenant.id, each.standing.revision)
        return sum(each.behind or 0 for each in standings)


def _wait_for_the_server(fleet: Fleet) -> None:
    """It goes on with the message of a client that was killed, and then misses the client."""
    if fleet.address is None:
        return
    mine = f"f{os.getpid()}!_%" if fleet.kind != "postgresql-schema" else fleet.database
    if fleet.kind == "mariadb":
        query = (
            "SELECT count(*) FROM information_schema.processlist "
            f"WHERE command = 'Query' AND db LIKE '{mine}' ESCAPE '!'"
        )
    else:
        query = (
            "SELECT count(*) FROM pg_stat_activity "
            f"WHERE state <> 'idle' AND datname LIKE '{mine}' ESCAPE '!'"
        )
    deadline = time.monotonic() + 30
    while fleet.address.execute(query) != [(0,)] and time.monotonic() < deadline:
        time.sleep(0.05)


def _down(fleet: Fleet, scripts: Scripts, tenant_ids: list[str]) -> None:
    settings = Settings("base", downgrade=True)
    tenants = [fleet.tenant(each) for each in tenant_ids]
    migrate_tenants(fleet.tenancy, scripts, tenants=tenants, settings=settings).raise_if_failed()


@pytest.mark.newest  # what a kill or a lock leaves is the servers' doing, not the libraries'
@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(1, id="short"),
        pytest.param(20, id="promised", marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
)
def test_four_migrators_at_once(make_fleet: MakeFleet, tmp_path: Path, rounds: int) -> None:
    """No failed exit, and each revision applied once."""
    fleet = make_fleet(4)
    ini = project(
        tmp_path,
        {
            "d1": "op.create_table('log', sa.Column('n', sa.Integer))",
            "d2": "op.execute('INSERT INTO log VALUES (2)')",
            "d3": "op.create_index('log_n', 'log', ['n'])\n"
            "op.execute('INSERT INTO log VALUES (3)')",
            "d4": "op.get_bind().execute(sa.text('INSERT INTO log VALUES (4)'))",
        },
    )
    scripts = Scripts(ini)
    for _ in range(rounds):
        # A little ahead of a commit, a killed round's rest is gone with the tables.
        processes = [
            fleet.start("migrate", "--config", str(ini), "--workers", "2") for _ in range(4)
        ]
        for process in processes:
            said, _ = process.communicate(timeout=240)
            assert process.returncode == 0, said
        assert not any(each.behind for each in migration_status(fleet.tenancy, scripts))
        for tenant_id in fleet.ids:
            assert fleet.rows(tenant_id, "SELECT n FROM log ORDER BY n") == [(2,), (3,), (4,)]
            fleet.execute(tenant_id, "DROP TABLE log", "DELETE FROM alembic_version")


@contextlib.contextmanager
def reader(fleet: Fleet, tenant_id: str, statement: str) -> Iterator[None]:
    """Somebody who holds a lock on a table for the length of the block."""
    with fleet.connect(tenant_id) as connection:
        connection.execute(text(statement))
        yield
        connection.rollback()


@pytest.mark.newest  # what a kill or a lock leaves is the servers' doing, not the libraries'
@pytest.mark.parametrize(
    "size",
    [
        # The promise is 100 ms; a machine that is busy with other tests may need more.
        pytest.param((6, 2, 0.4, 0.3), id="short"),
        pytest.param(
            (50, 5, 2.0, 0.1), id="promised", marks=[pytest.mark.long, pytest.mark.timeout(1200)]
        ),
    ],
)
def test_tables_in_use_hold_up_nobody(
    make_fleet: MakeFleet, tmp_path: Path, size: tuple[int, int, float, float]
) -> None:
    """The others arrive, no query waits longer than the lock timeout, the next run finishes."""
    count, in_use, timeout, more = size
    fleet = make_fleet(count)
    if fleet.kind == "mariadb":
        timeout = max(1.0, timeout)  # whole seconds there
    revisions = {
        "e1": "op.create_table('notes', sa.Column('id', sa.Integer, primary_key=True))",
        "e2": "op.add_column('notes', sa.Column('body', sa.String(20)))",
    }
    scripts = migrated(fleet, tmp_path, revisions, to="e1")
    locked = fleet.ids[1 : 1 + in_use]
    # A reader of SQLite stops no writer in WAL mode; a writer does, in any mode.
    statement = (
        "INSERT INTO notes (id) VALUES (1)" if fleet.kind == "sqlite" else "SELECT * FROM notes"
    )
    with contextlib.ExitStack() as stack:
        for tenant_id in locked:
            stack.enter_context(reader(fleet, tenant_id, statement))
        watchers = [_watching(fleet, tenant_id) for tenant_id in locked]
        report = migrate_tenants(
            fleet.tenancy,
            scripts,
            settings=Settings("e2", lock_timeout=timeout, lock_rounds=1),
            workers=4,
        )
        waits = [_longest_wait(each) for each in watchers]
    assert sorted(each.tenant_id for each in report.of("failed")) == sorted(locked)
    assert len(report.of("done")) == count - in_use
    assert {each.error_type for each in report.of("failed")} == {"LockedError"}
    assert report.exit_code == 1
    print(f"\n{count} tenants, {fleet.kind}: a query waited {max(waits):.3f} s of {timeout} s")
    assert max(waits) < timeout + more
    if fleet.kind != "sqlite":  # a writer stops no reader there until it commits
        assert min(waits) > timeout / 2
    assert migrate_tenants(fleet.tenancy, scripts).ok
    assert not any(each.behind for each in migration_status(fleet.tenancy, scripts))


#: Somebody else, in a process of its own: the query's time is not that of this one's threads.
WATCH = """
import sys, threading, time
from sqlalchemy import text
from tenantry import Tenancy
from tenantry.fleet import Access
tenancy = Tenancy.from_file(sys.argv[1])
access = Access(tenancy.servers)
told = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), told.set()), daemon=True).start()
longest = 0.0
with access.enter(access.place(tenancy.get(sys.argv[2])), autocommit=True) as connection:
    query = text("SELECT count(*) FROM notes")
    connection.execute(query).scalar()
    print("ready", flush=True)
    while not told.is_set():
        began = time.monotonic()
        connection.execute(query).scalar()
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.01)
print(longest)
"""


def _watching(fleet: Fleet, tenant_id: str) -> subprocess.Popen[str]:
    """Asks the same again and again until :func:`_longest_wait`."""
    process = subprocess.Popen(
        [sys.executable, "-c", WATCH, str(fleet.file), tenant_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _longest_wait(process: subprocess.Popen[str]) -> float:
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return float(said)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sqlite"])
def test_a_revision_in_progress_is_not_an_interrupted_one(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    """Who comes while another migrator works, and has read where the tenant stood before."""
    fleet = make_fleet(1)
    revisions = {
        "h1": "op.create_table('log', sa.Column('n', sa.Integer))",
        "h2": "op.execute('INSERT INTO log VALUES (2)')",
    }
    scripts = migrated(fleet, tmp_path, revisions, to="h1")
    fleet.execute(
        "t000",
        f"CREATE TABLE {STEPS_TABLE} "
        "(revision VARCHAR(255), position INTEGER, statement VARCHAR(80), outcome VARCHAR(80))",
        f"INSERT INTO {STEPS_TABLE} VALUES ('+h2', 0, NULL, NULL)",
    )
    work = Work(fleet.access, scripts, Settings("h2", lock_timeout=0.2))
    place, before_h1 = fleet.place("t000"), Standing((), interrupted=True)
    with holding(fleet.access, place, "migrate", inside=True) as got:
        assert got
        with pytest.raises(LockedError):
            bring(work, Todo(place, before_h1))
    assert bring(work, Todo(place, before_h1))["applied"] == 1
    assert bring(work, Todo(place, Standing(("h2",), interrupted=True)))["applied"] == 0
    assert fleet.rows("t000", "SELECT n FROM log") == [(2,)]
    assert not migration_status(fleet.tenancy, scripts)[0].standing.interrupted


@pytest.mark.parametrize("kind", ["postgresql-schema"])
def test_an_index_built_outside_a_transaction_is_mended_after_a_crash(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    fleet = make_fleet(1)
    revisions = {
        "f1": "op.create_table('big', sa.Column('n', sa.Integer))",
        "f2": "with op.get_context().autocommit_block():\n"
        "    op.create_index('big_n', 'big', ['n'], unique=True, postgresql_concurrently=True)",
    }
    scripts = migrated(fleet, tmp_path, revisions, to="f1")
    fleet.execute("t000", "INSERT INTO big VALUES (1), (1)")
    report = migrate_tenants(fleet.tenancy, scripts)
    assert not report.ok
    (standing,) = migration_status(fleet.tenancy, scripts)
    assert standing.behind == 1
    assert standing.standing.interrupted
    # What a crash in the middle of the build leaves: the same index, not valid.
    with (
        fleet.access.enter(fleet.place("t000"), autocommit=True) as connection,
        contextlib.suppress(Exception),
    ):
        connection.execute(text("CREATE UNIQUE INDEX CONCURRENTLY big_n ON big (n)"))
    fleet.execute("t000", f"UPDATE {STEPS_TABLE} SET outcome = NULL")
    fleet.execute("t000", "DELETE FROM big")
    assert migrate_tenants(fleet.tenancy, scripts).ok
    query = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'big_n'::regclass"
    assert fleet.rows("t000", query) == [(True,)]
    assert not migration_status(fleet.tenancy, scripts)[0].standing.interrupted


def test_a_migrator_in_other_processes(make_fleet: MakeFleet, tmp_path: Path, kind: str) -> None:
    """Any executor does the work; here two processes that load the application anew."""
    fleet = make_fleet(4)
    ini = project(tmp_path, {"g1": "op.get_bind().execute(sa.text('CREATE TABLE g (a INTEGER)'))"})
    done: subprocess.CompletedProcess[str] = fleet.run(
        "migrate", "--config", str(ini), "--processes", "--workers", "2"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not any(each.behind for each in migration_status(fleet.tenancy, Scripts(ini)))


HALF = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN")
for number in range(5000):
    connection.execute("INSERT INTO notes VALUES (?)", ("x" * 100,))
connection.execute("UPDATE alembic_version SET version_num = 'nonsense'")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_file_left_half_written_is_read_as_it_was_before(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    fleet = make_fleet(1)
    scripts = scripts_of(
        tmp_path, {"m1": "op.create_table('notes', sa.Column('a', sa.String(200)))"}
    )
    migrate_tenants(fleet.tenancy, scripts).raise_if_failed()
    file = fleet.place("t000").file()
    done = subprocess.run([sys.executable, "-c", HALF, str(file)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert file.with_name(f"{file.name}-journal").exists()
    with Access(fleet.tenancy.servers) as access:
        assert shapes_of(access, [access.place(fleet.tenant("t000"))])
    assert [each.standing.heads for each in migration_status(fleet.tenancy, scripts)] == [("m1",)]
    assert fleet.rows("t000", "SELECT count(*) FROM notes") == [(0,)]
