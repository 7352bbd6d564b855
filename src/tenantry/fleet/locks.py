"""One worker per tenant and verb, over all processes and machines: locks held by the servers.

A lock ends with its holder, however that ends. So a tenant in state ``creating`` whose lock is
free was left behind by a crash.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import text

from ..backends import SQLite
from ..backends.places import places_of
from ..errors import ConfigurationError
from .access import Access, Place

__all__ = ["holding"]


def lock_name(place: Place, verb: str) -> str:
    """What the lock of *verb* on *place* is called."""
    return f"{verb}:{'/'.join(place.key[1:])}"


@contextlib.contextmanager
def holding(
    access: Access, place: Place, verb: str, *, wait_seconds: float = 0.0, inside: bool = False
) -> Iterator[bool]:
    """Hold the lock of *verb* on *place* for the block; says whether it was got in time.

    *wait_seconds* is how long another holder is waited for. PostgreSQL keeps these locks per
    database: *inside* takes it in the place's own, which must exist, else in the server's.

    Raises:
        ConfigurationError: The folder of an SQLite file takes no lock file.
    """
    name = lock_name(place, verb)
    if isinstance(place.backend, SQLite):
        file = place.file()
        with _file_lock(file.with_name(f".{file.name[:200]}.{verb}.lock"), wait_seconds) as got:
            yield got
        return
    (take, parameters), (free, _) = places_of(place.backend).lock(name)
    deadline = time.monotonic() + wait_seconds
    database = place.database if inside else None
    with access.connect(place.server, database, admin=not inside, autocommit=True) as connection:
        pause = 0.01
        while not connection.execute(text(take), dict(parameters)).scalar():
            if time.monotonic() >= deadline:
                yield False
                return
            time.sleep(pause)
            pause = min(pause * 2, 0.5)
        try:
            yield True
        finally:
            with contextlib.suppress(Exception):  # the lock ends with the connection anyway
                connection.execute(text(free), dict(parameters))


@contextlib.contextmanager
def _file_lock(path: Path, wait_seconds: float) -> Iterator[bool]:
    lock = FileLock(path, timeout=wait_seconds, poll_interval=0.02)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        raise ConfigurationError(
            f"no lock file can be kept in {path.parent} ({error.strerror}); let the server's URL "
            "name a folder that this account may write to"
        ) from error
    try:
        yield True
    finally:
        lock.release()
