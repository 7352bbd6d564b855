"""A whole life at the size of the promise: create, thirty revisions, one more, look, delete."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tenantry.fleet import (
    Access,
    Blueprints,
    Scripts,
    create,
    delete,
    diagnose,
    drifted,
    migrate_tenants,
    place_exists,
)
from tenantry.fleet import migration_status as status
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

    with fleet.with_table() as tenancy, Access(tenancy.servers, keep=8) as access:
        for each in fleet.ids:
            wanted = fleet.tenant(each).placement
            outcome = create(
                tenancy,
                each,
                isolation=wanted.isolation,
                database=wanted.database,
                schema=wanted.schema,
                access=access,
            )
            assert outcome.status == "done"
        places = [access.place(tenant) for tenant in tenancy.tenants()]
        assert len(places) == count
        lap("create")
        report = migrate_tenants(tenancy, Scripts(ini)).raise_if_failed()
        assert {each.value["applied"] for each in report.of("done")} == {30}
        assert len(report.of("done")) == count
        lap("migrate 30 revisions")
        versions = tmp_path / "example" / "migrations" / "versions"
        (versions / "0031_reason.py").write_text(ONE_MORE, encoding="utf-8")
        scripts = Scripts(ini)
        report = migrate_tenants(tenancy, scripts).raise_if_failed()
        assert len(report.of("done")) == count
        lap("one more revision")
        assert not any(each.behind for each in status(tenancy, scripts))
        lap("status")
        report = migrate_tenants(tenancy, scripts)
        assert len(report.of("unchanged")) == count
        lap("nothing to migrate")
        assert diagnose(tenancy).ok
        lap("doctor")
        some = list(tenancy.tenants())[:20]
        assert drifted(tenancy, Blueprints(access, scripts), some) == []
        lap("doctor --drift of 20")
        for tenant in list(tenancy.tenants()):
            assert delete(tenancy, tenant, access=access).status == "done"
        lap("delete")
        assert list(tenancy.tenants()) == []
        assert not any(place_exists(access, place) for place in places[:5])
    tenancy.close()
    print(f"\n{count} tenants, {kind}: {took}")
