"""The table of ``python -m benchmarks.recipes`` in small: leaks are measured, tenantry has none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tenantry.testing.address import ServerAddress
from tests.recipes import recipes
from tests.recipes.measure import measure
from tests.recipes.world import World, mariadb_world, postgresql_world

POOL: dict[str, Any] = {"pool_size": 2, "max_overflow": 0}
CLIENTS = [f"client{number}" for number in range(1, 9)]
LEAKING = [
    recipes.set_search_path,
    recipes.set_search_path_and_revert,
    recipes.set_search_path_in_connect_event,
    recipes.map_on_session_connection,
    recipes.map_on_connection,
    recipes.map_on_option_engines,
]


@pytest.fixture
def eight(postgresql: ServerAddress) -> Iterator[World]:
    with postgresql_world(postgresql, CLIENTS) as world:
        yield world


def test_each_recipe_leaks_under_threads_and_tenantry_does_not(eight: World) -> None:
    for recipe in LEAKING:
        tally = measure(eight, recipe(eight, **POOL), requests=80, threads=8)
        assert tally.foreign > 0, recipe.__name__
        eight.close()
        eight.forget_visits()
    door = recipes.tenantry(eight, max_connections=2)
    tally = measure(eight, door, requests=80, threads=8)
    assert (tally.foreign, tally.misplaced, tally.failed) == (0, 0, 0)
    assert (tally.requests, tally.reads, tally.writes) == (80, 320, 160)
    assert tally.connections <= 2


def test_use_at_connect_leaks_under_threads_and_tenantry_does_not(mariadb: ServerAddress) -> None:
    with mariadb_world(mariadb, CLIENTS) as world:
        leaking = recipes.use_in_connect_event(world, **POOL)
        assert measure(world, leaking, requests=80, threads=8).foreign > 0
        world.close()
        world.forget_visits()
        door = recipes.tenantry(world, max_connections=2)
        tally = measure(world, door, requests=80, threads=8)
        assert (tally.foreign, tally.misplaced, tally.failed) == (0, 0, 0)
