"""PostgreSQL: by address, of this machine, or from the wheel that carries it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tenantry.testing.address import ServerAddress
from tenantry.testing.postgresql import find_binaries, running_postgresql, server_version
from tests.servers.sources import address_from

VARIABLE = "TENANTRY_TEST_POSTGRESQL_URL"


def describe() -> str:
    binaries = find_binaries()
    return f"{server_version(binaries)} from {binaries}"


@contextlib.contextmanager
def running() -> Iterator[ServerAddress]:
    given = address_from(VARIABLE, "postgresql+psycopg", "SHOW server_version")
    if given is not None:
        yield given
        return
    with running_postgresql() as address:
        yield address
