"""PgBouncer in front of the PostgreSQL of this run, in transaction mode."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Iterator

from tenantry.testing.address import ServerAddress
from tenantry.testing.process import (
    answers_on,
    free_port,
    kept_process,
    private_directory,
    write_private,
)
from tests.servers.sources import MACHINE, Installation, address_from, fetch, version_of

VARIABLE = "TENANTRY_TEST_PGBOUNCER_URL"
SERVER = ("pgbouncer",)


def describe() -> str:
    server = MACHINE.find(*SERVER)
    if server is None:
        return "not on this machine, fetched when first needed"
    return f"{version_of(server, {})} from {server}"


@contextlib.contextmanager
def running(behind: ServerAddress) -> Iterator[ServerAddress]:
    """Every database and every role of *behind*, with the same passwords.

    One given by address has to stand before the PostgreSQL that is given by address.
    """
    given = address_from(VARIABLE, behind.admin_driver, "SELECT 'as given'")
    if given is not None:
        yield given
        return
    with private_directory() as directory:
        installation = _installation().within_reach(directory)
        program, environment = installation.program(*SERVER), installation.environment
        address = dataclasses.replace(
            behind,
            host="127.0.0.1",
            port=free_port(),
            version=version_of(program, environment),
        )
        configuration, accounts = directory / "pgbouncer.ini", directory / "accounts"
        write_private(accounts, f'"{behind.user}" "{behind.password}"\n')
        write_private(
            configuration,
            f"""
[databases]
* = host={behind.host} port={behind.port}

[pgbouncer]
listen_addr = {address.host}
listen_port = {address.port}
unix_socket_dir =
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
auth_type = scram-sha-256
auth_file = {accounts}
auth_user = {behind.user}
auth_query = SELECT usename, passwd FROM pg_catalog.pg_shadow WHERE usename = $1
admin_users = {behind.user}
""",
        )
        # It holds nothing, and its gentler signals wait for clients, differently by version.
        with kept_process(
            [program, configuration],
            directory=directory,
            ready=lambda: answers_on(address.port),
            stop_signal=signal.SIGKILL,
            environment=environment,
        ):
            yield address


def _installation() -> Installation:
    if MACHINE.find(*SERVER):
        return MACHINE
    return fetch("PgBouncer", ["pgbouncer"], ["pgbouncer"], [SERVER])
