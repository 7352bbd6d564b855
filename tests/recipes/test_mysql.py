"""``USE`` in a connect event, the answer for MySQL: one deterministic case each."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from tests.recipes import recipes
from tests.recipes.world import User, Visit, World

ONE: dict[str, Any] = {"pool_size": 1, "max_overflow": 0}


def names(session: Session) -> list[str]:
    return list(session.scalars(select(User.name)))


def test_use_at_connect_serves_every_client_from_the_first_ones(mariadb_clients: World) -> None:
    request = recipes.use_in_connect_event(mariadb_clients, **ONE)
    first, _ = mariadb_clients.clients
    for client in mariadb_clients.clients:
        with request(client) as session:
            assert names(session) == [first]
            session.add(Visit(client=client))
            session.commit()
    assert mariadb_clients.misplaced() == 1


def test_use_is_not_part_of_the_transaction(mariadb_clients: World) -> None:
    engine = mariadb_clients.engine(**ONE)
    first, _ = mariadb_clients.clients
    with Session(engine) as session:
        session.execute(text(f"USE {first}"))
        session.rollback()
    with Session(engine) as nobody:
        assert names(nobody) == [first]


def test_tenantry_switches_the_database_at_each_checkout(mariadb_clients: World) -> None:
    tenancy = mariadb_clients.tenancy(max_connections=1)
    first, _ = mariadb_clients.clients
    for client in (*mariadb_clients.clients, *mariadb_clients.clients):
        with tenancy.use(client), tenancy.session() as session:
            assert names(session) == [client]
            session.add(Visit(client=client))
            session.commit()
            assert names(session) == [client]
            session.execute(text(f"USE {first}"))  # what one leaves is not the next one's
    assert mariadb_clients.misplaced() == 0
