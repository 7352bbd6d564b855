"""A planted password turns up nowhere, whatever fails: values, errors, logs, tracebacks."""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from tenantry import Placement, Server, Tenancy, Tenant, errors
from tenantry.directory import MappingDirectory
from tenantry.testing.address import ServerAddress
from tests.canary import CANARY, sightings
from tests.places import Door

Make = Callable[[], Server]

DRIVERS = [
    ("postgresql", "psycopg", False),
    ("postgresql", "psycopg2", False),
    ("postgresql", "psycopg", True),
    ("postgresql", "asyncpg", True),
    ("mariadb", "pymysql", False),
    ("mariadb", "aiomysql", True),
]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Everything that anybody logs, down to the least."""
    caplog.set_level(logging.DEBUG)
    for name in ("sqlalchemy", "psycopg", "asyncio", "tenantry", "asyncpg"):
        caplog.set_level(logging.DEBUG, logger=name)
    yield caplog
    assert CANARY not in caplog.text


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and then hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up() -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            accepted.close()

    threading.Thread(target=hang_up, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def tenancy_on(server: Server, database: str | None = "no_such_database") -> Tenancy:
    tenant = Tenant("uk", Placement(server.name, database=database))
    return Tenancy(MappingDirectory([tenant]), [server])


def failure(tenancy: Tenancy, is_async: bool) -> BaseException:
    """What a session raises at its first statement."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - which one is the caller's question
        Door(tenancy, is_async).run("uk", lambda session: session.execute(text("SELECT 1")))
    return raised.value


def url_of(kind: str, driver: str, is_async: bool) -> str:
    dialect = "postgresql" if kind == "postgresql" else "mysql"
    return dialect if is_async else f"{dialect}+{driver}"


@pytest.mark.parametrize(("kind", "driver", "is_async"), DRIVERS)
@pytest.mark.parametrize("way", ["refused", "hangs_up", "no_host", "wrong_password", "in_query"])
def test_a_server_that_gives_no_connection(
    request: pytest.FixtureRequest,
    log: pytest.LogCaptureFixture,
    silent_port: int,
    kind: str,
    driver: str,
    is_async: bool,
    way: str,
) -> None:
    """30 ways of 40: six drivers, five failures each."""
    host, port, query = "127.0.0.1", 1, ""
    if way == "hangs_up":
        port = silent_port
    elif way == "no_host":
        host = "no-such-host.invalid"
    elif way == "wrong_password":
        address: ServerAddress = request.getfixturevalue(kind)
        host, port = address.host, address.port
    elif way == "in_query":
        query = f"?password={CANARY}" if kind == "postgresql" else f"?passwd={CANARY}"
    secret = "" if way == "in_query" else f":{CANARY}"
    server = Server.from_url(
        "eu",
        f"{url_of(kind, driver, is_async)}://someone{secret}@{host}:{port}/x{query}",
        async_driver=driver if is_async else None,
    )
    tenancy = tenancy_on(server)
    error = failure(tenancy, is_async)
    assert isinstance(error, errors.ServerUnavailableError), error
    assert error.tenant_id == "uk"
    assert error.server == "eu"
    assert "'uk'" in str(error)
    assert sightings(error) == []
    assert sightings(server) == sightings(tenancy) == sightings(tenancy.engine) == []
    tenancy.close()


@pytest.mark.parametrize(("kind", "driver", "is_async"), DRIVERS)
def test_a_database_that_does_not_exist(
    request: pytest.FixtureRequest,
    log: pytest.LogCaptureFixture,
    kind: str,
    driver: str,
    is_async: bool,
) -> None:
    """6 more: the login is right, the database is missing."""
    address: ServerAddress = request.getfixturevalue(kind)
    if kind == "postgresql":
        address.execute(f"CREATE ROLE \"canary_{driver}{is_async}\" LOGIN PASSWORD '{CANARY}'")
        drop = f'DROP ROLE "canary_{driver}{is_async}"'
    else:
        address.execute(f"CREATE USER 'canary_{driver}' IDENTIFIED BY '{CANARY}'")
        address.execute(f"GRANT ALL ON *.* TO 'canary_{driver}'")
        drop = f"DROP USER 'canary_{driver}'"
    name = f"canary_{driver}{is_async}" if kind == "postgresql" else f"canary_{driver}"
    try:
        server = Server.from_url(
            "eu",
            address.url(url_of(kind, driver, is_async)).set(username=name, password=CANARY),
            async_driver=driver if is_async else None,
        )
        tenancy = tenancy_on(server)
        error = failure(tenancy, is_async)
        assert isinstance(error, errors.PlacementMissingError), error
        assert sightings(error) == []
        tenancy.close()
    finally:
        address.execute(drop)


def test_a_password_that_cannot_be_read(log: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """3 more: a variable, a file and a function that fail."""

    def broken() -> str:
        raise RuntimeError(f"the vault said {CANARY}")

    for server, expected in (
        (Server.from_url("eu", "postgresql://a@127.0.0.1/x", password_env="NOT_SET"), "NOT_SET"),
        (
            Server.from_url("eu", "postgresql://a@127.0.0.1/x", password_file=tmp_path / "no"),
            "cannot be read",
        ),
        (Server.from_url("eu", "postgresql://a@127.0.0.1/x", password=broken), "eu"),
    ):
        error = failure(tenancy_on(server), False)
        assert isinstance(error, errors.TenantryError)
        assert expected in str(error)
        assert sightings(error) == []


def test_a_cancelled_connection_attempt(log: pytest.LogCaptureFixture) -> None:
    """1 more: cancelled while the driver waits for a server that says nothing."""
    listener = socket.create_server(("127.0.0.1", 0))  # accepts in its backlog, never answers
    server = Server.from_url(
        "eu",
        f"postgresql://someone:{CANARY}@127.0.0.1:{listener.getsockname()[1]}/x",
        async_driver="asyncpg",
    )
    tenancy = tenancy_on(server)

    async def attempt() -> None:
        async with tenancy.use("uk"), tenancy.asession() as session:
            await session.execute(text("SELECT 1"))

    async def main() -> BaseException:
        task = asyncio.create_task(attempt())
        await asyncio.sleep(0.2)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError as error:
            return error
        raise AssertionError("it was not cancelled")

    error = asyncio.run(main())
    assert sightings(error) == []
    assert tenancy.status()["live"] == 0
    listener.close()


def test_what_is_shown_logged_and_pickled(
    log: pytest.LogCaptureFixture, postgresql: ServerAddress
) -> None:
    """A connection that works: engine, URL, pool, session, connection, status, events."""
    url = postgresql.url("postgresql+psycopg")
    server = Server.from_url("eu", url.set(password=str(url.password)))
    tenancy = tenancy_on(server, database=postgresql.database)
    hidden = postgresql.password
    with tenancy.use("uk") as tenant, tenancy.session() as session:
        session.execute(select(1))
        shown = [
            server,
            server.url,
            tenancy,
            tenancy.engine,
            tenancy.engine.url,
            tenancy.engine.pool,
            tenancy.engine.pool.status(),
            session,
            session.connection(),
            session.connection().connection,
            tenancy.status(),
            tenant,
            pickle.loads(pickle.dumps(tenant)),
        ]
        assert all(hidden not in f"{each!r} {each}" for each in shown)
        with pytest.raises(TypeError):
            pickle.dumps(server)
    tenancy.close()
    assert hidden not in log.text


def test_a_statement_that_fails_shows_no_password(postgresql: ServerAddress) -> None:
    url = postgresql.url("postgresql+psycopg")
    tenancy = tenancy_on(Server.from_url("eu", url), database=postgresql.database)

    def fail(session: Session) -> None:
        session.execute(text("SELECT no_such_column"))

    with pytest.raises(Exception, match="no_such_column") as raised:
        Door(tenancy, False).run("uk", fail)
    chain: list[str] = []
    error: BaseException | None = raised.value
    while error is not None:
        chain.append(f"{error!r} {error}")
        error = error.__cause__ or error.__context__
    assert all(postgresql.password not in each for each in chain)
    tenancy.close()
