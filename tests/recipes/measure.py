"""Many threads, many clients, one recipe: how many rows read were somebody else's."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from tests.recipes.recipes import Door
from tests.recipes.world import User, Visit, World


@dataclass
class Tally:
    """*foreign* of *reads* gave a row of another client or of nobody (``public``).

    *misplaced* of *writes* stand in a schema that is not their client's. *failed* of *requests*
    ended in an error.
    """

    requests: int = 0
    reads: int = 0
    foreign: int = 0
    writes: int = 0
    misplaced: int = 0
    failed: int = 0
    connections: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, seen: list[str], client: str, wrote: int, failed: bool) -> None:
        with self._lock:
            self.requests += 1
            self.reads += len(seen)
            self.foreign += sum(each != client for each in seen)
            self.writes += wrote
            self.failed += failed


WORK_SECONDS = 0.001


def one_request(session: Session, client: str, seen: list[str], wrote: Callable[[], None]) -> None:
    """Ordinary work: two transactions with a thought between, reads by the ORM and by text."""
    seen += session.scalars(select(User.name))
    session.add(Visit(client=client))
    session.commit()
    wrote()
    time.sleep(WORK_SECONDS)
    seen += session.scalars(select(User.name))
    seen += session.scalars(text("SELECT name FROM users"))
    session.add(Visit(client=client))
    session.commit()
    wrote()
    time.sleep(WORK_SECONDS)
    seen += session.scalars(select(User.name))


def measure(
    world: World, door: Door, *, requests: int = 1000, threads: int = 16, seed: int = 7
) -> Tally:
    """*requests* for clients drawn at random, over *threads* threads."""
    tally = Tally()
    draw = random.Random(seed)
    clients = [draw.choice(world.clients) for _ in range(requests)]

    def serve(client: str) -> None:
        seen: list[str] = []
        written: list[int] = []
        failed = False
        try:
            with door(client) as session:
                one_request(session, client, seen, lambda: written.append(1))
        except SQLAlchemyError:
            failed = True
        tally.add(seen, client, len(written), failed)

    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(serve, clients))
    if world.is_postgresql:
        tally.connections = world.connections()
    tally.misplaced = world.misplaced()
    return tally
