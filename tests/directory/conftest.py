"""Control databases: a file always, and one on each real server."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tenantry.directory import TableDirectory
from tenantry.testing.address import ServerAddress

CONTROLS = ["sqlite", "postgresql+psycopg", "postgresql+psycopg2", "mysql+pymysql"]
_numbers = itertools.count(1)

MakeTable = Callable[[], TableDirectory]


def kind_of(driver: str) -> str:
    return "postgresql" if driver.startswith("postgresql") else "mariadb"


def created(server: ServerAddress, driver: str) -> str:
    """The URL of a new database, with its password in it."""
    name = f"control_{os.getpid()}_{next(_numbers)}"
    server.execute(f"CREATE DATABASE {name}")
    return server.url(driver, name).render_as_string(hide_password=False)


def dropped(server: ServerAddress, url: str) -> None:
    force = " WITH (FORCE)" if url.startswith("postgresql") else ""
    server.execute(f"DROP DATABASE {make_url(url).database}{force}")


@pytest.fixture(params=CONTROLS)
def control_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of the test's own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/control.db"
        return
    server: ServerAddress = request.getfixturevalue(kind_of(request.param))
    url = created(server, request.param)
    yield url
    dropped(server, url)


@pytest.fixture(scope="session")
def common_urls() -> Iterator[dict[str, tuple[ServerAddress, str]]]:
    """Databases that tests share, each with tables of its own, for making one takes a while."""
    urls: dict[str, tuple[ServerAddress, str]] = {}
    yield urls
    for server, url in urls.values():
        dropped(server, url)


@pytest.fixture(params=CONTROLS)
def make_table(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    common_urls: dict[str, tuple[ServerAddress, str]],
) -> Iterator[MakeTable]:
    """Makes table directories, each empty and of its own."""
    url = f"sqlite:///{tmp_path}/control.db"
    if request.param != "sqlite":
        if request.param not in common_urls:
            server: ServerAddress = request.getfixturevalue(kind_of(request.param))
            common_urls[request.param] = server, created(server, request.param)
        url = common_urls[request.param][1]
    made: list[TableDirectory] = []

    def make() -> TableDirectory:
        directory = TableDirectory(url, table_name=f"d{next(_numbers)}_tenants")
        directory.create_tables()
        made.append(directory)
        return directory

    yield make
    for each in made:
        each.close()
