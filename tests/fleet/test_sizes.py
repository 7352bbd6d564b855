"""A whole life at the size of the promise: create, thirty revisions, one more, look, delete."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tenantry.fleet import Access, Blueprints, Scripts, diagnose, drifted, migrate_tenants
from tenantry.fleet import migration_status as status
from tenantry.fleet.places import drop_place, make_place, place_exists
from tests.fleet.conftest import MakeFleet
from tests.fleet.fleets import project

PROMISED = {
    "sqlite": 1000,
    "postgresql-schema": 1000,
    "postgresql-database": 200,
    "mariadb": 200,
}
ONE_MORE = """
import sqlalchemy as sa
from alembic import op
revision = "0031"
down_revision = "0030"
def upgrade():
    op.add_column("refunds", sa.Column("reason", sa.String(40)))
    op.create_index("refunds_reason", "refunds", ["reason"])
def downgrade():
    pass
"""


@pytest.mark.parametrize(
    "share",
    [
        pytest.param(250, id="short"),
        pytest.param(1, id="promised", marks=[pytest.mark.long, pytest.mark.timeout(7200)]),
    ],
)
def test_a_whole_life(make_fleet: MakeFleet, tmp_path: Path, kind: str, share: int) -> None:
    count = max(2, PROMISED[kind] // share)
    fleet = make_fleet(count, make=False)
    ini = project(tmp_path)
    took: dict[str, float] = {}
    began = time.perf_counter()

    def lap(what: str) -> None:
        nonlocal began
        now = time.perf_counter()
        took[what] = round(now - began, 2)
        began = now

    with Access(fleet.tenancy.servers, keep=8) as access:
        places = [access.place(fleet.tenant(each)) for each in fleet.ids]
        for place in places:
            make_place(access, place)
        lap("create")
        assert migrate_tenants(fleet.tenancy, Scripts(ini)).raise_if_failed()
        lap("migrate 30 revisions")
        versions = tmp_path / "example" / "migrations" / "versions"
        (versions / "0031_reason.py").write_text(ONE_MORE, encoding="utf-8")
        scripts = Scripts(ini)
        report = migrate_tenants(fleet.tenancy, scripts).raise_if_failed()
        assert len(report.of("done")) == count
        lap("one more revision")
        assert not any(each.behind for each in status(fleet.tenancy, scripts))
        lap("status")
        report = migrate_tenants(fleet.tenancy, scripts)
        assert len(report.of("unchanged")) == count
        lap("nothing to migrate")
        assert diagnose(fleet.tenancy).ok
        lap("doctor")
        some = [fleet.tenant(each) for each in fleet.ids[:20]]
        assert drifted(fleet.tenancy, Blueprints(access, scripts), some) == []
        lap("doctor --drift of 20")
        for place in places:
            assert drop_place(access, place)
        assert not any(place_exists(access, place) for place in places[:5])
        lap("delete")
    print(f"\n{count} tenants, {kind}: {took}")
