"""Redis: by address, of this machine, from the package manager, or in a container."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Iterator

import redis
from sqlalchemy.engine import make_url  # here under SQLAlchemy 1.4 too

from tenantry.errors import MissingDependencyError
from tenantry.testing.address import ServerAddress
from tenantry.testing.process import (
    answers_on,
    free_port,
    kept_process,
    private_directory,
    write_private,
)
from tests.servers.sources import (
    MACHINE,
    Installation,
    container_engine,
    fetch,
    running_container,
    version_of,
)

VARIABLE = "TENANTRY_TEST_REDIS_URL"
IMAGE = "docker.io/library/redis:7"
SERVER = ("redis-server", "valkey-server")


def describe() -> str:
    server = MACHINE.find(*SERVER)
    if server is None:
        return "not on this machine, fetched when first needed"
    return f"{version_of(server, {})} from {server}"


@contextlib.contextmanager
def running() -> Iterator[ServerAddress]:
    # Redis knows passwords without a user, databases by number, and no SQL.
    address = ServerAddress(
        host="127.0.0.1",
        port=free_port(),
        user="",
        password=secrets.token_urlsafe(24),
        database="0",
        version="",
        admin_driver="redis",
    )
    server: contextlib.AbstractContextManager[None]
    given = os.environ.get(VARIABLE)
    if given:
        url = make_url(given)
        address = dataclasses.replace(
            address,
            host=url.host or address.host,
            port=url.port or 6379,
            user=url.username or "",
            password=url.password or "",
            database=url.database or "0",
        )
        server = contextlib.nullcontext()
    else:
        try:
            server = _from_binaries(_installation(), address)
        except MissingDependencyError as missing:
            server = _in_container(container_engine(missing), address)
    with server:
        yield dataclasses.replace(address, version=_version(address))


def _installation() -> Installation:
    if MACHINE.find(*SERVER):
        return MACHINE
    # Debian's redis-server is a link to a program of redis-tools.
    return fetch("Redis", ["redis-server", "redis-tools"], ["redis"], [SERVER])


@contextlib.contextmanager
def _from_binaries(installation: Installation, address: ServerAddress) -> Iterator[None]:
    with private_directory() as directory:
        installation = installation.within_reach(directory)
        configuration = directory / "redis.conf"
        write_private(
            configuration,
            f"bind {address.host}\nport {address.port}\nrequirepass {address.password}\n"
            f'dir {directory}\nsave ""\nappendonly no\n',
        )
        with kept_process(
            [installation.program(*SERVER), configuration],
            directory=directory,
            ready=lambda: answers_on(address.port),
            environment=installation.environment,
        ):
            yield


@contextlib.contextmanager
def _in_container(engine: str, address: ServerAddress) -> Iterator[None]:
    command = [
        *(engine, "run", "--rm", "--publish", f"127.0.0.1:{address.port}:6379", IMAGE),
        *("redis-server", "--requirepass", address.password),
    ]

    def ready() -> bool:
        # The engine's own door opens before the server behind it does.
        with contextlib.suppress(redis.ConnectionError):
            return bool(_version(address))
        return False

    with running_container(command, ready):
        yield


def _version(address: ServerAddress) -> str:
    url = address.url().render_as_string(hide_password=False)
    with redis.Redis.from_url(url) as client:
        return str(client.info("server")["redis_version"])
