"""Real servers for the tests that ask for one; see ``docs/contributing.md``."""

from __future__ import annotations

import pytest

from tenantry.testing.address import ServerAddress
from tests.servers import session


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        session.begin(workers=bool(config.getoption("numprocesses", 0)))


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        session.end()


def pytest_report_header() -> list[str]:
    return list(session.describe())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, answer in session.ran().items():
        if isinstance(answer, session.Missing):
            terminalreporter.write_line(answer.reason)
        else:
            terminalreporter.write_line(f"{name} {answer.version} ran")


@pytest.fixture(scope="session")
def postgresql() -> ServerAddress:
    """A PostgreSQL whose user may do everything; tests make their own databases and roles."""
    return session.need("postgresql")


@pytest.fixture(scope="session")
def mariadb() -> ServerAddress:
    """A MariaDB whose user may do everything."""
    return session.need("mariadb")


@pytest.fixture(scope="session")
def redis_server() -> ServerAddress:
    """A Redis with a password; ``.url()`` is what its client takes."""
    return session.need("redis")


@pytest.fixture(scope="session")
def pgbouncer(postgresql: ServerAddress) -> ServerAddress:
    """A PgBouncer in transaction mode before ``postgresql``, with the same accounts."""
    return session.need("pgbouncer")
