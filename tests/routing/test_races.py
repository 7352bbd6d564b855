"""Threads that meet in one engine of a tenant: each finds the tenant's own place."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from tenantry import Placement, Server, Tenancy, Tenant, TenantSession
from tenantry.directory import MappingDirectory
from tenantry.errors import TenantSwitchError
from tests.threads import in_threads

THREADS = 8
TENANTS = 100


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Threads are interrupted between any two instructions, and not 200 times a second."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def tenancy(tmp_path: Path, close: list[Tenancy]) -> Tenancy:
    server = Server.from_url("main", f"sqlite:///{tmp_path}/", create_missing=True)
    tenants = [Tenant(f"t{n}", Placement("main", database=f"t{n}.db")) for n in range(TENANTS)]
    servers = {"main": server}
    made = Tenancy(
        MappingDirectory(tenants, servers=servers),
        servers,
        max_connections=THREADS,
        per_tenant=THREADS,
    )
    close.append(made)
    return made


def place_of(session: TenantSession) -> str:
    """The file that the session's transaction is in."""
    with session:
        (row,) = session.execute(text("PRAGMA database_list"))
        return Path(row.file).name


def places_of(sessions: list[TenantSession]) -> list[str]:
    return in_threads(len(sessions), lambda: place_of(sessions.pop()))


def test_the_first_use_of_an_engine_in_many_threads(tenancy: Tenancy) -> None:
    for number in range(TENANTS):
        sessions = [tenancy.session(f"t{number}") for _ in range(THREADS)]
        assert len({id(each.get_bind()) for each in sessions}) == 1
        assert places_of(sessions) == [f"t{number}.db"] * THREADS


def test_a_tenant_moved_while_threads_read(tenancy: Tenancy) -> None:
    """What is read after a move has ended is read from the new place, by each thread."""
    moves = 60
    newest = 0  # the last move that has ended
    ended = threading.Event()
    numbers = iter(range(THREADS))
    directory = tenancy.directory
    assert isinstance(directory, MappingDirectory)

    def move() -> int:
        nonlocal newest
        for number in range(1, moves + 1):
            known = tenancy.get("t0")
            there = Placement("main", database=f"moved_{number}.db")
            moved = replace(known, placement=there, generation=known.generation + 1)
            directory.replace(moved, expected=known)
            newest = number
        ended.set()
        return moves

    def read() -> int:
        seen = 0
        while not ended.is_set():
            at_least = newest
            try:
                name = place_of(tenancy.session("t0"))
            except TenantSwitchError:
                continue  # moved between the session and its first statement
            seen += 1
            at = 0 if name == "t0.db" else int(name.removeprefix("moved_").removesuffix(".db"))
            assert at >= at_least
        return seen

    def either() -> int:
        return move() if next(numbers) == 0 else read()

    done = in_threads(THREADS, either)
    assert done.count(moves) >= 1
    assert sum(done) > moves, "somebody read"
