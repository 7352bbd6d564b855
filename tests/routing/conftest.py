"""A place of one kind for each test: PostgreSQL and psycopg unless the test names others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry import Tenancy
from tests.places import Kind, Place, made


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    kind: Kind = getattr(request, "param", Kind("postgresql", "psycopg"))
    address = None if kind.server == "sqlite" else request.getfixturevalue(kind.server)
    with made(kind, tmp_path, address) as place:
        yield place


@pytest.fixture
def close() -> Iterator[list[Tenancy]]:
    """Those put in are closed after the test."""
    opened: list[Tenancy] = []
    yield opened
    for each in opened:
        each.close()
