"""Answers that set a search path: what they leak, one deterministic case each.

The pool holds one connection, so that "the connection another request used" is no matter of
luck. A test asserts the leak, so the harness is known to bite; its twin is the same through
tenantry.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import MetaData, Table, event, select, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from tenantry.errors import NoTenantError, UnknownTenantError
from tests.recipes import recipes
from tests.recipes.recipes import Door
from tests.recipes.world import DEFAULT, User, Visit, World

ONE: dict[str, Any] = {"pool_size": 1, "max_overflow": 0}


def names(session: Session) -> list[str]:
    return list(session.scalars(select(User.name)))


def own(world: World, connections: int = 1) -> Door:
    return recipes.tenantry(world, max_connections=connections)


# The answer "SET search_path TO client1 when the request begins"


def test_set_stays_on_the_connection_for_whoever_comes_next(world: World) -> None:
    request = recipes.set_search_path(world, **ONE)
    with request("client1") as session:
        session.commit()
    with Session(world.engines[0]) as nobody:
        assert names(nobody) == ["client1"]


def test_set_is_undone_by_rollback_and_the_next_row_is_stored_elsewhere(world: World) -> None:
    request = recipes.set_search_path(world, **ONE)
    with request("client1") as session:
        session.rollback()
        assert names(session) == [DEFAULT]
        session.add(Visit(client="client1"))
        session.commit()
    assert world.misplaced() == 1


def two_interleaved(request: Door) -> list[str]:
    """One request commits, another one works, the first one goes on."""
    with ExitStack() as stack:
        first = stack.enter_context(request("client1"))
        assert names(first) == ["client1"]
        first.commit()
        with request("client2") as second:
            assert names(second) == ["client2"]
            second.commit()
        return names(first)


def test_set_is_gone_after_commit_when_another_request_had_the_connection(world: World) -> None:
    assert two_interleaved(recipes.set_search_path(world, **ONE)) == ["client2"]


def test_reverting_reverts_whatever_connection_comes_first(world: World) -> None:
    request = recipes.set_search_path_and_revert(world, **ONE)
    assert two_interleaved(request) == [DEFAULT]
    with pytest.raises(ZeroDivisionError), request("client1") as session:
        session.commit()
        raise ZeroDivisionError
    with Session(world.engines[0]) as nobody:
        assert names(nobody) == ["client1"]  # an error, and nothing was reverted


def test_a_client_name_from_a_request_is_sql(world: World) -> None:
    with recipes.set_search_path(world, **ONE)("client1; SET search_path TO client2") as session:
        assert names(session) == ["client2"]


def test_tenantry_keeps_the_path_with_the_tenant(world: World) -> None:
    tenancy = world.tenancy(max_connections=1)
    for client in (*world.clients, *world.clients):
        with tenancy.use(client), tenancy.session() as session:
            assert names(session) == [client]
            session.commit()
            assert names(session) == [client]
            session.rollback()
            assert names(session) == [client]
            session.add(Visit(client=client))
            session.commit()
    assert world.misplaced() == 0
    with pytest.raises(NoTenantError):
        tenancy.session()
    with pytest.raises(UnknownTenantError), tenancy.use("client1; SET search_path TO client2"):
        pass


def test_tenantry_keeps_it_between_interleaved_sessions(world: World) -> None:
    tenancy = world.tenancy(max_connections=1)
    first, second = tenancy.session("client1"), tenancy.session("client2")
    for _ in range(3):
        for client, session in zip(world.clients, (first, second), strict=True):
            assert names(session) == [client]
            session.commit()
    first.close()
    second.close()


# Pool event "connect"


def test_the_connect_event_runs_once_and_serves_every_client(world: World) -> None:
    request = recipes.set_search_path_in_connect_event(world, **ONE)
    for client in world.clients:
        with request(client) as session:
            assert names(session) == ["client1"]
            session.add(Visit(client=client))
            session.commit()
    assert world.misplaced() == 1


# connect_args={"options": "-csearch_path=client1,public"}, and ALTER ROLE ... SET search_path


def test_with_public_on_the_path_a_missing_table_is_somebody_elses(world: World) -> None:
    world.execute("INSERT INTO public.visits (client) VALUES ('somebody')")
    world.execute("DROP TABLE client1.visits")
    for recipe in (recipes.engine_per_client, recipes.role_per_client):
        with recipe(world, **ONE)("client1") as session:
            assert list(session.scalars(select(Visit.client))) == ["somebody"]


def test_tenantry_finds_no_table_rather_than_a_wrong_one(world: World) -> None:
    world.execute("DROP TABLE client1.visits")
    with own(world)("client1") as session, pytest.raises(ProgrammingError, match="visits"):
        session.scalars(select(Visit.client)).all()


def test_a_connection_per_client_stays_open_for_each(world: World) -> None:
    """Right rows, and as many connections as clients; tenantry has as many as it is given."""
    request = recipes.engine_per_client(world, **ONE)
    for client in world.clients:
        with request(client) as session:
            assert names(session) == [client]
    assert world.connections() == len(world.clients)
    world.close()
    deadline = time.monotonic() + 10
    while world.connections() and time.monotonic() < deadline:
        time.sleep(0.02)  # the server's processes end a moment after their connections
    request = own(world, connections=1)
    for client in world.clients:
        with request(client) as session:
            assert names(session) == [client]
    assert world.connections() == 1


# ALTER ROLE your_user IN DATABASE your_db SET search_path


def test_a_path_of_the_login_is_everybodys_and_reaches_new_connections_only(world: World) -> None:
    alter = f"ALTER ROLE {world.login} IN DATABASE {world.database} SET search_path TO "
    engine = world.engine(pool_size=2)
    world.execute(alter + "client1")
    with Session(engine) as old:
        assert names(old) == ["client1"]
        world.execute(alter + "client2")
        with Session(engine) as new:
            assert names(new) == ["client2"]
        old.rollback()
        assert names(old) in (["client1"], ["client2"])  # whichever connection it gets
    with Session(engine) as one, Session(engine) as other:
        assert {*names(one), *names(other)} == {"client1", "client2"}


# "Set an empty default": good advice, and not enough


def test_an_empty_default_turns_a_missing_set_into_an_error(world: World) -> None:
    world.execute(f"ALTER ROLE {world.login} SET search_path TO ''")
    engine = world.engine(**ONE)
    with Session(engine) as session, pytest.raises(ProgrammingError, match="does not exist"):
        names(session)


def test_an_empty_default_does_not_help_against_a_stale_set(world: World) -> None:
    world.execute(f"ALTER ROLE {world.login} SET search_path TO ''")
    request = recipes.set_search_path(world, **ONE)
    with request("client1") as session:
        session.commit()
    with Session(world.engines[0]) as nobody:
        assert names(nobody) == ["client1"]
    assert two_interleaved(recipes.set_search_path(world, **ONE)) == ["client2"]


# SET search_path, then Table(name, MetaData(), autoload_with=...)


def test_reflecting_in_each_request_costs_statements_and_is_undone_like_any_set(
    world: World,
) -> None:
    engine = world.engine(**ONE)
    statements: list[str] = []
    with engine.connect() as connection:
        connection.execute(text("SET search_path TO client1"))
        event.listen(engine, "before_cursor_execute", lambda *args: statements.append(str(args[2])))
        table = Table("users", MetaData(), autoload_with=connection)
        assert len(statements) >= 5
        assert connection.scalars(select(table.c.name)).all() == ["client1"]
        connection.rollback()
        assert connection.scalars(select(table.c.name)).all() == [DEFAULT]


def test_tenantry_reflects_the_tenants_tables(world: World) -> None:
    tenancy = world.tenancy(max_connections=1)
    world.execute("ALTER TABLE client2.users ADD COLUMN only_client2 int")
    for client in world.clients:
        with tenancy.use(client), tenancy.engine.connect() as connection:
            table = Table("users", MetaData(), autoload_with=connection)
            assert ("only_client2" in table.c) is (client == "client2")
            connection.rollback()
            assert connection.scalars(select(table.c.name)).all() == [client]
