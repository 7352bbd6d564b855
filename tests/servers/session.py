"""One set of servers for one test run, however many workers share it.

The process that was started as ``pytest`` holds the servers and starts each when it is first
asked for. Workers of pytest-xdist ask it over a local connection whose address and key they
inherit in their environment.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from typing import NoReturn

import pytest
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from tenantry.errors import MissingDependencyError, TenantryError
from tenantry.testing.address import ServerAddress
from tests.servers import mariadb, pgbouncer, postgresql, redis

ASK = "TENANTRY_TEST_SERVERS"

MODULES = {
    "postgresql": postgresql,
    "mariadb": mariadb,
    "redis": redis,
    "pgbouncer": pgbouncer,
}


@dataclass(frozen=True)
class Missing:
    """Why there is no server; *promised* if there should be: it was found, or named by address."""

    reason: str
    promised: bool


Answer = ServerAddress | Missing


class RunningServers:
    """The servers of this run, each started at first need and all stopped by :meth:`close`."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self._stack = ExitStack()
        self._locks = {name: threading.Lock() for name in MODULES}

    def need(self, name: str) -> Answer:
        with self._locks[name]:
            if name not in self.answers:
                self.answers[name] = self._start(name)
            return self.answers[name]

    def _start(self, name: str) -> Answer:
        server: AbstractContextManager[ServerAddress]
        if name == "pgbouncer":
            behind = self.need("postgresql")
            if isinstance(behind, Missing):
                return behind
            server = pgbouncer.running(behind)
        else:
            server = {
                "postgresql": postgresql.running,
                "mariadb": mariadb.running,
                "redis": redis.running,
            }[name]()
        try:
            return self._stack.enter_context(server)
        except MissingDependencyError as error:
            return Missing(f"{name}: {error}", promised=False)
        except (TenantryError, SQLAlchemyError, RedisError, OSError) as error:
            return Missing(f"{name}: {error}", promised=True)

    def listen(self) -> None:
        """Answer workers, until the run ends."""
        key = secrets.token_bytes(32)
        listener = Listener(("127.0.0.1", 0), authkey=key)
        self._stack.callback(listener.close)
        os.environ[ASK] = f"{listener.address[1]}:{key.hex()}"
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def _serve(self, listener: Listener) -> None:
        # Closing the listener ends this thread.
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: Connection) -> None:
        with connection, contextlib.suppress(EOFError):
            connection.send(self.need(connection.recv()))

    def close(self) -> None:
        self._stack.close()


_own: RunningServers | None = None


def describe() -> Iterator[str]:
    """For each server, where it would come from."""
    for name, module in MODULES.items():
        try:
            by_address = os.environ.get(module.VARIABLE)
            place = f"by address, {module.VARIABLE}" if by_address else module.describe()
        except TenantryError as error:
            place = str(error)
        yield f"{name}: {place}"


def begin(workers: bool) -> None:
    """Begin a run in the process that holds its servers; *workers* says whether it has any."""
    global _own
    _own = RunningServers()
    if workers:
        _own.listen()


def end() -> None:
    """Stop what this run started."""
    if _own is not None:
        _own.close()


def ran() -> dict[str, Answer]:
    """What the run asked for so far, and what it got."""
    return dict(_own.answers) if _own is not None else {}


def need(name: str) -> ServerAddress:
    """The server *name*, started if it does not run yet.

    Without it the test is skipped. It fails where the server was promised: it was found but did
    not start, it was named by address but does not answer, or ``CI`` is set.
    """
    answer = _own.need(name) if _own is not None else _ask(name)
    if isinstance(answer, Missing):
        missing(answer.reason, promised=answer.promised)
    return answer


def missing(reason: str, *, promised: bool = False) -> NoReturn:
    """What the test needs is not to be had: it fails where that was *promised* or ``CI`` is set.

    Elsewhere it is skipped, with the reason: a laptop without it still runs all the others.
    """
    if promised or os.environ.get("CI", "false").lower() not in ("", "0", "false"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _ask(name: str) -> Answer:
    port, _, key = os.environ[ASK].partition(":")
    with Client(("127.0.0.1", int(port)), authkey=bytes.fromhex(key)) as connection:
        connection.send(name)
        answer: Answer = connection.recv()
        return answer
