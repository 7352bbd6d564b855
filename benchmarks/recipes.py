"""Copied recipes against tenantry: how many rows read were somebody else's.

Run with ``python -m benchmarks.recipes``. Fifty clients, 16 threads, a pool of 8, the same
requests for each recipe, in one run, on servers as the tests start them. A foreign row is one of
another client or of nobody (``public``); a misplaced one was written for a client and stands
elsewhere. Counts depend on the timing of threads; which of them are nought does not.
"""

from __future__ import annotations

import argparse
from typing import Any

from tests.recipes import recipes
from tests.recipes.measure import Tally, measure
from tests.recipes.world import World, mariadb_world, postgresql_world
from tests.servers import session

POOL: dict[str, Any] = {"pool_size": 8, "max_overflow": 0}
ONE_EACH: dict[str, Any] = {"pool_size": 1, "max_overflow": 0}

POSTGRESQL: list[tuple[recipes.Recipe, dict[str, Any]]] = [
    (recipes.set_search_path, POOL),
    (recipes.set_search_path_and_revert, POOL),
    (recipes.set_search_path_in_connect_event, POOL),
    (recipes.map_on_session_connection, POOL),
    (recipes.map_on_connection, POOL),
    (recipes.map_on_option_engines, POOL),
    (recipes.engine_per_client, ONE_EACH),
    (recipes.role_per_client, ONE_EACH),
    (recipes.tenantry, {"max_connections": 8}),
]
MARIADB: list[tuple[recipes.Recipe, dict[str, Any]]] = [
    (recipes.use_in_connect_event, POOL),
    (recipes.tenantry, {"max_connections": 8}),
]

HEAD = f"{'recipe':<34} {'foreign/reads':>16} {'misplaced/writes':>18} {'failed':>7} {'conns':>6}"


def line(recipe: recipes.Recipe, tally: Tally) -> str:
    name = recipe.__name__
    share = f"{100 * tally.foreign / max(1, tally.reads):3.0f} %"
    return (
        f"{name:<34} {tally.foreign:>5}/{tally.reads:<5}{share} "
        f"{tally.misplaced:>11}/{tally.writes:<6} {tally.failed:>7} {tally.connections or '-':>6}"
    )


def run(world: World, chosen: list[tuple[recipes.Recipe, dict[str, Any]]], requests: int) -> None:
    for recipe, options in chosen:
        door = recipe(world, **options)
        print(line(recipe, measure(world, door, requests=requests)), flush=True)
        world.close()
        world.forget_visits()


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Copied recipes against tenantry")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=500)
    chosen = parser.parse_args(arguments)
    clients = [f"client{number}" for number in range(1, chosen.clients + 1)]
    session.begin(workers=False)
    try:
        print(f"PostgreSQL, {chosen.clients} clients, {chosen.requests} requests\n{HEAD}")
        with postgresql_world(session.need("postgresql"), clients) as world:
            run(world, POSTGRESQL, chosen.requests)
        print(f"\nMariaDB, {chosen.clients} clients, {chosen.requests} requests\n{HEAD}")
        with mariadb_world(session.need("mariadb"), clients) as world:
            run(world, MARIADB, chosen.requests)
    finally:
        session.end()


if __name__ == "__main__":
    main()
