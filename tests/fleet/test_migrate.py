"""Migrations over a fleet, on every kind of server."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import Engine

from tenantry.fleet import (
    Access,
    Journal,
    Place,
    Settings,
    migrate_tenants,
    migration_status,
    pause,
)
from tenantry.fleet.access import open_file
from tenantry.fleet.apply import MovedOnError, apply, apply_together
from tenantry.fleet.fingerprint import shapes_of
from tenantry.fleet.migrate import offline_dialect
from tenantry.fleet.plan import Plan
from tests.fleet.conftest import MakeFleet
from tests.fleet.fleets import migrated, scripts_of


def test_thirty_revisions_up_and_down_and_up(make_fleet: MakeFleet, tmp_path: Path) -> None:
    fleet = make_fleet(2)
    scripts = scripts_of(tmp_path)
    report = migrate_tenants(fleet.tenancy, scripts, workers=2).raise_if_failed()
    assert {each.value["applied"] for each in report.outcomes} == {30}
    again = migrate_tenants(fleet.tenancy, scripts)
    assert [each.status for each in again.outcomes] == ["unchanged", "unchanged"]
    assert fleet.rows("t000", "SELECT name FROM categories ORDER BY id")[0] == ("100% cotton",)
    down = Settings("base", downgrade=True)
    migrate_tenants(fleet.tenancy, scripts, settings=down).raise_if_failed()
    assert [each.behind for each in migration_status(fleet.tenancy, scripts)] == [30, 30]
    migrate_tenants(fleet.tenancy, scripts).raise_if_failed()
    assert [each.behind for each in migration_status(fleet.tenancy, scripts)] == [0, 0]


def test_a_failing_revision_stops_within_its_budget_and_names_the_tenant(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    fleet = make_fleet(8)
    revisions = {
        "a1": "op.create_table('things', sa.Column('id', sa.Integer, primary_key=True))",
        "a2": "op.execute('INSERT INTO things VALUES (1)')",
    }
    scripts = migrated(fleet, tmp_path, revisions, to="a1")
    fleet.execute("t003", "INSERT INTO things VALUES (1)")
    report = migrate_tenants(fleet.tenancy, scripts, workers=1)
    assert not report.ok
    assert report.stopped == "failures"
    assert [each.tenant_id for each in report.of("failed")] == ["t003"]
    assert "a2" in (report["t003"].error or "")
    assert len(report.of("done")) == 3
    standings = migration_status(fleet.tenancy, scripts)
    assert [each.behind for each in standings] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert fleet.rows("t003", "SELECT count(*) FROM things") == [(1,)]
    # With a budget everybody else arrives.
    report = migrate_tenants(fleet.tenancy, scripts, failure_budget=1, canary=0, workers=2)
    assert [each.tenant_id for each in report.of("failed")] == ["t003"]
    assert report.stopped is None
    assert sum(each.behind or 0 for each in migration_status(fleet.tenancy, scripts)) == 1
    # And the same command finishes it, once the cause is gone.
    fleet.execute("t003", "DELETE FROM things")
    assert migrate_tenants(fleet.tenancy, scripts).ok


TABLE = {
    "f1": "op.create_table('notes', sa.Column('id', sa.Integer, primary_key=True))",
    "f2": "op.add_column('notes', sa.Column('body', sa.String(20)))",
}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql-database"], indirect=True)
def test_who_is_asked_alone_is_opened_once(
    make_fleet: MakeFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it stands is seen by who works on it; only the canary is looked at before."""
    fleet = make_fleet(12)
    scripts = migrated(fleet, tmp_path, TABLE, to="f1")
    opened: list[object] = []

    def noted(place: Place, *, timeout: float) -> AbstractContextManager[sqlite3.Connection]:
        opened.append(place)
        return open_file(place, timeout=timeout)

    # Counted, and opened by the real one.
    monkeypatch.setattr("tenantry.fleet.bring.open_file", noted)
    monkeypatch.setattr("tenantry.fleet.status.open_file", noted)

    def note(connection: object, _record: object) -> None:
        opened.append(connection)

    event.listen(Engine, "connect", note)
    try:
        report = migrate_tenants(fleet.tenancy, scripts, workers=2)
    finally:
        event.remove(Engine, "connect", note)
    assert len(report.of("done")) == 12
    assert len(opened) <= 12 + 3  # the first two looked at, and one that tells the dialect


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_file_in_use_is_looked_at_again_and_one_that_is_none_is_named(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    """Neither is a failure of the revision: the others arrive."""
    fleet = make_fleet(8)
    scripts = migrated(fleet, tmp_path, TABLE, to="f1")
    fleet.place("t005").file().write_bytes(b"no database at all" * 100)
    fleet.place("t006").file().unlink()
    with closing(sqlite3.connect(fleet.place("t004").file())) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        report = migrate_tenants(
            fleet.tenancy, scripts, settings=Settings("f2", lock_timeout=0.1, lock_rounds=1)
        )
    assert {each.tenant_id: each.error_type for each in report.of("failed")} == {
        "t004": "LockedError",
        "t005": "DatabaseError",
        "t006": "PlacementMissingError",
    }
    assert "tenantry create" in (report["t006"].error or "")
    assert len(report.of("done")) == 5
    assert report.stopped is None
    report = migrate_tenants(fleet.tenancy, scripts)
    assert [each.tenant_id for each in report.of("done")] == ["t004"]


def test_who_was_not_begun_is_looked_at(make_fleet: MakeFleet, tmp_path: Path) -> None:
    """When the work stops, those who are there already are not said to be left out."""
    fleet = make_fleet(5)
    revisions = {**TABLE, "f2": "op.execute('INSERT INTO notes VALUES (1)')"}
    scripts = migrated(fleet, tmp_path, revisions, to="f1")
    migrate_tenants(
        fleet.tenancy, scripts, tenants=[fleet.tenant(each) for each in fleet.ids[1:]]
    ).raise_if_failed()
    fleet.execute("t000", "INSERT INTO notes VALUES (1)")
    report = migrate_tenants(fleet.tenancy, scripts)
    assert [each.tenant_id for each in report.of("failed")] == ["t000"]
    assert sorted(each.tenant_id for each in report.of("unchanged")) == fleet.ids[1:]
    assert report.stopped is None
    assert report.exit_code == 1


def test_a_broken_canary_spares_everybody_else(make_fleet: MakeFleet, tmp_path: Path) -> None:
    fleet = make_fleet(4)
    scripts = scripts_of(tmp_path, {"b1": "op.execute('SELECT nonsense FROM nowhere')"})
    report = migrate_tenants(fleet.tenancy, scripts, failure_budget=100)
    assert [each.tenant_id for each in report.outcomes] == ["t000"]
    assert report.stopped == "canary"


def test_the_journal_remembers_and_a_pause_is_kept(make_fleet: MakeFleet, tmp_path: Path) -> None:
    fleet = make_fleet(6)
    scripts = scripts_of(tmp_path, {"c1": "op.create_table('t', sa.Column('a', sa.Integer))"})
    with Journal(tmp_path / "journal.db") as journal:
        seen: list[str] = []

        def pause_after_two(outcome: object) -> None:
            seen.append(str(outcome))
            if len(seen) == 2:
                assert journal.ask_to_pause("migrate") == 1
                time.sleep(0.3)  # it looks four times a second

        report = migrate_tenants(
            fleet.tenancy, scripts, workers=1, journal=journal, on_outcome=pause_after_two
        )
        assert report.stopped == "paused"
        assert 2 <= len(report.of("done")) < 6
        (run,) = journal.runs()
        assert run.state == "paused"
        report = migrate_tenants(fleet.tenancy, scripts, journal=journal)
        assert report.ok
        (run,) = journal.runs()
        assert run.state == "done"
        assert len(journal.items(run)) == 6
        assert {item["status"] for item in journal.items(run)} <= {"done", "unchanged"}


def test_a_plan_that_comes_too_late_changes_nothing(make_fleet: MakeFleet, tmp_path: Path) -> None:
    """Somebody else was faster, went back again, or took the version table away."""
    fleet = make_fleet(1)
    scripts = scripts_of(
        tmp_path,
        {
            "n1": "op.create_table('notes', sa.Column('id', sa.Integer))",
            "n2": "op.execute('INSERT INTO notes VALUES (2)')",
        },
    )
    with Access(fleet.tenancy.servers, keep=2) as access:
        place = access.place(fleet.tenant("t000"))
        with access.connect(place.server, place.database) as connection:
            dialect = offline_dialect(connection)
        first = scripts.plan((), "n1", dialect)
        second = scripts.plan(first.after, "n2", dialect)
        with pytest.raises(MovedOnError):
            apply(access, place, second, scripts)
        apply(access, place, first, scripts)
        with pytest.raises(MovedOnError):
            apply(access, place, first, scripts)
        apply(access, place, second, scripts)
        with pytest.raises(MovedOnError):
            apply(access, place, second, scripts)
        assert fleet.rows("t000", "SELECT id FROM notes") == [(2,)]
        fleet.execute("t000", "UPDATE alembic_version SET version_num = 'n1'")
        fleet.execute("t000", "INSERT INTO alembic_version VALUES ('other')")
        with pytest.raises(MovedOnError):
            apply(access, place, second, scripts)
        fleet.execute("t000", "DELETE FROM alembic_version")
        with pytest.raises(MovedOnError):
            apply(access, place, second, scripts)
    assert fleet.rows("t000", "SELECT id FROM notes") == [(2,)]


def test_batches_and_live_runs_give_the_same_databases(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    """The proof, on every revision of the example, up and down again."""

    fleet = make_fleet(2)
    scripts = scripts_of(tmp_path)
    with Access(fleet.tenancy.servers, keep=4) as access:
        batch, live = (access.place(fleet.tenant(each)) for each in fleet.ids)
        with access.connect(batch.server, batch.database) as connection:
            dialect = offline_dialect(connection)
        up = scripts.plan((), "heads", dialect)
        assert len(up.steps) == 30
        down = scripts.plan(up.after, "0020", dialect, downgrade=True)
        again = scripts.plan(down.after, "heads", dialect)
        for step in (*up.steps, *down.steps, *again.steps):
            plan = Plan(step.before, step.after, (step,))
            apply(access, batch, plan, scripts)
            apply(access, live, plan, scripts, online=True)
            shapes = shapes_of(access, [batch, live])
            assert shapes[batch.key] == shapes[live.key], step.revision
    for table in ("categories", "products", "alembic_version"):
        query = f"SELECT * FROM {table} ORDER BY 1"
        assert fleet.rows(batch.name, query) == fleet.rows(live.name, query)


@pytest.mark.parametrize("kind", ["postgresql-database", "sqlite"], indirect=True)
def test_those_in_use_are_tried_again_one_by_one(
    make_fleet: MakeFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their places are databases of their own: no message may be meant for two of them."""
    fleet = make_fleet(40)
    scripts = migrated(fleet, tmp_path, TABLE, to="f1")
    together: list[int] = []

    def noted(access: Access, places: list[Place], *rest: Any) -> Any:
        together.append(len(places))
        return apply_together(access, places, *rest)

    monkeypatch.setattr("tenantry.fleet.bring.apply_together", noted)  # it calls the real one
    with ExitStack() as stack:
        for tenant_id in fleet.ids[4:]:
            connection = stack.enter_context(fleet.connect(tenant_id))
            connection.execute(text("INSERT INTO notes (id) VALUES (1)"))
        report = migrate_tenants(
            fleet.tenancy, scripts, settings=Settings("f2", lock_timeout=0.1, lock_rounds=1)
        )
    assert sorted(each.tenant_id for each in report.of("failed")) == fleet.ids[4:]
    assert {each.error_type for each in report.of("failed")} == {"LockedError"}
    assert together == []
    assert migrate_tenants(fleet.tenancy, scripts).ok


@pytest.mark.parametrize("kind", ["postgresql-schema", "sqlite"], indirect=True)
def test_a_pause_while_tables_are_in_use_loses_nobody(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    """Who waits for another try is reported as in use, as it was at the last one."""
    fleet = make_fleet(3)
    scripts = migrated(fleet, tmp_path, TABLE, to="f1")
    settings = Settings("f2", lock_timeout=0.05, lock_rounds=30)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(tmp_path / "journal.db"))
        for tenant_id in fleet.ids:
            connection = stack.enter_context(fleet.connect(tenant_id))
            connection.execute(text("INSERT INTO notes (id) VALUES (1)"))
        threads = stack.enter_context(ThreadPoolExecutor(1))
        migration = threads.submit(
            migrate_tenants,
            fleet.tenancy,
            scripts,
            settings=settings,
            canary=0,
            workers=1,
            journal=journal,
        )
        time.sleep(0.8)  # all were tried once; without a pause it would go on for minutes
        assert pause(journal) == 1
        report = migration.result(timeout=60)
    assert {each.tenant_id: each.error_type for each in report.outcomes} == dict.fromkeys(
        fleet.ids, "LockedError"
    )
    assert report.stopped == "paused"
    assert migrate_tenants(fleet.tenancy, scripts).ok
