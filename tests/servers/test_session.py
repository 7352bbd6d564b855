"""A server that is missing: skipped on a laptop, a failure where it was promised."""

from __future__ import annotations

import pytest

from tests.servers import session
from tests.servers.session import Missing, RunningServers

NOT_HERE = Missing("redis: not on this machine", promised=False)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> RunningServers:
    """Those of a run of its own, beside the real one."""
    servers = RunningServers()
    monkeypatch.setattr(session, "_own", servers)
    monkeypatch.delenv("CI", raising=False)
    return servers


def test_on_a_laptop_its_tests_are_skipped_with_the_reason(servers: RunningServers) -> None:
    servers.answers["redis"] = NOT_HERE
    with pytest.raises(pytest.skip.Exception, match="not on this machine"):
        session.need("redis")


def test_in_ci_they_fail(servers: RunningServers, monkeypatch: pytest.MonkeyPatch) -> None:
    servers.answers["redis"] = NOT_HERE
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="not on this machine"):
        session.need("redis")


@pytest.mark.parametrize(
    ("name", "variable", "url"),
    [
        ("postgresql", "TENANTRY_TEST_POSTGRESQL_URL", "postgresql://nobody:secret@127.0.0.1:1/x"),
        ("mariadb", "TENANTRY_TEST_MARIADB_URL", "mysql://nobody:secret@127.0.0.1:1/x"),
        ("redis", "TENANTRY_TEST_REDIS_URL", "redis://:secret@127.0.0.1:1/0"),
    ],
)
def test_an_address_that_does_not_answer_is_a_failure_anywhere(
    servers: RunningServers,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    variable: str,
    url: str,
) -> None:
    monkeypatch.setenv(variable, url)
    with pytest.raises(pytest.fail.Exception, match=name) as failure:
        session.need(name)
    assert "secret" not in str(failure.value)
