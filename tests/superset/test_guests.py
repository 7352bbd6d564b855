"""Who gets nothing: forged tokens, other tenants' states, accounts, cookies; and safe errors."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest

from examples.superset.regions import ROWS, Region
from tenantry import Placement, Tenant, errors, use
from tenantry.integrations.superset import AsyncGuestTokens, GuestTokens
from tenantry.testing.address import ServerAddress
from tests.superset.conftest import Running, regions_in

NOW = time.time()


@pytest.mark.parametrize(
    "claims",
    [
        {"tenant": "nosuch"},
        {"tenant": "UK"},
        {"tenant": "uk "},
        {"tenant": "uk\n"},
        {"tenant": ""},
        {"tenant": None},
        {"tenant": ["uk"]},
        {"tenant": {"uk": "uk"}},
        {"tenant": 1},
        {"tenant": "sales_uk"},
        {"tenant": "uk' OR '1'='1"},
        {"tenant": ..., "user": {}},
        {"tenant": ..., "user": {"username": "nosuch"}},
        {"tenant": ..., "user": {"username": "UK"}},
        {"tenant": "uk", "user": {"username": ""}},
        {"tenant": "uk", "user": {"username": ["uk"]}},
        {"tenant": "uk", "tenant_key": "of an earlier uk"},
        {"exp": NOW - 1},
        {"aud": "another"},
        {"type": "access"},
        {"user": ...},
        {"resources": ...},
    ],
    ids=str,
)
def test_a_token_that_is_not_quite_right_gets_nothing(
    ours: Running, claims: dict[str, Any]
) -> None:
    answer = ours.chart_data(ours.minted(**claims))
    assert answer.status_code in (401, 403)
    assert regions_in(answer) == set()


def test_a_token_of_another_s_making_gets_nothing(ours: Running) -> None:
    claims = jwt.decode(ours.token("uk"), options={"verify_signature": False})
    for forged in (
        jwt.encode(claims, "another secret of more than thirty-two bytes", algorithm="HS256"),
        jwt.encode(claims, None, algorithm="none"),
        jwt.encode(claims, "test-guest-secret-change-me-to-32-bytes", algorithm="HS256"),
        "nonsense",
        "",
    ):
        answer = ours.chart_data(forged)
        assert answer.status_code in (401, 403)
        assert regions_in(answer) == set()


def test_nobody_gets_nothing(ours: Running) -> None:
    answer = ours.chart_data(None)
    assert answer.status_code in (401, 403)
    assert regions_in(answer) == set()


def test_a_good_token_gets_its_tenant_s_rows(ours: Running) -> None:
    for name in ("uk", "aus", "eu"):
        answer = ours.chart_data(ours.token(name))
        assert answer.status_code == 200, answer.text
        assert regions_in(answer) == {name}
        assert len(answer.json()["result"][0]["data"]) == ROWS[name]
        assert answer.headers["Cache-Control"] == "private, no-store"


def test_a_person_called_uk_of_the_tenant_aus_reads_aus(ours: Running) -> None:
    token = ours.minted(tenant="aus", user={"username": "uk"})
    assert regions_in(ours.chart_data(token)) == {"aus"}


@contextlib.contextmanager
def logged_in(ours: Running, account: str) -> Iterator[httpx.Client]:
    """A browser with the session cookie of an account."""
    with httpx.Client(base_url=ours.url, timeout=60, follow_redirects=True) as client:
        page = client.get("/login/").text
        found = re.search(r'csrf_token[^>]*?value="([^"]+)"|csrf_token&#34;: &#34;([^&]+)', page)
        form = {
            "username": account,
            "password": ours.superset.passwords[account],
            "csrf_token": next((each for each in found.groups() if each), "") if found else "",
        }
        client.post("/login/", data=form, headers={"Referer": ours.url})
        assert client.get("/api/v1/me/").status_code == 200
        yield client


def test_a_guest_token_outranks_an_administrator_s_cookie(ours: Running) -> None:
    with logged_in(ours, "admin") as browser:
        assert regions_in(ours.chart_data(None, client=browser)) == {"hq"}
        for name in ("uk", "aus"):
            assert regions_in(ours.chart_data(ours.token(name), client=browser)) == {name}
        refused = ours.chart_data(ours.minted(tenant="nosuch"), client=browser)
        assert refused.status_code in (401, 403)
        assert regions_in(refused) == set()


def test_an_account_named_uk_reads_the_reference_tenant(ours: Running) -> None:
    with ours.rest("uk") as rest:
        answer = rest(
            "POST",
            "/api/v1/chart/data",
            json={
                "datasource": {"id": ours.made.datasets["sales"], "type": "table"},
                "queries": [{"columns": ["product"], "metrics": [], "row_limit": 100}],
                "result_format": "json",
                "result_type": "full",
            },
        )
    products = {row["product"] for row in answer["result"][0]["data"]}
    assert len(products) == ROWS["hq"]
    assert all(product.startswith("hq-") for product in products)


def test_sql_lab_reads_the_reference_tenant(ours: Running) -> None:
    seen = ours.sql_lab("SELECT DISTINCT region FROM sales")
    assert [row["region"] for row in seen] == ["hq"]


def test_superset_s_own_tokens_carry_tenant_and_person(ours: Running) -> None:
    password = ours.superset.passwords["embedder"]
    tokens = GuestTokens(ours.url, "embedder", password)
    try:
        with use(Tenant("aus", Placement("any"))):
            token = tokens.token(ours.made.embedded, person="uk", rules=["amount > 250"])
        claims = jwt.decode(token, options={"verify_signature": False})
        assert (claims["tenant"], claims["user"]["username"]) == ("aus", "uk")
        assert claims["tenant_key"]
        answer = ours.chart_data(token)
        assert regions_in(answer) == {"aus"}
        assert len(answer.json()["result"][0]["data"]) == 3
        with (
            use(Tenant("nosuch", Placement("any"))),
            pytest.raises(errors.UnknownTenantError),
        ):
            tokens.token(ours.made.embedded, person="alice")
        with pytest.raises(errors.NoTenantError):
            tokens.token(ours.made.embedded, person="alice")
    finally:
        tokens.close()


async def test_the_asynchronous_client_does_the_same(ours: Running) -> None:
    tokens = AsyncGuestTokens(ours.url, "embedder", ours.superset.passwords["embedder"])
    try:
        with use(Tenant("eu", Placement("any"))):
            token = await tokens.token(ours.made.embedded, person="alice")
        assert regions_in(ours.chart_data(token)) == {"eu"}
    finally:
        await tokens.aclose()


def test_an_account_without_the_right_makes_no_tokens(ours: Running) -> None:
    tokens = GuestTokens(ours.url, "uk", ours.superset.passwords["uk"])
    with use(Tenant("uk", Placement("any"))), pytest.raises(errors.ConfigurationError):
        tokens.token(ours.made.embedded, person="alice")
    tokens.close()
    wrong = GuestTokens(ours.url, "embedder", "wrong")
    with use(Tenant("uk", Placement("any"))), pytest.raises(errors.ConfigurationError):
        wrong.token(ours.made.embedded, person="alice")
    wrong.close()


def test_an_error_tells_a_guest_nothing_of_the_database(
    ours: Running, regions: dict[str, Region], postgresql: ServerAddress
) -> None:
    """The region's login is refused: psycopg2 would say host, port and role."""
    region = regions["eu"]
    postgresql.execute(f"ALTER ROLE {region.login} NOLOGIN")
    try:
        said = []
        for chart in ("sales table", "sales_plain table"):
            dataset = ours.made.datasets[chart.removesuffix(" table")]
            answer = ours.chart_data(
                ours.token("eu"),
                chart,
                force=True,
                datasource={"id": dataset, "type": "table"},
            )
            assert answer.status_code >= 400
            said.append(answer.text)
        streamed = ours.chart_data(
            ours.token("eu"),
            force=True,
            result_format="csv",
            form_data={
                "datasource": f"{ours.made.datasets['sales']}__table",
                "viz_type": "table",
                "slice_id": ours.made.charts["sales table"],
                "dashboardId": ours.made.dashboard,
                "row_limit": 100_000,
            },
        )
        said.append(streamed.text)
        for text in said:
            for word in (region.login, region.host, str(region.port), region.database, "psycopg"):
                assert word not in text
            assert regions_in(streamed) == set()
    finally:
        postgresql.execute(f"ALTER ROLE {region.login} LOGIN")
    log = ours.superset.log.read_text()
    assert "tenant eu: no connection" in log
    assert region.password not in log


def test_wrong_sql_tells_a_guest_nothing_either(
    ours: Running, regions: dict[str, Region], postgresql: ServerAddress
) -> None:
    postgresql.execute("ALTER TABLE sales RENAME TO away", regions["uk"].database)
    try:
        answer = ours.chart_data(ours.token("uk"), force=True)
    finally:
        postgresql.execute("ALTER TABLE away RENAME TO sales", regions["uk"].database)
    assert answer.status_code >= 400
    assert "Reference" in answer.text
    assert "sales" not in answer.text
    assert "relation" not in answer.text
