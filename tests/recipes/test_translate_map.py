"""Answers that put the schema into the tables or a map before them: one deterministic case each."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, insert, select, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, registry

from tenantry.errors import CrossTenantError
from tests.recipes import recipes
from tests.recipes.world import DEFAULT, User, Visit, World

ONE: dict[str, Any] = {"pool_size": 1, "max_overflow": 0}
NAMES = text("SELECT name FROM users")


def names(session: Session) -> list[str]:
    return list(session.scalars(select(User.name)))


def users(metadata: MetaData, **options: Any) -> Table:
    return Table(
        "users",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("name", String),
        **options,
    )


# MetaData(schema="client1"), Table(..., schema="client1"), reflection with schema="client1"


def test_a_schema_in_the_tables_is_every_requests(world: World) -> None:
    engine = world.engine(**ONE)
    fixed = users(MetaData(schema="client1"))
    per_table = users(MetaData(), schema="client1")
    reflected = MetaData()
    reflected.reflect(engine, schema="client1")
    for table in (fixed, per_table, reflected.tables["client1.users"]):
        with engine.connect() as connection:  # a request of client2
            connection.execute(text("SET search_path TO client2"))
            assert connection.scalars(select(table.c.name)).all() == ["client1"]


def test_tenantry_takes_the_tables_as_they_are_for_every_tenant(world: World) -> None:
    tenancy = world.tenancy(max_connections=1)
    table = users(MetaData())
    for client in (*world.clients, *world.clients):
        with tenancy.use(client), tenancy.engine.connect() as connection:
            assert connection.scalars(select(table.c.name)).all() == [client]


def test_one_client_per_process_is_a_pin(world: World) -> None:
    tenancy = world.tenancy(max_connections=1)
    tenancy.pin("client2")
    with tenancy.session() as session:
        assert names(session) == ["client2"]


# A copy of the mappings for each client (the "entity name" recipe, Table.to_metadata)


def classes_of(client: str) -> tuple[type[Any], Table]:
    mapped = registry()
    table = users(MetaData()).to_metadata(mapped.metadata, schema=client)
    cls = type(f"{client.title()}User", (), {})
    mapped.map_imperatively(cls, table)
    return cls, table


def test_a_copy_of_the_mappings_compiles_each_statement_once_for_each_client(world: World) -> None:
    engine = world.engine(**ONE)
    classes = {client: classes_of(client)[0] for client in world.clients}
    with Session(engine) as session:
        for client, cls in classes.items():
            assert session.scalars(select(cls)).one().name == client
    assert compiled(engine) == len(world.clients)
    world.close()
    tenancy = world.tenancy(max_connections=1)
    for client in world.clients:
        with tenancy.use(client), tenancy.session() as session:
            assert session.scalars(select(User)).one().name == client
    assert compiled(tenancy.engine) == 1


def compiled(engine: Engine) -> int:
    cache = engine._compiled_cache
    assert cache is not None
    return sum("users" in str(entry.string) for entry in cache.values())


def test_a_copy_of_the_mappings_writes_to_two_clients_in_one_flush(world: World) -> None:
    first, _ = classes_of("client1")
    second, _ = classes_of("client2")
    with Session(world.engine(**ONE)) as session:  # a request of client1
        for cls in (first, second):
            user = cls()
            user.id, user.name = 2, "client1"
            session.add(user)
        session.commit()
    assert world.execute("SELECT name FROM client2.users WHERE id = 2") == [("client1",)]


# Overriding the compiler

schema_now: ContextVar[str] = ContextVar("schema_now")


class ClientTable(Table):
    inherit_cache = True


@compiles(ClientTable)
def with_schema(table: Table, compiler: Any, **options: Any) -> str:
    return f"{schema_now.get()}.{table.name}"


def test_an_overridden_compiler_is_asked_once_and_not_for_inserts(world: World) -> None:
    table = ClientTable(
        "users", MetaData(), Column("id", Integer, primary_key=True), Column("name", String)
    )
    engine = world.engine(**ONE)
    for client, read in zip(world.clients, ("client1", "client1"), strict=True):
        schema_now.set(client)
        with engine.begin() as connection:
            # The compiled statement of the first client is in SQLAlchemy's cache.
            assert connection.scalars(select(table.c.name).where(table.c.id == 1)).all() == [read]
            connection.execute(insert(table), {"id": len(client) + ord(client[-1]), "name": client})
    assert world.execute("SELECT count(*) FROM public.users") == [(3,)]


# schema_translate_map


def test_a_map_on_the_sessions_connection_is_gone_after_commit(world: World) -> None:
    with recipes.map_on_session_connection(world, **ONE)("client1") as session:
        assert names(session) == ["client1"]
        session.commit()
        assert names(session) == [DEFAULT]
        session.add(Visit(client="client1"))
        session.commit()
    assert world.misplaced() == 1


def test_with_a_placeholder_schema_the_loss_is_an_error(world: World) -> None:
    """``{"per_user": "account_one"}``: better than ``{None: ...}``, for it fails closed."""
    table = users(MetaData(), schema="per_user")
    engine = world.engine(**ONE)
    with Session(engine) as session:
        session.connection(execution_options={"schema_translate_map": {"per_user": "client1"}})
        assert session.scalars(select(table.c.name)).all() == ["client1"]
        session.commit()
        with pytest.raises(ProgrammingError, match="per_user"):
            session.scalars(select(table.c.name)).all()


@pytest.mark.parametrize(
    "recipe",
    [
        recipes.map_on_session_connection,
        recipes.map_on_connection,
        recipes.map_on_option_engines,
    ],
)
def test_a_map_does_not_reach_text(world: World, recipe: recipes.Recipe) -> None:
    with recipe(world, **ONE)("client1") as session:
        assert names(session) == ["client1"]
        assert list(session.scalars(NAMES)) == [DEFAULT]
        raw = session.connection().exec_driver_sql("SELECT name FROM users")
        assert list(raw.scalars()) == [DEFAULT]


def test_option_engines_do_not_keep_objects_apart(world: World) -> None:
    request = recipes.map_on_option_engines(world, **ONE)
    with request("client1") as session:
        user = session.get(User, 1)
    with request("client2") as session:
        assert user is not None
        session.merge(user)
        session.commit()
    assert world.execute("SELECT name FROM client2.users") == [("client1",)]


@pytest.mark.parametrize("switch", ["path", "map"])
def test_tenantry_reaches_text_and_refuses_foreign_objects(world: World, switch: str) -> None:
    tenancy = world.tenancy(max_connections=1, switch=switch)
    users_of = {}
    for client in (*world.clients, *world.clients):
        with tenancy.use(client), tenancy.session() as session:
            assert names(session) == [client]
            session.commit()
            assert names(session) == [client]
            assert list(session.scalars(NAMES)) == [client]
            raw = session.connection().exec_driver_sql("SELECT name FROM users")
            assert list(raw.scalars()) == [client]
            users_of[client] = session.get(User, 1)
    with tenancy.use("client2"), tenancy.session() as session, pytest.raises(CrossTenantError):
        session.merge(users_of["client1"])
    assert world.execute("SELECT name FROM client2.users") == [("client2",)]
