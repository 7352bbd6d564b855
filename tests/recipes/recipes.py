"""The answers of the thread, as an application would write them down today.

A recipe is given a :class:`~tests.recipes.world.World` and options for its engine, and returns
what opens a session for a client. :func:`tenantry` is the same door through tenantry.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session

from tests.recipes.world import World

Door = Callable[[str], AbstractContextManager[Session]]
Recipe = Callable[..., Door]

current: ContextVar[str] = ContextVar("client_of_the_request")


def set_search_path(world: World, **options: Any) -> Door:
    """``session.execute("SET search_path TO client1")`` when the request begins."""
    engine = world.engine(**options)

    @contextmanager
    def request(client: str) -> Iterator[Session]:
        with Session(engine) as session:
            session.execute(text(f"SET search_path TO {client}"))
            yield session

    return request


def set_search_path_and_revert(world: World, **options: Any) -> Door:
    """The same, and "you might want to revert it first" before the connection goes back."""
    engine = world.engine(**options)

    @contextmanager
    def request(client: str) -> Iterator[Session]:
        with Session(engine) as session:
            session.execute(text(f"SET search_path TO {client}"))
            yield session
            session.execute(text("RESET search_path"))
            session.commit()

    return request


def set_search_path_in_connect_event(world: World, **options: Any) -> Door:
    """``event.listen(Pool, "connect", ...)``: a statement when a connection is opened."""
    engine = world.engine(**options)

    @event.listens_for(engine, "connect", insert=True)
    def set_search_path(connection: Any, record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET search_path = {current.get()}, public")
        connection.commit()

    return _with_current(engine)


def use_in_connect_event(world: World, **options: Any) -> Door:
    """The same for MySQL: ``USE client9`` when a connection is opened."""
    engine = world.engine(**options)

    @event.listens_for(engine, "connect", insert=True)
    def set_current_schema(connection: Any, record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"USE {current.get()}")

    return _with_current(engine)


def _with_current(engine: Engine) -> Door:
    @contextmanager
    def request(client: str) -> Iterator[Session]:
        token = current.set(client)
        try:
            with Session(engine) as session:
                yield session
        finally:
            current.reset(token)

    return request


def map_on_session_connection(world: World, **options: Any) -> Door:
    """``session.connection(execution_options={"schema_translate_map": ...})``."""
    engine = world.engine(**options)

    @contextmanager
    def request(client: str) -> Iterator[Session]:
        with Session(engine) as session:
            session.connection(execution_options={"schema_translate_map": {None: client}})
            yield session

    return request


def map_on_connection(world: World, **options: Any) -> Door:
    """``engine.connect().execution_options(schema_translate_map=...)``, held for the request."""
    engine = world.engine(**options)

    @contextmanager
    def request(client: str) -> Iterator[Session]:
        with engine.connect() as connection:
            mapped = connection.execution_options(schema_translate_map={None: client})
            with Session(mapped) as session:
                yield session

    return request


def map_on_option_engines(world: World, **options: Any) -> Door:
    """``engine.execution_options(schema_translate_map=...)`` for each client, in a loop."""
    engine = world.engine(**options)
    engines = {
        client: engine.execution_options(schema_translate_map={None: client})
        for client in world.clients
    }

    @contextmanager
    def request(client: str) -> Iterator[Session]:
        with Session(engines[client]) as session:
            yield session

    return request


def engine_per_client(world: World, **options: Any) -> Door:
    """``connect_args={"options": "-csearch_path=..."}``: an engine for each client."""
    engines: dict[str, Engine] = {}
    lock = threading.Lock()

    @contextmanager
    def request(client: str) -> Iterator[Session]:
        with lock:
            if client not in engines:
                path = {"options": f"-csearch_path={client},public"}
                engines[client] = world.engine(connect_args=path, **options)
        with Session(engines[client]) as session:
            yield session

    return request


def role_per_client(world: World, **options: Any) -> Door:
    """``ALTER ROLE user1 SET search_path = "$user", public``: a login for each client."""
    engines: dict[str, Engine] = {}
    for client in world.clients:
        role = world.role(client)
        world.execute(f'ALTER ROLE "{role}" SET search_path = {client}, public')
        engines[client] = world.engine(role, **options)

    @contextmanager
    def request(client: str) -> Iterator[Session]:
        with Session(engines[client]) as session:
            yield session

    return request


def tenantry(world: World, **options: Any) -> Door:
    """``with tenancy.use(client), tenancy.session() as session``."""
    tenancy = world.tenancy(**options)

    @contextmanager
    def request(client: str) -> Iterator[Session]:
        with tenancy.use(client), tenancy.session() as session:
            yield session

    return request
