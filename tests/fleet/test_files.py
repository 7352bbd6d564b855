"""Many files: who comes first says how others may go, and each is asked whether it is so."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tenantry.fleet import Scripts, Settings, migrate_tenants, migration_status
from tenantry.fleet import bring as bring_module
from tenantry.fleet.access import open_file
from tenantry.fleet.apply import apply_again
from tenantry.fleet.bring import Work
from tests.fleet.conftest import MakeFleet
from tests.fleet.fleets import Fleet, migrated, scripts_of

REVISIONS = {
    "m1": "op.create_table('things', sa.Column('id', sa.Integer, primary_key=True))",
    "m2": "op.execute('INSERT INTO things VALUES (1)')",
    "m3": "op.add_column('things', sa.Column('name', sa.String(20)))\n"
    "op.execute('INSERT INTO things (id) VALUES (3)')",
}
COUNT = 24


@pytest.fixture
def kind() -> str:
    return "sqlite"


@pytest.fixture
def fleet(make_fleet: MakeFleet) -> Fleet:
    return make_fleet(COUNT)


@pytest.fixture
def followers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps of another's plan each of those came through who tried it."""
    seen: list[int] = []

    def noted(*arguments: Any) -> tuple[int, bool]:
        came = apply_again(*arguments)
        seen.append(came[0])
        return came

    monkeypatch.setattr(bring_module, "apply_again", noted)  # and calls the real one
    return seen


def contents(fleet: Fleet, tenant_id: str) -> list[int]:
    return [row[0] for row in fleet.rows(tenant_id, "SELECT id FROM things ORDER BY id")]


def plan_of(fleet: Fleet, scripts: Scripts, tenant_id: str, *heads: str) -> Any:
    return Work(fleet.access, scripts, Settings("heads")).plan(fleet.place(tenant_id), heads)


@contextmanager
def in_use(fleet: Fleet, tenant_id: str, begin: str) -> Iterator[None]:
    file = fleet.place(tenant_id).file()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute(begin)
        other.execute("SELECT * FROM things").fetchall()
        yield
        other.execute("ROLLBACK")


def test_who_stands_where_the_one_before_stood_goes_its_way(
    fleet: Fleet, tmp_path: Path, followers: list[int]
) -> None:
    scripts = migrated(fleet, tmp_path, REVISIONS, to="m1")
    report = migrate_tenants(fleet.tenancy, scripts, workers=1).raise_if_failed()
    assert followers == [2] * (COUNT - 1)
    assert [each.value for each in report.of("done")] == [{"applied": 2, "revision": "m3"}] * COUNT
    assert all(each.seconds > 0 for each in report.outcomes)
    assert all(contents(fleet, each) == [1, 3] for each in fleet.ids)
    followers.clear()
    assert len(migrate_tenants(fleet.tenancy, scripts).of("unchanged")) == COUNT
    assert followers == []  # nobody had anything to do, so nobody said how


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_a_fleet_in_four_places(
    fleet: Fleet, tmp_path: Path, seed: int, workers: int, followers: list[int]
) -> None:
    stands = [None, "m1", "m2", "m3"] * (COUNT // 4)
    random.Random(seed).shuffle(stands)
    scripts = scripts_of(tmp_path, REVISIONS)
    for revision in ("m1", "m2", "m3"):
        some = [fleet.tenant(each) for each, at in zip(fleet.ids, stands, strict=True) if at]
        some = [each for each in some if stands[fleet.ids.index(each.id)] >= revision]  # type: ignore[operator]
        migrate_tenants(
            fleet.tenancy, scripts, tenants=some, settings=Settings(revision)
        ).raise_if_failed()
    followers.clear()
    report = migrate_tenants(fleet.tenancy, scripts, workers=workers).raise_if_failed()
    assert followers
    left = {None: 3, "m1": 2, "m2": 1, "m3": 0}
    for tenant_id, at in zip(fleet.ids, stands, strict=True):
        assert report[tenant_id].value["applied"] == left[at]
        assert report[tenant_id].status == ("done" if left[at] else "unchanged")
        assert contents(fleet, tenant_id) == [1, 3]


def test_who_fails_is_named_and_has_come_as_far_as_it_could(
    fleet: Fleet, tmp_path: Path, followers: list[int]
) -> None:
    scripts = migrated(fleet, tmp_path, REVISIONS, to="m1")
    bad = ["t007", "t008", "t019", fleet.ids[-1]]
    for tenant_id in bad:
        fleet.execute(tenant_id, "INSERT INTO things VALUES (3)")
    report = migrate_tenants(fleet.tenancy, scripts, workers=1, failure_budget=4)
    assert 1 in followers  # the first of two steps was there to stay
    assert sorted(each.tenant_id for each in report.of("failed")) == bad
    for each in report.of("failed"):
        assert "revision m3 failed" in (each.error or "")
        assert "was rolled back" in (each.error or "")
    assert {each.value["applied"] for each in report.of("done")} == {2}
    standing = {each.tenant.id: each for each in migration_status(fleet.tenancy, scripts)}
    for tenant_id in fleet.ids:
        assert standing[tenant_id].behind == (1 if tenant_id in bad else 0)
        assert contents(fleet, tenant_id) == [1, 3]
    for tenant_id in bad:
        fleet.execute(tenant_id, "DELETE FROM things WHERE id = 3")
    report = migrate_tenants(fleet.tenancy, scripts).raise_if_failed()
    assert sorted(each.tenant_id for each in report.of("done")) == bad


def test_who_is_in_use_is_nobodys_success_and_who_is_there_needs_no_lock(
    fleet: Fleet, tmp_path: Path, followers: list[int]
) -> None:
    scripts = migrated(fleet, tmp_path, REVISIONS, to="m1")
    migrate_tenants(fleet.tenancy, scripts, tenants=[fleet.tenant("t005")]).raise_if_failed()
    settings = Settings("heads", lock_timeout=0.2, lock_rounds=1)
    begin = "BEGIN IMMEDIATE"
    with in_use(fleet, "t003", begin), in_use(fleet, "t005", begin), in_use(fleet, "t009", "BEGIN"):
        report = migrate_tenants(fleet.tenancy, scripts, settings=settings, workers=1)
    assert followers
    assert [each.tenant_id for each in report.of("failed")] == ["t003", "t009"]
    assert {each.error_type for each in report.of("failed")} == {"LockedError"}
    assert [each.tenant_id for each in report.of("unchanged")] == ["t005"]
    assert contents(fleet, "t003") == contents(fleet, "t009") == []
    report = migrate_tenants(fleet.tenancy, scripts).raise_if_failed()
    assert sorted(each.tenant_id for each in report.of("done")) == ["t003", "t009"]
    assert all(contents(fleet, each) == [1, 3] for each in fleet.ids)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM alembic_version",
        "DROP TABLE alembic_version",
        "INSERT INTO alembic_version VALUES ('m0')",
        "UPDATE alembic_version SET version_num = 'm2'",
        "UPDATE alembic_version SET version_num = 'M1'",
        "CREATE TABLE tenantry_steps (step TEXT)",
    ],
)
def test_the_guard_lets_nobody_by_who_stands_elsewhere(
    fleet: Fleet, tmp_path: Path, change: str
) -> None:
    scripts = migrated(fleet, tmp_path, REVISIONS, to="m1", ids=["t000", "t001"])
    steps = plan_of(fleet, scripts, "t000", "m1").steps
    assert len(steps) == 2
    with open_file(fleet.place("t000"), timeout=1) as file:
        file.execute(change)
        assert apply_again(file, fleet.place("t000"), steps, "alembic_version") == (0, False)
        assert not file.in_transaction
        assert file.execute("SELECT count(*) FROM things").fetchone() == (0,)
    with open_file(fleet.place("t001"), timeout=1) as file:
        assert apply_again(file, fleet.place("t001"), steps, "alembic_version") == (2, False)


def test_a_placeholder_is_an_error_for_everybody(fleet: Fleet, tmp_path: Path) -> None:
    """A script would take it for NULL; so nobody follows whose statements went one by one."""
    revisions = {**REVISIONS, "m4": "op.execute(sa.text('UPDATE things SET name = ?'))"}
    scripts = migrated(fleet, tmp_path, revisions, to="m3")
    for tenant_id in fleet.ids:
        fleet.execute(tenant_id, "UPDATE things SET name = 'kept'")
    report = migrate_tenants(fleet.tenancy, scripts, canary=0, failure_budget=COUNT)
    assert len(report.of("failed")) == COUNT
    for tenant_id in fleet.ids:
        assert fleet.rows(tenant_id, "SELECT DISTINCT name FROM things") == [("kept",)]
