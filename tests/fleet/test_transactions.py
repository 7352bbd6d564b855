"""What a revision does to its transaction or its session stays with its own tenant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tenantry.errors import MigrationError
from tenantry.fleet import Access, Settings, migrate_tenants, migration_status
from tenantry.fleet.plan import Segment, Step
from tests.fleet.conftest import MakeFleet
from tests.fleet.fleets import Fleet, migrated, scripts_of

POSTGRESQL = ["postgresql-schema", "postgresql-database"]
FIRST = {
    "n1": "op.create_table('things', sa.Column('id', sa.Integer))",
    "n2": "op.execute('INSERT INTO things VALUES (1)')",
}
MORE = "op.execute('UPDATE things SET id = id + 5')"
BODIES = {
    "commit": (f"op.execute('commit')\n{MORE}", [6]),
    "commit and semicolon": (f"op.execute('Commit;')\n{MORE}", [6]),
    "rollback": (
        f"op.execute('INSERT INTO things VALUES (7)')\nop.execute('rollback')\n{MORE}",
        [6],
    ),
    "comment": ("op.execute('UPDATE things SET id = id + 5 -- why')", [6]),
    "temporary table": (
        (
            "op.execute('CREATE TEMPORARY TABLE aside AS SELECT id FROM things')\n"
            "op.execute('INSERT INTO things SELECT id + 5 FROM aside')"
        ),
        [1, 6],
    ),
}
SEVERAL = (
    "op.execute('UPDATE things SET id = id + 1; COMMIT; BEGIN; UPDATE things SET id = id + 4')",
    [6],
)
BOTH = [(kind, name) for kind in POSTGRESQL for name in (*BODIES, "several")] + [
    (kind, name) for kind in ("sqlite", "mariadb") for name in BODIES
]


def decoys(fleet: Fleet) -> list[tuple[object, ...]]:
    """What lies where a statement goes that has lost its schema."""
    if fleet.kind != "postgresql-schema":
        return []
    with fleet.access.connect(fleet.tenancy.servers["main"], autocommit=True) as connection:
        connection.exec_driver_sql(
            "CREATE TABLE IF NOT EXISTS public.things (id int);"
            "CREATE TABLE IF NOT EXISTS public.alembic_version (version_num text);"
            "INSERT INTO public.things SELECT 1 WHERE NOT EXISTS (SELECT FROM public.things);"
            "INSERT INTO public.alembic_version SELECT 'n2' "
            "WHERE NOT EXISTS (SELECT FROM public.alembic_version)"
        )
        rows = connection.exec_driver_sql(
            "SELECT id, version_num FROM public.things, public.alembic_version"
        )
        return [tuple(row) for row in rows]


@pytest.mark.parametrize(("kind", "name"), BOTH, ids=["-".join(each) for each in BOTH])
def test_whoever_ends_his_transaction_stays_at_home(
    make_fleet: MakeFleet, tmp_path: Path, name: str
) -> None:
    """One after the other in one thread: who comes next would meet what is left."""
    body, expected = BODIES.get(name, SEVERAL)
    fleet = make_fleet(6)
    scripts = migrated(fleet, tmp_path, {**FIRST, "n3": body}, to="n2")
    before = decoys(fleet)
    report = migrate_tenants(fleet.tenancy, scripts, workers=1).raise_if_failed()
    assert len(report.of("done")) == 6
    for tenant_id in fleet.ids:
        assert [row[0] for row in fleet.rows(tenant_id, "SELECT id FROM things")] == expected
    assert {each.behind for each in migration_status(fleet.tenancy, scripts)} == {0}
    assert decoys(fleet) == before


@pytest.mark.parametrize("kind", POSTGRESQL)
@pytest.mark.parametrize("live", [False, True], ids=["batch", "live"])
def test_a_setting_of_the_session_is_gone_with_its_revision(
    make_fleet: MakeFleet, tmp_path: Path, live: bool
) -> None:
    revisions = {
        **FIRST,
        "n3": "op.execute('SET session_replication_role = replica')",
        "n4": 'op.execute("INSERT INTO things SELECT 2 WHERE '
        "current_setting('session_replication_role') = 'replica'\")",
    }
    fleet = make_fleet(4)
    scripts = scripts_of(tmp_path, revisions)
    with Access(fleet.tenancy.servers, keep=4) as access:
        for revision in ("n2", "n3", "n4"):
            settings = Settings(revision, online=live and revision == "n3")
            migrate_tenants(
                fleet.tenancy, scripts, settings=settings, workers=1, access=access
            ).raise_if_failed()
    for tenant_id in fleet.ids:
        assert fleet.rows(tenant_id, "SELECT id FROM things") == [(1,)]


@pytest.mark.parametrize("kind", ["postgresql-schema"])
@pytest.mark.parametrize("way", ["batch", "live", "stepwise"])
def test_a_revision_that_goes_elsewhere_is_no_success(
    make_fleet: MakeFleet, tmp_path: Path, way: str
) -> None:
    fleet = make_fleet(2)
    commit = "op.execute('COMMIT')\n" if way == "stepwise" else ""
    away = {**FIRST, "n3": f"{commit}op.execute('SET search_path TO public')"}
    scripts = migrated(fleet, tmp_path, away, to="n2")
    before = decoys(fleet)
    report = migrate_tenants(fleet.tenancy, scripts, settings=Settings("n3", online=way == "live"))
    (failed,) = report.of("failed")
    assert failed.error_type == MigrationError.__name__
    # Statement by statement it misses the table where it notes how far it is.
    assert ("tenantry_steps" if way == "stepwise" else "left") in (failed.error or "")
    assert {each.behind for each in migration_status(fleet.tenancy, scripts)} == {1}
    if way == "batch":  # the others commit before they can be asked
        assert decoys(fleet) == before


QUIET = {
    "CREATE TABLE a (b int DEFAULT 3)": True,
    "ALTER TABLE a ADD COLUMN c text DEFAULT 'SET x'": True,
    "INSERT INTO a (b) VALUES (1)": True,
    "UPDATE alembic_version SET version_num='b' WHERE alembic_version.version_num = 'a'": True,
    "UPDATE a SET b = 1 -- why": True,
    "UPDATE a SET b = 1; DELETE FROM a": True,
    "CREATE TEMP TABLE a (b int)": False,
    "CREATE TABLE pg_temp.a (b int)": False,
    "SELECT 1 AS b INTO TEMPORARY a": False,
    "SET lock_timeout = 1": False,
    "UPDATE a SET b = 1; SET lock_timeout = 1": False,
    "SELECT set_config('a.b', 'c', false)": False,
    "UPDATE a SET b = own_function(b)": False,
    "DO $$ BEGIN PERFORM set_config('a.b', 'c', false); END $$": False,
    "CALL tidy()": False,
    "CREATE TABLE a AS SELECT pg_advisory_lock(1)": False,
}


@pytest.mark.parametrize("statement", QUIET)
def test_only_what_certainly_leaves_nothing_shares_a_session(statement: str) -> None:
    step = Step("b", ("a",), ("b",), segments=(Segment((statement,)),))
    assert step.leaves_nothing is QUIET[statement]
