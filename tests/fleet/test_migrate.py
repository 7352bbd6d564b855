"""Migrations over a fleet, on every kind of server."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tenantry.fleet import Access, Journal, Settings, migrate_tenants, migration_status
from tenantry.fleet.apply import MovedOnError, apply
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


def test_a_broken_canary_spares_everybody_else(make_fleet: MakeFleet, tmp_path: Path) -> None:
    fleet = make_fleet(4)
    scripts = scripts_of(tmp_path, {"b1": "op.execute('SELECT nonsense FROM nowhere')"})
    report = migrate_tenants(fleet.tenancy, scripts, failure_budget=100)
    assert [each.tenant_id for each in report.outcomes] == ["t000"]
    assert report.stopped == "failures"


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
