"""Many schemas in one message: each is whole or untouched, and the right one is named."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError

from tenantry import Isolation, Placement, Server, Tenancy, Tenant
from tenantry.directory import MappingDirectory
from tenantry.errors import PlacementMissingError
from tenantry.fleet import Access, Scripts, Settings, migrate_tenants, migration_status
from tenantry.fleet import bring as bring_module
from tenantry.fleet.apply import apply, apply_together
from tenantry.fleet.bring import Work
from tenantry.fleet.runner import Outcome, Report
from tenantry.fleet.status import SAMPLE, Standing
from tenantry.testing.postgresql import running_postgresql
from tests.fleet.conftest import MakeFleet
from tests.fleet.fleets import Fleet, kill, project, scripts_of

REVISIONS = {
    "m1": "op.create_table('things', sa.Column('id', sa.Integer, primary_key=True))",
    "m2": "op.execute('INSERT INTO things VALUES (1)')",
    "m3": "op.add_column('things', sa.Column('name', sa.String(20)))\n"
    "op.execute('INSERT INTO things VALUES (3)')",
}
COUNT = 5 * SAMPLE


@pytest.fixture
def kind() -> str:
    return "postgresql-schema"


@pytest.fixture(params=["psycopg", "psycopg2"])
def fleet(make_fleet: MakeFleet, request: pytest.FixtureRequest) -> Fleet:
    made = make_fleet(COUNT, make=False)
    file = made.file.read_text()
    made.file.write_text(file.replace("postgresql+psycopg:", f"postgresql+{request.param}:"))
    made.__post_init__()
    with made.access.connect(made.tenancy.servers["main"], autocommit=True) as connection:
        connection.exec_driver_sql("".join(f"CREATE SCHEMA {each};" for each in made.ids))
    return made


@pytest.fixture
def bundles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many schemas there were in each message."""
    sizes: list[int] = []

    def noted(access: Access, places: Any, *rest: Any) -> Any:
        sizes.append(len(places))
        return apply_together(access, places, *rest)

    monkeypatch.setattr(bring_module, "apply_together", noted)  # and calls the real one
    return sizes


def bring_all(fleet: Fleet, scripts: Scripts, to: str, **options: Any) -> Report:
    return migrate_tenants(fleet.tenancy, scripts, settings=Settings(to), **options)


def behind(fleet: Fleet, scripts: Scripts, to: str = "heads") -> list[str]:
    standings = migration_status(fleet.tenancy, scripts, target=to)
    return [each.tenant.id for each in standings if each.behind]


def rows_of_all(fleet: Fleet) -> dict[str, list[int]]:
    parts = [f"SELECT '{each}', id FROM {each}.things" for each in fleet.ids]
    found: dict[str, list[int]] = {each: [] for each in fleet.ids}
    with fleet.access.connect(fleet.tenancy.servers["main"]) as connection:
        for tenant_id, number in connection.execute(text(" UNION ALL ".join(parts))):
            found[tenant_id].append(number)
    return {tenant_id: sorted(numbers) for tenant_id, numbers in found.items()}


def test_all_arrive_and_each_has_a_time_of_its_own(
    fleet: Fleet, tmp_path: Path, bundles: list[int]
) -> None:
    scripts = scripts_of(tmp_path, REVISIONS)
    report = bring_all(fleet, scripts, "m2").raise_if_failed()
    assert {each.value["applied"] for each in report.outcomes} == {2}
    assert max(bundles) > 1
    bundles.clear()
    # One is slow: it alone is said to be.
    fleet.execute(
        "t040",
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END'",
        "CREATE TRIGGER slow BEFORE INSERT ON things FOR EACH ROW EXECUTE FUNCTION wait()",
    )
    report = bring_all(fleet, scripts, "m3").raise_if_failed()
    assert len(report.of("done")) == COUNT
    assert max(bundles) > 1
    assert report["t040"].seconds > 0.5
    others = sorted(each.seconds for each in report.outcomes if each.tenant_id != "t040")
    assert others[len(others) * 9 // 10] < 0.25
    assert all(seconds > 0 for seconds in others)
    assert set(map(tuple, rows_of_all(fleet).values())) == {(1, 3)}
    bundles.clear()
    # To base it goes alone where Alembic drops its table outside the revision, as 1.13 does.
    down = Settings("m1", downgrade=True)
    migrate_tenants(fleet.tenancy, scripts, settings=down).raise_if_failed()
    assert max(bundles) > 1
    assert {each.behind for each in migration_status(fleet.tenancy, scripts)} == {2}


def test_who_fails_is_named_and_the_others_arrive(
    fleet: Fleet, tmp_path: Path, bundles: list[int]
) -> None:
    scripts = scripts_of(tmp_path, REVISIONS)
    bring_all(fleet, scripts, "m2").raise_if_failed()
    bad = ["t011", "t012", "t044", fleet.ids[-1]]
    for tenant_id in bad:
        fleet.execute(tenant_id, "INSERT INTO things VALUES (3)")
    bundles.clear()
    report = bring_all(fleet, scripts, "m3", failure_budget=4)
    assert max(bundles) > 1
    assert sorted(each.tenant_id for each in report.of("failed")) == bad
    assert all("m3" in (each.error or "") for each in report.of("failed"))
    assert all("was rolled back" in (each.error or "") for each in report.of("failed"))
    assert len(report.of("done")) == COUNT - len(bad)
    assert behind(fleet, scripts) == bad
    for tenant_id in bad:
        assert fleet.rows(tenant_id, "SELECT * FROM things ORDER BY id") == [(1,), (3,)]
        fleet.execute(tenant_id, "DELETE FROM things WHERE id = 3")
    report = bring_all(fleet, scripts, "m3")
    assert sorted(each.tenant_id for each in report.of("done")) == bad
    assert set(map(tuple, rows_of_all(fleet).values())) == {(1, 3)}


def test_a_failure_ends_the_work_in_the_midst_of_a_message(
    fleet: Fleet, tmp_path: Path, bundles: list[int]
) -> None:
    scripts = scripts_of(tmp_path, REVISIONS)
    bring_all(fleet, scripts, "m2").raise_if_failed()
    for tenant_id in fleet.ids[30:]:
        fleet.execute(tenant_id, "INSERT INTO things VALUES (3)")
    bundles.clear()
    report = bring_all(fleet, scripts, "m3", workers=1)
    assert max(bundles) > 1
    assert report.stopped == "failures"
    assert [each.tenant_id for each in report.of("failed")] == ["t030"]
    assert len(report.of("done")) == 30
    assert behind(fleet, scripts) == fleet.ids[30:]


def test_a_fleet_in_four_places(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At base, at each of two revisions, at the end, and away; with a sample that misleads."""
    scripts = scripts_of(tmp_path, REVISIONS)
    at = {
        "m1": fleet.ids[20:25],
        "m3": fleet.ids[40:45],
        "m2": fleet.ids[:20] + fleet.ids[25:40] + fleet.ids[45:78],
    }
    for revision, ids in at.items():
        tenants = [fleet.tenant(each) for each in ids]
        migrate_tenants(
            fleet.tenancy, scripts, tenants=tenants, settings=Settings(revision)
        ).raise_if_failed()
    fleet.execute(fleet.ids[79], f"DROP SCHEMA {fleet.ids[79]}")
    # Chance misleads in 1 of 12 runs only.
    monkeypatch.setattr("random.sample", lambda names, size: names[:size])
    report = bring_all(fleet, scripts, "m3")
    applied = {each.tenant_id: each.value and each.value["applied"] for each in report.outcomes}
    expected = {
        **dict.fromkeys(at["m1"], 2),
        **dict.fromkeys(at["m2"], 1),
        **dict.fromkeys(at["m3"], 0),
        fleet.ids[78]: 3,
        fleet.ids[79]: None,
    }
    assert applied == expected
    assert len(report.of("unchanged")) == 5
    assert "does not exist" in (report[fleet.ids[79]].error or "")
    assert report.stopped is None


def test_nothing_is_assumed_to_be_done(fleet: Fleet, tmp_path: Path) -> None:
    """A sample that stands at the target says nothing of the others."""
    scripts = scripts_of(tmp_path, REVISIONS)
    bring_all(fleet, scripts, "m3").raise_if_failed()
    fleet.execute("t050", "UPDATE alembic_version SET version_num = 'm2'")
    fleet.execute("t050", "ALTER TABLE things DROP COLUMN name", "DELETE FROM things WHERE id = 3")
    report = bring_all(fleet, scripts, "m3").raise_if_failed()
    assert [each.tenant_id for each in report.of("done")] == ["t050"]
    assert behind(fleet, scripts) == []


def test_a_message_that_is_refused_whole_is_nobodys_success(fleet: Fleet, tmp_path: Path) -> None:
    """The server reads all of it before it begins, and the message before was in order."""
    scripts = scripts_of(tmp_path, {**REVISIONS, "m2": "op.execute('SELEC 1')"})
    bring_all(fleet, scripts, "m1").raise_if_failed()
    half = COUNT // 2
    with fleet.access.connect(fleet.tenancy.servers["main"], autocommit=True) as connection:
        for each in fleet.ids[:half]:
            connection.exec_driver_sql(f"UPDATE {each}.alembic_version SET version_num = 'm2'")
    report = bring_all(fleet, scripts, "m3", canary=0, workers=1, failure_budget=COUNT)
    assert sorted(each.tenant_id for each in report.of("done")) == fleet.ids[:half]
    assert sorted(each.tenant_id for each in report.of("failed")) == fleet.ids[half:]
    assert "SELEC" in (report[fleet.ids[-1]].error or "")
    assert behind(fleet, scripts) == fleet.ids[half:]


def test_a_revision_that_loses_its_place_fails(fleet: Fleet, tmp_path: Path) -> None:
    """Then the version table is not found, which is no sign that somebody else was faster."""
    scripts = scripts_of(tmp_path, {**REVISIONS, "m4": "op.execute('RESET ALL')"})
    bring_all(fleet, scripts, "m3").raise_if_failed()
    report = bring_all(fleet, scripts, "m4", failure_budget=COUNT, canary=0)
    assert len(report.of("failed")) == COUNT
    assert "revision m4 failed" in (report["t007"].error or "")
    assert "alembic_version" in (report["t007"].error or "")
    assert behind(fleet, scripts) == fleet.ids


@pytest.mark.newest  # what a lost session leaves is the server's doing, not the libraries'
def test_sessions_that_are_ended_cost_nobody_anything(fleet: Fleet, tmp_path: Path) -> None:
    """Nobody knows how far such a message came; each place says."""
    scripts = scripts_of(tmp_path, REVISIONS)
    bring_all(fleet, scripts, "m1").raise_if_failed()
    with _calling(fleet, "pg_terminate_backend") as ended:
        for _ in range(50):
            bring_all(fleet, scripts, "m3", failure_budget=COUNT)
            if ended[0] > 2:
                break
            bring_all(fleet, scripts, "m3", failure_budget=COUNT)
            _back_to_m1(fleet)
    assert ended[0] > 2
    bring_all(fleet, scripts, "m3").raise_if_failed()
    assert set(map(tuple, rows_of_all(fleet).values())) == {(1, 3)}


def test_a_constraint_that_speaks_at_the_commit_names_its_tenant(
    fleet: Fleet, tmp_path: Path, bundles: list[int]
) -> None:
    scripts = scripts_of(tmp_path, REVISIONS)
    bring_all(fleet, scripts, "m2").raise_if_failed()
    bad = ["t013", "t060"]
    for tenant_id in bad:
        fleet.execute(
            tenant_id,
            "CREATE TABLE known (id int PRIMARY KEY)",
            "INSERT INTO known VALUES (1)",
            "ALTER TABLE things ADD FOREIGN KEY (id) REFERENCES known INITIALLY DEFERRED",
        )
    bundles.clear()
    # Without ALTER TABLE: it would ask the constraint at once.
    (tmp_path / "migrations" / "versions" / "m3.py").write_text(
        "from alembic import op\nrevision, down_revision = 'm3', 'm2'\n"
        "def upgrade():\n    op.execute('INSERT INTO things VALUES (3)')\n"
    )
    scripts = Scripts(tmp_path / "alembic.ini")
    report = bring_all(fleet, scripts, "m3", failure_budget=2)
    assert max(bundles) > 1
    assert sorted(each.tenant_id for each in report.of("failed")) == bad
    assert all("ForeignKeyViolation" in (each.error or "") for each in report.of("failed"))
    assert len(report.of("done")) == COUNT - 2
    assert behind(fleet, scripts) == bad
    assert {each for each, rows in rows_of_all(fleet).items() if rows == [1]} == set(bad)


@pytest.mark.newest  # what a cancelled message leaves is the server's doing, not the libraries'
def test_messages_that_are_cancelled_are_whole_or_nothing_for_each(
    fleet: Fleet, tmp_path: Path
) -> None:
    scripts = scripts_of(tmp_path, REVISIONS)
    bring_all(fleet, scripts, "m1").raise_if_failed()
    failed = 0
    with _calling(fleet, "pg_cancel_backend") as called:
        for _ in range(50):
            report = bring_all(fleet, scripts, "m3", failure_budget=COUNT)
            failed += len(report.of("failed"))
            done = {each.tenant_id for each in report.of("done")}
            assert set(behind(fleet, scripts)) == set(fleet.ids) - done
            if failed and called[0] > 2:
                break
            bring_all(fleet, scripts, "m3", failure_budget=COUNT)
            _back_to_m1(fleet)
    assert failed
    bring_all(fleet, scripts, "m3").raise_if_failed()
    assert set(map(tuple, rows_of_all(fleet).values())) == {(1, 3)}


@contextmanager
def _calling(fleet: Fleet, function: str) -> Iterator[list[int]]:
    """*function* is called again and again with whoever sends a message of several."""
    over = threading.Event()
    called = [0]

    def call() -> None:
        with fleet.access.connect(fleet.tenancy.servers["main"], autocommit=True) as connection:
            while not over.is_set():
                called[0] += connection.execute(
                    text(
                        f"SELECT count({function}(pid)) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND query LIKE '%tenantry.clock%' "
                        "AND state = 'active' AND pid <> pg_backend_pid()"
                    )
                ).scalar_one()
                time.sleep(0.02)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield called
    finally:
        over.set()
        thread.join()


@pytest.mark.newest  # what a lost server leaves is its doing, not the libraries'
def test_a_server_that_is_lost_ends_the_work(fleet: Fleet, tmp_path: Path) -> None:
    """A schema that was there and cannot be reached is a failure: not a thousand are tried."""
    address = fleet.address
    assert address is not None
    scripts = scripts_of(tmp_path, REVISIONS)
    bring_all(fleet, scripts, "m1").raise_if_failed()
    seen: list[str] = []

    def lose_it(outcome: Outcome) -> None:
        seen.append(outcome.tenant_id)
        if len(seen) == 20:
            address.execute(f'ALTER DATABASE "{fleet.database}" ALLOW_CONNECTIONS false')
            address.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE datname = '{fleet.database}'"
            )

    try:
        report = bring_all(fleet, scripts, "m3", workers=2, on_outcome=lose_it)
    finally:
        address.execute(f'ALTER DATABASE "{fleet.database}" ALLOW_CONNECTIONS true')
    assert report.stopped == "failures"
    assert 1 <= len(report.of("failed")) <= 2
    assert len(report) < COUNT
    fleet.access.close()
    bring_all(fleet, scripts, "m3").raise_if_failed()
    assert set(map(tuple, rows_of_all(fleet).values())) == {(1, 3)}


@pytest.mark.newest  # what a kill leaves is the server's doing, not the libraries'
def test_kill_9_in_the_midst_of_messages(fleet: Fleet, tmp_path: Path) -> None:
    ini = project(tmp_path, REVISIONS)
    scripts = Scripts(ini)
    bring_all(fleet, scripts, "m1").raise_if_failed()
    amid = 0
    for number in range(4):
        process = fleet.start("migrate", "--config", str(ini), "--canary", "0", "--workers", "1")
        while process.poll() is None and len(behind(fleet, scripts)) == COUNT:
            time.sleep(0.002)
        time.sleep(0.01 * number)
        kill(process)
        left = len(behind(fleet, scripts))
        amid += 0 < left < COUNT
        for tenant_id, rows in rows_of_all(fleet).items():
            assert rows in ([], [1], [1, 3]), tenant_id
        bring_all(fleet, scripts, "m3").raise_if_failed()
        assert set(map(tuple, rows_of_all(fleet).values())) == {(1, 3)}
        _back_to_m1(fleet)
    print(f"\n{amid} of 4 kills came amid the work")


def _wait_until(happened: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def _back_to_m1(fleet: Fleet) -> None:
    with fleet.access.connect(fleet.tenancy.servers["main"], autocommit=True) as connection:
        for each in fleet.ids:
            connection.exec_driver_sql(
                f"DELETE FROM {each}.things; ALTER TABLE {each}.things DROP COLUMN IF EXISTS name;"
                f"UPDATE {each}.alembic_version SET version_num = 'm1'"
            )


@pytest.mark.newest  # what a crash leaves is the server's doing, not the libraries'
def test_what_is_reported_survives_a_crash_of_the_server(tmp_path: Path) -> None:
    """Only the last commit of a message waits for the disk; so does one behind a failure."""
    scripts = scripts_of(tmp_path, REVISIONS)
    ids = [f"t{number}" for number in range(12)]
    with running_postgresql() as address:
        url = address.url("postgresql+psycopg")
        server = Server.from_url("main", url)
        tenants = [Tenant(each, Placement("main", Isolation.SCHEMA, None, each)) for each in ids]
        tenancy = Tenancy(MappingDirectory(tenants), {"main": server})
        engine = create_engine(url)

        with Access(tenancy.servers, keep=1) as access, engine.connect() as bystander:
            places = [access.place(each) for each in tenants]
            with access.connect(server, autocommit=True) as connection:
                connection.exec_driver_sql("".join(f"CREATE SCHEMA {each};" for each in ids))
            backend = bystander.execute(text("SELECT pg_backend_pid()")).scalar_one()
            plan = Work(access, scripts, Settings("m3")).plan(places[0], ())
            address.execute("CREATE TABLE t7.things (mine int)")
            ((writer,),) = address.execute(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"
            )
            os.kill(writer, signal.SIGSTOP)  # it brings to the disk what nobody waits for
            seconds, problem = apply_together(access, places, plan.steps, "alembic_version", 2.0)
            assert len(seconds) == 7 * len(plan.steps)
            assert "t7" in str(problem)
            os.kill(backend, signal.SIGKILL)  # the server starts anew, from its log
            bystander.invalidate()
            time.sleep(0.5)
            os.kill(writer, signal.SIGCONT)
        engine.dispose()
        _wait_until(lambda: _answers(engine), 30)
        heads = {each.tenant.id: each.standing.heads for each in migration_status(tenancy, scripts)}
        assert heads == {**dict.fromkeys(ids, ()), **dict.fromkeys(ids[:7], ("m3",))}
        engine.dispose()
        tenancy.close()


def _answers(engine: Engine) -> bool:
    try:
        with engine.connect():
            return True
    except OperationalError:
        return False


def test_a_schema_that_is_gone_gets_no_temporary_tables(fleet: Fleet, tmp_path: Path) -> None:
    """It was there when it was looked at: nothing is applied, and nobody says so."""
    scripts = scripts_of(tmp_path, REVISIONS)
    with Access(fleet.tenancy.servers, keep=1) as access:
        place = access.place(fleet.tenant("t000"))
        work = Work(access, scripts, Settings("m3"))
        plan = work.plan(place, ())
        with access.connect(place.server, autocommit=True) as connection:
            connection.exec_driver_sql("DROP SCHEMA t000")
        with pytest.raises(PlacementMissingError, match="t000"):
            apply(access, place, plan, scripts, online=True)
        with pytest.raises(PlacementMissingError, match="t000"):
            bring_module.bring(work, bring_module.Todo(place, Standing(())))
        with access.connect(place.server) as connection:
            made = connection.execute(text("SELECT count(*) FROM pg_class WHERE relname='things'"))
            assert made.scalar() == 0
