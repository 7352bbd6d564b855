"""Two clients and a default place on a real server, made anew for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tenantry.testing.address import ServerAddress
from tests.recipes.world import World, mariadb_world, postgresql_world

CLIENTS = ("client1", "client2")


@pytest.fixture
def world(postgresql: ServerAddress) -> Iterator[World]:
    with postgresql_world(postgresql, CLIENTS) as world:
        yield world


@pytest.fixture
def mariadb_clients(mariadb: ServerAddress) -> Iterator[World]:
    with mariadb_world(mariadb, CLIENTS) as world:
        yield world
