"""Each test of this folder runs on every server and driver, for threads and for asyncio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry import Tenancy
from tests.places import KINDS, Door, Kind, Place, made


@pytest.fixture(params=KINDS, ids=str)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    kind: Kind = request.param
    address = None if kind.server == "sqlite" else request.getfixturevalue(kind.server)
    with made(kind, tmp_path, address) as place:
        yield place


@pytest.fixture
def tenancy(place: Place) -> Iterator[Tenancy]:
    """Two tenants, ``uk`` and ``aus``, with empty tables."""
    tenancy = place.tenancy("uk", "aus", max_connections=8)
    yield tenancy
    tenancy.close()


@pytest.fixture
def door(place: Place, tenancy: Tenancy) -> Door:
    return Door(tenancy, place.kind.is_async)
