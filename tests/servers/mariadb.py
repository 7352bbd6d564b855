"""MariaDB: by address, of this machine, from the package manager, or in a container."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy

from tenantry.errors import MissingDependencyError
from tenantry.testing.address import ServerAddress
from tenantry.testing.process import (
    answers_on,
    free_port,
    kept_process,
    private_directory,
    run_once,
    write_private,
)
from tests.servers.sources import (
    MACHINE,
    Installation,
    address_from,
    container_engine,
    fetch,
    running_container,
    version_of,
)

VARIABLE = "TENANTRY_TEST_MARIADB_URL"
VERSION_SQL = "SELECT VERSION()"
IMAGE = "docker.io/library/mariadb:10.11"

SERVER = ("mariadbd",)
PREPARE = ("mariadb-install-db", "mysql_install_db")

SETTINGS = (
    "--bind-address=127.0.0.1",
    "--max-connections=300",
    "--character-set-server=utf8mb4",
    "--skip-log-bin",
    "--skip-name-resolve",
    "--innodb-buffer-pool-size=64M",
    # A commit reaches the operating system before it is acknowledged, the disk may lag behind.
    "--innodb-flush-log-at-trx-commit=2",
)


def describe() -> str:
    server = MACHINE.find(*SERVER)
    if server is None or MACHINE.find(*PREPARE) is None:
        return "not on this machine, fetched when first needed"
    return f"{version_of(server, {})} from {server}"


@contextlib.contextmanager
def running() -> Iterator[ServerAddress]:
    given = address_from(VARIABLE, "mysql+pymysql", VERSION_SQL)
    if given is not None:
        yield given
        return
    address = ServerAddress(
        host="127.0.0.1",
        port=free_port(),
        user="tenantry_test",
        password=secrets.token_urlsafe(24),
        database="mysql",
        version="",
        admin_driver="mysql+pymysql",
    )
    try:
        server = _from_binaries(_installation(), address)
    except MissingDependencyError as missing:
        address = dataclasses.replace(address, user="root")  # the one its image makes
        server = _in_container(container_engine(missing), address)
    with server:
        version = str(address.execute(VERSION_SQL)[0][0])
        yield dataclasses.replace(address, version=version)


def _installation() -> Installation:
    if MACHINE.has([SERVER, PREPARE]):
        return MACHINE
    # The script that prepares the data directory needs a program of the client's package.
    packages = ["mariadb-server-core", "mariadb-client-core"]
    return fetch("MariaDB", packages, ["mariadb-server"], [SERVER, PREPARE])


@contextlib.contextmanager
def _from_binaries(installation: Installation, address: ServerAddress) -> Iterator[None]:
    with private_directory() as directory:
        installation = installation.within_reach(directory)
        program, prepare = installation.program(*SERVER), installation.program(*PREPARE)
        base, data = program.parents[1], directory / "data"
        environment = installation.environment
        run_once(
            [
                *(prepare, "--no-defaults", f"--datadir={data}", f"--basedir={base}"),
                *("--auth-root-authentication-method=normal", "--skip-test-db"),
            ],
            directory,
            environment,
        )
        accounts = directory / "accounts.sql"
        write_private(accounts, _accounts(address))
        command: list[str | Path] = [
            *(program, "--no-defaults", f"--basedir={base}", f"--datadir={data}"),
            *(f"--port={address.port}", f"--socket={directory / 'socket'}"),
            *(f"--pid-file={directory / 'pid'}", f"--init-file={accounts}"),
            *SETTINGS,
        ]
        with kept_process(
            command,
            directory=directory,
            ready=lambda: answers_on(address.port),
            environment=environment,
        ):
            yield


def _accounts(address: ServerAddress) -> str:
    """What the server runs before it listens: one account with a password, none without."""
    return "\n".join(
        [
            f"CREATE USER '{address.user}'@'%' IDENTIFIED BY '{address.password}';",
            f"GRANT ALL ON *.* TO '{address.user}'@'%' WITH GRANT OPTION;",
            "DELETE FROM mysql.global_priv WHERE User IN ('', 'root');",
            "FLUSH PRIVILEGES;",
            "",
        ]
    )


@contextlib.contextmanager
def _in_container(engine: str, address: ServerAddress) -> Iterator[None]:
    def ready() -> bool:
        # The image first runs a server of its own that listens to nobody outside.
        with contextlib.suppress(sqlalchemy.exc.OperationalError):
            address.execute(VERSION_SQL)
            return True
        return False

    command = [
        *(engine, "run", "--rm", "--publish", f"127.0.0.1:{address.port}:3306"),
        *("--env", "MARIADB_ROOT_HOST=%", "--env", f"MARIADB_ROOT_PASSWORD={address.password}"),
        *(IMAGE, "--max-connections=300"),
    ]
    with running_container(command, ready):
        yield
