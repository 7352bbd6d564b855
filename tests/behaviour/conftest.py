"""Each test of this folder runs on every server and driver, for threads and for asyncio."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session

from tenantry import Tenancy
from tests.places import (
    CITUS_KINDS,
    KINDS,
    Author,
    Door,
    Kind,
    Note,
    Place,
    citus_address,
    made,
)

CITUS = citus_address()


@pytest.fixture(params=[*KINDS, *(CITUS_KINDS if CITUS else ())], ids=str, scope="module")
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    kind: Kind = request.param
    address = CITUS if kind.citus else None
    if kind.server != "sqlite" and not kind.citus:
        address = request.getfixturevalue(kind.server)
    pooler = request.getfixturevalue("pgbouncer") if kind.pooled else None
    with made(kind, tmp_path_factory.mktemp(str(kind)), address, pooler) as place:
        yield place


@pytest.fixture(scope="module")
def tenancy(place: Place) -> Iterator[Tenancy]:
    """Two tenants, ``uk`` and ``aus``, with tables that are empty before each test."""
    tenancy = place.tenancy("uk", "aus", max_connections=8)
    yield tenancy
    tenancy.close()


@pytest.fixture
def door(place: Place, tenancy: Tenancy) -> Iterator[Door]:
    door = Door(tenancy, place.kind.is_async)
    yield door
    for tenant in tenancy.tenants():
        door.run(tenant.id, empty)


def empty(session: Session) -> None:
    session.execute(delete(Note))
    session.execute(delete(Author))
