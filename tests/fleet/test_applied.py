"""A report says how many steps this run brought to each tenant: no more, and no fewer.

Another migrator may be at work on the same tenant, or a table may be in use between two steps;
what had come before was this run's all the same.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tenantry.backends.versions import guard_of_file
from tenantry.fleet import Report, Settings, Source, migrate_tenants
from tenantry.fleet import apply as apply_module
from tenantry.fleet import bring as bring_module
from tenantry.fleet.apply import OnApplied, apply
from tenantry.fleet.bring import Todo, Work, bring_place
from tenantry.fleet.locks import lock_name
from tests.fleet.conftest import MakeFleet
from tests.fleet.fleets import Fleet, migrated

REVISIONS = {
    "m1": "op.create_table('things', sa.Column('id', sa.Integer))\n"
    "op.create_table('others', sa.Column('id', sa.Integer))",
    "m2": "op.execute('INSERT INTO others VALUES (2)')",
    "m3": "op.add_column('things', sa.Column('name', sa.String(20)))\n"
    "op.execute('INSERT INTO others VALUES (3)')",
}


def others(fleet: Fleet, tenant_id: str) -> list[int]:
    return [row[0] for row in fleet.rows(tenant_id, "SELECT id FROM others ORDER BY id")]


def test_migrators_that_meet_count_each_step_once(make_fleet: MakeFleet, tmp_path: Path) -> None:
    fleet = make_fleet(12)
    scripts = migrated(fleet, tmp_path, REVISIONS, to="m1")
    reports: list[Report] = []

    def migrate() -> None:
        reports.append(migrate_tenants(fleet.tenancy, scripts, workers=2, canary=0))

    for _ in range(4):
        reports.clear()
        threads = [threading.Thread(target=migrate) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        outcomes = [each for report in reports for each in report.raise_if_failed().outcomes]
        assert sum(each.value["applied"] for each in outcomes) == 2 * len(fleet.ids)
        for each in outcomes:
            assert each.status == ("done" if each.value["applied"] else "unchanged")
        for tenant_id in fleet.ids:
            assert others(fleet, tenant_id) == [2, 3]
            fleet.execute(
                tenant_id,
                "DELETE FROM others",
                "ALTER TABLE things DROP COLUMN name",
                "UPDATE alembic_version SET version_num = 'm1'",
            )


@pytest.mark.parametrize("kind", ["postgresql-schema", "postgresql-database"])
@pytest.mark.parametrize("count", [1, 3])
def test_who_comes_between_two_steps_of_a_message(
    make_fleet: MakeFleet, tmp_path: Path, count: int
) -> None:
    fleet = make_fleet(count)
    scripts = migrated(fleet, tmp_path, REVISIONS, to="m1")
    last = fleet.ids[-1]
    fleet.execute(
        last,
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_sleep(0.7); RETURN NEW; END'",
        "CREATE TRIGGER slow BEFORE INSERT ON others FOR EACH ROW EXECUTE FUNCTION wait()",
    )
    reports = []
    work = Work(fleet.access, scripts, Settings("heads"))
    todos = [Todo(fleet.place(each), work.look(fleet.place(each), None)) for each in fleet.ids]

    def migrate() -> None:
        bundled = bring_module.bring_bundle(work, todos)
        reports.extend(bundled.outcomes + [bring_place(work, each) for each in bundled.back])

    thread = threading.Thread(target=migrate)
    thread.start()
    time.sleep(0.35)  # within the slow step; the lock is free right after it
    with fleet.connect(last) as other:
        key = f"tenantry:{lock_name(fleet.place(last), 'migrate')}"
        lock = "SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"
        other.execute(text(lock), {"key": key})
        assert other.execute(text("SELECT version_num FROM alembic_version")).scalar() == "m2"
        other.execute(text("ALTER TABLE things ADD COLUMN name varchar(20)"))
        other.execute(text("UPDATE alembic_version SET version_num = 'm3'"))
        other.commit()
    thread.join()
    assert [each.status for each in reports] == ["done"] * count
    assert [each.value["applied"] for each in reports] == [2] * (count - 1) + [1]
    assert others(fleet, last) == [2]


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.parametrize("follows", [False, True])
def test_who_comes_between_two_steps_of_a_file(
    make_fleet: MakeFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, follows: bool
) -> None:
    fleet = make_fleet(2)
    scripts = migrated(fleet, tmp_path, REVISIONS, to="m1")
    came: list[dict[str, int]] = []

    def comes_between() -> None:
        if not came:
            came.append({})
            other = Work(fleet.access, scripts, Settings("heads"))
            came[0].update(bring_place(other, Todo(fleet.place("t001"))).value)

    def asked(*arguments: Any) -> str:
        if arguments[-1] == ("m2",):
            comes_between()
        return guard_of_file(*arguments)

    def applied(*arguments: Any, on_applied: OnApplied, **named: Any) -> None:
        def heard(steps: int) -> None:
            on_applied(steps)
            comes_between()

        apply(*arguments, on_applied=heard, **named)

    work = Work(fleet.access, scripts, Settings("heads"))
    if follows:
        assert bring_place(work, Todo(fleet.place("t000"))).value["applied"] == 2
        monkeypatch.setattr(apply_module, "guard_of_file", asked)  # and calls the real one
    else:
        monkeypatch.setattr(bring_module, "apply", applied)  # so does this
    outcome = bring_place(work, Todo(fleet.place("t001")))
    assert came[0]["applied"] == 1
    assert (outcome.status, outcome.value) == ("done", {"applied": 1, "revision": "m3"})
    assert others(fleet, "t001") == [2, 3]


@pytest.mark.parametrize("kind", ["postgresql-schema", "postgresql-database", "mariadb"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_table_in_use_between_two_steps(
    make_fleet: MakeFleet, tmp_path: Path, elsewhere: bool
) -> None:
    """What failed says what had come before, and the next try counts it in."""
    fleet = make_fleet(2)
    scripts = migrated(fleet, tmp_path, REVISIONS, to="m1")
    tried = threading.Event()

    class Noted(ThreadPoolExecutor):
        """Says that somebody was tried."""

        def submit(self, *arguments: Any, **named: Any) -> Any:
            future = super().submit(*arguments, **named)
            future.add_done_callback(lambda _: tried.set())
            return future

    def migrate(rounds: int, executor: Executor | None = None) -> Report:
        return migrate_tenants(
            fleet.tenancy,
            scripts,
            settings=Settings("heads", lock_timeout=0.2, lock_rounds=rounds),
            workers=1,
            executor=executor,
            source=Source(file=str(fleet.file)),
        )

    with fleet.connect("t001") as reader:
        reader.execute(text("SELECT * FROM things"))
        if not elsewhere:
            report = migrate(0)
            assert report["t001"].error_type == "LockedError"
            assert report["t001"].value == {"applied": 1}
            reader.rollback()
            report = migrate(0)
            assert report["t001"].value == {"applied": 1, "revision": "m3"}
        else:
            with Noted(1) as executor, ThreadPoolExecutor(1) as aside:
                future = aside.submit(migrate, 6, executor)
                assert tried.wait(60)
                while others(fleet, "t001") != [2]:
                    time.sleep(0.05)
                time.sleep(1.5)  # it has given up once
                reader.rollback()
                report = future.result()
            assert report["t001"].value == {"applied": 2, "revision": "m3"}
    assert report.ok
    assert others(fleet, "t001") == [2, 3]
