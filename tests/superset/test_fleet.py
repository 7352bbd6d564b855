"""A table of tenants, asynchronous queries on a Celery worker, caches in files, schemas."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from examples.superset.provision import DATASETS
from examples.superset.regions import TABLE, Region, connected, sales
from tenantry import Isolation, Placement, State, Tenant
from tenantry.cli.superset import superset
from tenantry.directory import TableDirectory
from tenantry.integrations.superset.guest import Guest
from tenantry.testing.address import ServerAddress
from tests.superset.conftest import HERE, Running, minted_by, ran_inside, regions_in, running

PASSWORD = "fleet@test/"
MIXED = "sales_mixed"


@dataclass(frozen=True)
class Fleet(Running):
    """A Superset whose tenants are in a table that the test may change."""

    directory: TableDirectory

    def rows(self, tenant_id: str, *, force: bool = False) -> tuple[int, set[str]]:
        """Status and regions of a chart, waited for as the embedded page does."""
        with httpx.Client(timeout=60) as client:
            guest = Guest(self.url, tenant_id, lambda: self.token(tenant_id), client)
            body = {**self.chart_body("sales"), "force": force}
            answer = guest("POST", "/api/v1/chart/data", json=body)
            return answer.status_code, regions_in(answer)

    def becomes(self, tenant_id: str, expected: tuple[int, set[str]]) -> float:
        """Seconds until the last request that did not show this yet began; at most one."""
        began = time.monotonic()
        last = 0.0
        while True:
            asked = time.monotonic() - began
            if (found := self.rows(tenant_id)) == expected:
                return last
            assert asked < 1.0, f"a request after {asked:.2f} s still found {found}"
            last = asked
            time.sleep(0.05)


@pytest.fixture(scope="module")
def caches_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(scope="module")
def fleet(
    postgresql: ServerAddress,
    regions: dict[str, Region],
    redis_url: str,
    caches_in: Path,
) -> Iterator[Fleet]:
    """Three tenants in databases of their own, two in schemas of one, all behind one login."""
    postgresql.execute(f"CREATE ROLE svc_fleet LOGIN PASSWORD '{PASSWORD}'")
    for name in (MIXED, "superset_control"):
        postgresql.execute(f"CREATE DATABASE {name} OWNER svc_fleet")
    for region in regions.values():
        postgresql.execute(f"GRANT CONNECT ON DATABASE {region.database} TO svc_fleet")
        postgresql.execute("GRANT SELECT ON sales TO svc_fleet", region.database)
    host, port = postgresql.host, postgresql.port
    with connected(host, port, "svc_fleet", PASSWORD, MIXED) as run:
        for name, count in (("eu", 7), ("nz", 2)):
            run(f"CREATE SCHEMA {name}")
            run(f"SET search_path TO {name}")
            run(TABLE)
            for row in sales(name, count):
                run("INSERT INTO sales VALUES (%s, %s, %s, %s, %s, %s, %s)", row)
    control, server = (
        postgresql.url("postgresql+psycopg2", name).set(username="svc_fleet", password=PASSWORD)
        for name in ("superset_control", MIXED)
    )
    directory = TableDirectory(control)
    directory.create_tables()
    for name in ("uk", "aus", "hq"):
        directory.add(Tenant(name, Placement("fleet", database=regions[name].database)))
    directory.add(Tenant("eu", Placement("fleet", Isolation.SCHEMA, schema="eu")))
    environment = {
        "REDIS_URL": redis_url,
        "CONTROL_URL": control.render_as_string(hide_password=False),
        "FLEET_URL": server.render_as_string(hide_password=False),
        "CACHES_IN": str(caches_in),
        "CELERY_QUEUE": f"superset-{port}",
    }
    # Two datasets, for each asynchronous query is asked after until it is done.
    datasets = {name: DATASETS[name] for name in ("sales", "sales_plain")}
    with running(
        HERE / "fleet_config.py", environment, minted_by, workers=True, datasets=datasets
    ) as started:
        yield Fleet(started.superset, started.made, started.token, directory)


def test_nothing_leaks_through_workers_files_and_schemas(fleet: Fleet) -> None:
    report = fleet.checked()
    print(f"\non workers, in files and schemas: {dict(report.counts())}")
    assert report.clean, [each for each in report.findings if each.status not in ("ok", "refused")]


def test_the_worker_did_the_work(fleet: Fleet) -> None:
    log = Path(fleet.superset.worker_log).read_text()
    assert "load_chart_data_into_cache" in log
    assert "load_explore_json_into_cache" in log


def test_another_tenant_s_result_address_gives_nothing(fleet: Fleet) -> None:
    """The address of a result is a cache key; knowing it must not be enough."""
    with httpx.Client(timeout=60) as one, httpx.Client(timeout=60) as other:
        uk = Guest(fleet.url, "uk", lambda: fleet.token("uk"), one)
        aus = Guest(fleet.url, "aus", lambda: fleet.token("aus"), other)
        seen: list[str] = []
        one.event_hooks["response"].append(lambda answer: seen.append(str(answer.request.url)))
        body = {**fleet.chart_body("sales_plain"), "force": True}
        assert regions_in(uk("POST", "/api/v1/chart/data", json=body)) == {"uk"}
        path = seen[-1].removeprefix(fleet.url)
        assert path.startswith("/api/v1/chart/data/")
        answer = aus("GET", path)
        assert answer.status_code >= 400
        assert regions_in(answer) == set()


def test_no_guest_is_shown_a_thumbnail_drawn_for_staff(fleet: Fleet) -> None:
    """It shows the reference tenant's rows, and its address is the same for everybody."""
    found = ran_inside(
        fleet,
        HERE / "thumbnails.py",
        {
            "chart": fleet.made.charts["sales table"],
            "dashboard": fleet.made.dashboard,
            "staff": {"username": "admin", "password": fleet.superset.passwords["admin"]},
            "guests": {name: fleet.token(name) for name in ("uk", "aus")},
        },
    )
    assert found.pop("staff") == [[200, True]] * 3
    print(f"\nthumbnails, as guests: {found}")
    for answers in found.values():
        assert not any(shown for _, shown in answers)
        assert all(status in (202, 401, 403, 404) for status, _ in answers)


def test_purge_deletes_one_tenant_s_files(fleet: Fleet, caches_in: Path) -> None:
    for name in ("uk", "aus"):
        assert fleet.rows(name) == (200, {name})
    others = {file.name for file in caches_in.glob("data/t.aus.*")}
    assert others
    done = CliRunner().invoke(superset, ["purge", "uk", "--directory", str(caches_in / "data")])
    assert int(done.output.split()[0]) > 0
    assert not list(caches_in.glob("data/t.uk.*"))
    assert {file.name for file in caches_in.glob("data/t.aus.*")} == others
    for name in ("uk", "aus"):
        assert fleet.rows(name) == (200, {name})
    assert list(caches_in.glob("data/t.uk.*"))


def test_a_new_tenant_is_served_without_a_restart(fleet: Fleet) -> None:
    assert fleet.rows("nz") == (401, set())
    fleet.directory.add(Tenant("nz", Placement("fleet", Isolation.SCHEMA, schema="nz")))
    print(f"\na new tenant: last refused after {fleet.becomes('nz', (200, {'nz'})):.2f} s")


def test_a_suspended_tenant_is_refused_and_a_resumed_one_served(fleet: Fleet) -> None:
    before = fleet.directory.get("aus")
    assert fleet.rows("aus") == (200, {"aus"})
    after = fleet.directory.replace(before.with_state(State.SUSPENDED), expected=before)
    fleet.becomes("aus", (401, set()))
    fleet.directory.replace(after.with_state(State.READY), expected=after)
    fleet.becomes("aus", (200, {"aus"}))


def test_a_moved_tenant_is_read_in_its_new_place_within_a_second(
    fleet: Fleet, regions: dict[str, Region]
) -> None:
    """From warm caches, which show nothing of the old place any more."""
    assert fleet.rows("eu") == (200, {"eu"})
    before = fleet.directory.get("eu")
    # The rows of nz stand for the new place: what is read shows where it was read.
    fleet.directory.remove(fleet.directory.get("nz"))
    moved = dataclasses.replace(before, placement=Placement("fleet", Isolation.SCHEMA, schema="nz"))
    after = fleet.directory.replace(moved, expected=before)
    took = fleet.becomes("eu", (200, {"nz"}))
    print(f"\na moved tenant: last read in its old place after {took:.2f} s")
    fleet.directory.replace(dataclasses.replace(after, placement=before.placement), expected=after)
    fleet.becomes("eu", (200, {"eu"}))


def test_a_tenant_created_again_shares_nothing_with_the_old_one(
    fleet: Fleet, regions: dict[str, Region]
) -> None:
    """A live token that Superset made for the old one is refused; the caches are empty."""
    assert fleet.rows("uk") == (200, {"uk"})
    old = fleet.directory.get("uk")
    stale = fleet.minted(tenant="uk", tenant_key=old.key)
    assert fleet.chart_data(stale, result_format="csv").status_code == 200
    fleet.directory.remove(old)
    fleet.becomes("uk", (401, set()))
    fleet.directory.add(Tenant("uk", old.placement))
    fleet.becomes("uk", (200, {"uk"}))
    assert fleet.chart_data(stale).status_code in (401, 403)


def test_a_dataset_with_another_s_schema_is_refused(fleet: Fleet) -> None:
    """One login reads both schemas here, so only the adapter stands between them."""
    with fleet.with_schema("nz"):
        status, seen = fleet.rows("eu", force=True)
    assert status >= 400
    assert seen == set()


def test_what_the_user_had_set_is_still_there(fleet: Fleet) -> None:
    with httpx.Client() as client:
        assert client.get(f"{fleet.url}/health").headers["X-Own"] == "yes"
    # Reads `a` as the user's own mutator has it, and \\x61 without.
    seen = fleet.sql_lab("SELECT CAST(CAST('a' AS bytea) AS text) AS a, '{{ own() }}' AS own")
    assert seen == [{"a": "a", "own": "own"}]
