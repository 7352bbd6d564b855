"""Tenants in databases of MariaDB, with a Superset of their own: one speaks one kind of SQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from examples.superset.provision import DATASETS
from examples.superset.regions import make_mysql
from tenantry.testing.address import ServerAddress
from tests.superset.conftest import HERE, TENANTS, Running, minted_by, regions_in, running


@pytest.fixture(scope="module")
def shops(mariadb: ServerAddress, redis_url: str) -> Iterator[Running]:
    """The example's configuration, over MariaDB; each tenant has a login of its own."""
    regions = make_mysql(mariadb.host, mariadb.port, mariadb.user, mariadb.password)
    environment = {"REDIS_URL": redis_url}
    for region in regions.values():
        environment |= region.variables()
    with running(
        HERE / "mysql_config.py",
        environment,
        minted_by,
        address="mysql+pymysql://nobody@tenant.invalid/none",
        datasets={name: DATASETS[name] for name in ("sales", "sales_named")},
    ) as shops:
        yield shops


def test_nothing_leaks_between_databases_of_mariadb(shops: Running) -> None:
    report = shops.checked()
    print(f"\non MariaDB: {dict(report.counts())}")
    assert report.clean, [each for each in report.findings if each.status not in ("ok", "refused")]
    assert report.counts()["ok"] > 200


def test_each_tenant_reads_its_own_in_both_orders_from_warm_caches(shops: Running) -> None:
    for name in (*TENANTS, *reversed(TENANTS)):
        answer = shops.chart_data(shops.token(name))
        assert answer.status_code == 200, answer.text
        assert regions_in(answer) == {name}
    for name in TENANTS:
        answer = shops.chart_data(shops.token(name))
        assert answer.json()["result"][0]["is_cached"]
        assert regions_in(answer) == {name}


def test_a_dataset_that_names_another_s_database_is_refused(shops: Running) -> None:
    """Where a schema is a database, ``sales_aus.sales`` would reach into it."""
    with shops.with_schema("sales_aus"):
        answer = shops.chart_data(shops.token("uk"), force=True)
    assert answer.status_code >= 400
    assert regions_in(answer) == set()
    assert "sales_aus" not in answer.text


def test_staff_read_the_reference_and_strangers_nothing(shops: Running) -> None:
    seen = shops.sql_lab("SELECT DISTINCT region, database() AS place FROM sales")
    assert seen == [{"region": "hq", "place": "sales_hq"}]
    refused = shops.chart_data(shops.minted(tenant="nosuch"))
    assert refused.status_code in (401, 403)
    assert regions_in(refused) == set()
