"""Several servers: alike they share an engine, otherwise they have engines of their own."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from tenantry import Placement, Tenancy, Tenant, events
from tenantry.directory import MappingDirectory
from tenantry.errors import ServerUnavailableError
from tests.places import Author, Base, Kind, Place
from tests.threads import in_threads

SERIALIZABLE = {"options": "-c default_transaction_isolation=serializable"}
PID = text("SELECT pg_backend_pid()")


def two_servers(place: Place, *tenants: str, **second: Any) -> Tenancy:
    """Tenants by turns on the servers ``main`` and ``other``, which are one server in truth."""
    servers = {"main": place.server(), "other": place.server("other", **second)}
    names = ("main", "other")
    known = [
        Tenant(each, Placement(names[number % 2], database=place.database(each)))
        for number, each in enumerate(tenants)
    ]
    return Tenancy(MappingDirectory(known, servers=servers), servers, wait_seconds=10)


@pytest.mark.parametrize(
    "place", [Kind("postgresql", "psycopg"), Kind("mariadb", "pymysql")], indirect=True, ids=str
)
def test_servers_of_one_kind_share_an_engine(place: Place, close: list[Tenancy]) -> None:
    tenancy = two_servers(place, "uk", "aus")
    close.append(tenancy)
    for tenant_id in ("uk", "aus", "uk"):
        with tenancy.use(tenant_id), tenancy.session() as session:
            Base.metadata.create_all(session.connection())
            session.commit()
            assert session.scalars(select(Author)).all() == []
    assert len(tenancy._router.engines()) == 1


@pytest.mark.parametrize("plain", [False, True], ids=["pinned", "plain"])
def test_servers_that_differ_have_engines_of_their_own(
    place: Place, close: list[Tenancy], plain: bool
) -> None:
    tenancy = two_servers(place, "uk", "aus", connect_args=SERIALIZABLE)
    close.append(tenancy)
    levels = []
    for tenant_id in ("uk", "aus", "uk", "aus"):
        with (
            tenancy.use(tenant_id),
            Session(tenancy.engine) if plain else tenancy.session() as session,
        ):
            one, again = session.scalar(PID), session.scalar(PID)
            assert one == again, "a transaction is one connection to its end"
            assert tenancy.status()["held_by"] == {tenant_id: 1}
            levels.append(session.connection().default_isolation_level)
            session.commit()
    assert levels == ["READ COMMITTED", "SERIALIZABLE"] * 2
    assert len(tenancy._router.engines()) == 2


def test_a_herd_on_a_further_server_opens_one_connection_to_meet_it(
    place: Place, close: list[Tenancy]
) -> None:
    tenancy = two_servers(place, "uk", "aus")
    close.append(tenancy)
    opened: list[events.ConnectionOpened] = []
    with tenancy.use("uk"), tenancy.session() as session:
        session.scalar(PID)
    stop = events.listen(
        lambda each: opened.append(each) if isinstance(each, events.ConnectionOpened) else None
    )
    tenancy.budget.per_tenant = 4
    seen = in_threads(60, lambda: ask(tenancy, "aus"))
    stop()
    assert seen == [1] * 60
    # To meet it, and then as many as the tenant may have; not one for each who asked.
    assert len(opened) < 20
    tenancy.close()
    assert tenancy.status()["live"] == 0, "nothing is kept by an engine that nobody asks"


def test_a_dead_further_server_is_tried_once_for_all_who_wait(
    place: Place, close: list[Tenancy]
) -> None:
    attempts = 0
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)

    def hang_up() -> None:
        nonlocal attempts
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                attempts += 1
                time.sleep(0.3)  # long enough for all to ask meanwhile
                connection.close()

    threading.Thread(target=hang_up, daemon=True).start()
    tenancy = two_servers(place, "uk", "aus")
    close.append(tenancy)
    server = place.server("other")
    url = server.url.set(host="127.0.0.1", port=listener.getsockname()[1])
    dead = type(server).from_url("other", url)
    tenancy._router.servers = tenancy.servers = {**tenancy.servers, "other": dead}
    with tenancy.use("uk"), tenancy.session() as session:
        session.scalar(PID)

    def refused() -> str:
        try:
            ask(tenancy, "aus")
        except ServerUnavailableError as error:
            return str(error.tenant_id)
        return "nobody"

    assert in_threads(40, refused) == ["aus"] * 40
    listener.close()
    assert attempts < 20


def ask(tenancy: Tenancy, tenant_id: str) -> int:
    with tenancy.use(tenant_id), tenancy.session() as session:
        return session.scalar(text("SELECT 1")) or 0
