"""Control databases: a file always, and one on each real server."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tenantry.directory import TableDirectory
from tenantry.testing.address import ServerAddress

CONTROLS = ["sqlite", "postgresql+psycopg", "postgresql+psycopg2", "mysql+pymysql"]
_numbers = itertools.count(1)

MakeTable = Callable[[], TableDirectory]


@pytest.fixture(params=CONTROLS)
def control_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, with its password in it."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/control.db"
        return
    kind = "postgresql" if request.param.startswith("postgresql") else "mariadb"
    server: ServerAddress = request.getfixturevalue(kind)
    name = f"control_{os.getpid()}_{next(_numbers)}"
    server.execute(f"CREATE DATABASE {name}")
    yield server.url(request.param, name).render_as_string(hide_password=False)
    server.execute(f"DROP DATABASE {name}" + (" WITH (FORCE)" if kind == "postgresql" else ""))


@pytest.fixture
def make_table(control_url: str) -> Iterator[MakeTable]:
    """Makes table directories, each empty and of its own."""
    made: list[TableDirectory] = []

    def make() -> TableDirectory:
        directory = TableDirectory(control_url, table_name=f"d{len(made)}_tenants")
        directory.create_tables()
        made.append(directory)
        return directory

    yield make
    for each in made:
        each.close()
