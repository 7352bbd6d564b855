"""Sends a message through psycopg as the driver sends its own BEGIN: without a cursor.

A cursor costs as much again as what it sends. The generators are those that psycopg's connections
run themselves; it is imported only where it is in use.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import cache
from typing import Any

__all__ = ["send", "send_async", "send_blocking"]


def send(connection: Any, message: str) -> None:
    """Run *message*, one statement or several, on psycopg's ``Connection``; nothing is prepared."""
    with connection.lock:
        connection.wait(_sending(connection, message))


async def send_async(connection: Any, message: str) -> None:
    """The same on its ``AsyncConnection``."""
    async with connection.lock:
        await connection.wait(_sending(connection, message))


def send_blocking(connection: Any, message: str) -> str | None:
    """The same for many statements: libpq reads the answers, and no signal is heard meanwhile.

    Returns the first value that the last of them gives; ``None``: it gives none.
    """
    _, error_from_result, fine = _psycopg()
    encoding = connection.info.encoding
    with connection.lock:
        result = connection.pgconn.exec_(message.encode(encoding))
    if result.status not in fine:
        raise error_from_result(result, encoding=encoding)
    value = result.get_value(0, 0) if result.ntuples else None
    return None if value is None else bytes(value).decode(encoding)


def _sending(connection: Any, message: str) -> Generator[Any, Any, None]:
    execute, error_from_result, fine = _psycopg()
    pgconn = connection.pgconn
    encoding = "ascii" if message.isascii() else connection.info.encoding
    pgconn.send_query(message.encode(encoding))
    for result in (yield from execute(pgconn)):
        if result.status not in fine:
            raise error_from_result(result, encoding=connection.info.encoding)


@cache
def _psycopg() -> tuple[Any, Any, frozenset[int]]:
    from psycopg import errors, generators, pq

    fine = frozenset({pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK})
    return generators.execute, errors.error_from_result, fine
