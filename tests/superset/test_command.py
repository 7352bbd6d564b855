"""``tenantry superset`` against a real one: check, warm and purge, with a dashboard of its own."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from examples.superset.provision import DATASETS, provision
from tenantry.cli.superset import superset
from tests.superset.conftest import Running


@pytest.fixture(scope="module")
def dashboard(ours: Running) -> str:
    """The embedding id of a small dashboard."""
    with ours.rest() as rest:
        return provision(
            rest, datasets={"sales_small": DATASETS["sales_plain"]}, title="Small"
        ).embedded


def arguments(ours: Running, dashboard: str) -> list[str]:
    return [
        *("--url", ours.url, "--embedded", dashboard, "--user", "admin", "--json"),
        *("--tenant", "uk", "--tenant", "aus"),
    ]


def test_check_finds_nothing_with_tokens_that_superset_makes(ours: Running, dashboard: str) -> None:
    done = CliRunner().invoke(
        superset,
        ["check", *arguments(ours, dashboard), "--rounds", "1"],
        env={"SUPERSET_PASSWORD": ours.superset.passwords["admin"]},
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["clean"]
    assert found["counts"]["ok"] > 100
    assert found["findings"] == []


def test_check_cannot_be_had_with_one_tenant_twice(ours: Running, dashboard: str) -> None:
    options = [*arguments(ours, dashboard)[:-1], "uk"]
    password = {"SUPERSET_PASSWORD": ours.superset.passwords["admin"]}
    done = CliRunner().invoke(superset, ["check", *options], env=password)
    assert done.exit_code != 0
    assert "two tenants" in str(done.exception)


def test_warm_fills_and_purge_empties_one_tenant_s_caches(ours: Running, redis_url: str) -> None:
    run = CliRunner(
        env={
            "SUPERSET_PASSWORD": ours.superset.passwords["admin"],
            "GUEST_SECRET": ours.superset.guest_secret,
            "REDIS_URL": redis_url,
        }
    )
    secret = ["--guest-secret-env", "GUEST_SECRET", "--audience", "superset"]
    for tenant in ("uk", "aus"):
        assert run.invoke(superset, ["purge", tenant]).exit_code == 0
    warmed = run.invoke(superset, ["warm", *arguments(ours, ours.made.embedded), *secret])
    assert warmed.exit_code == 0, warmed.output
    # Six charts and a filter.
    assert json.loads(warmed.stdout) == {"uk": 7, "aus": 7}
    assert cached(ours, "uk")
    assert cached(ours, "aus")
    purged = run.invoke(superset, ["purge", "uk"])
    assert int(purged.output.split()[0]) > 0
    assert not cached(ours, "uk")
    assert cached(ours, "aus")


def cached(ours: Running, tenant: str) -> bool:
    """Whether a chart like those that were warmed comes from the cache."""
    answer = ours.chart_data(ours.token(tenant))
    assert answer.status_code == 200
    return bool(answer.json()["result"][0]["is_cached"])
