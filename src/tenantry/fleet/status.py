"""Where every tenant stands: one set-based query per database, where the server has sets.

A thousand schemas of one database cost a handful of statements, a thousand databases of one
MariaDB too. PostgreSQL's databases and SQLite's files are asked one by one, for no connection
sees two of them.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from ..backends import SQLite
from ..backends.versions import (
    STEPS_TABLE,
    heads_of_databases,
    heads_of_schemas,
    read_heads,
    schemas_with,
)
from ..errors import PlacementMissingError
from .access import Access, Place, open_file
from .runner import describe
from .statements import run

__all__ = ["Standing", "heads_in", "heads_in_file", "is_asked_alone", "look_into", "standings"]

#: Version tables read by one statement: each takes a lock of its own in the server's table.
AT_A_TIME = 350
#: Of many schemas, how many are read to assume where the others stand: if a fifth of them stood
#: elsewhere, that would be missed in 3 cases of 100.
SAMPLE = 16

MayAssume = Callable[[Place, "tuple[str, ...]"], bool]


@dataclass(frozen=True)
class Standing:
    """Where a place stands: the *heads* of its version table; ``None``: the place is missing.

    *interrupted* says that a revision which is no single transaction was begun and not ended.
    *error* is why nothing is known.
    """

    heads: tuple[str, ...] | None = None
    interrupted: bool = False
    error: str | None = None

    @property
    def revision(self) -> str:
        """For people."""
        if self.error is not None:
            return "unknown"
        if self.heads is None:
            return "missing"
        return ", ".join(self.heads) or "base"


def standings(
    access: Access,
    places: Sequence[Place],
    table: str,
    *,
    workers: int = 4,
    may_assume: MayAssume | None = None,
) -> dict[tuple[str, str, str], Standing]:
    """Where each place stands, by its key.

    With *may_assume* a few of a database's many schemas are read. If these stand at the same
    heads, and ``may_assume(place, heads)`` says so, the others are taken to stand there. It is for
    callers whom the place itself tells when it does not.
    """
    found: dict[tuple[str, str, str], Standing] = {}
    groups: dict[tuple[str, ...], list[Place]] = {}
    for place in places:
        groups.setdefault(_group(place), []).append(place)

    def ask(group: list[Place]) -> dict[tuple[str, str, str], Standing]:
        try:
            return _ask(access, group, table, may_assume)
        except Exception as error:
            problem = Standing(error=describe(error))
            return {place.key: problem for place in group}

    if len(groups) == 1:
        return ask(list(places))
    with ThreadPoolExecutor(workers, thread_name_prefix="tenantry-status") as pool:
        for part in pool.map(ask, groups.values()):
            found.update(part)
    return found


def is_asked_alone(place: Place) -> bool:
    """Whether the server has no query that says where many such places stand."""
    return _group(place) == place.key


def heads_in(connection: Connection, place: Place, table: str) -> tuple[str, ...]:
    """The heads of the place that *connection* is in; none if there is no version table."""
    exists, read = read_heads(place.backend, table, place.schema)
    if run(connection, exists).first() is None:
        return ()
    return tuple(sorted(str(row[0]) for row in run(connection, read)))


def _group(place: Place) -> tuple[str, ...]:
    if place.server.kind == "mysql":
        return (place.server.name,)
    if place.schema is not None:
        return (place.server.name, place.database or "")
    return place.key


def _ask(
    access: Access, group: list[Place], table: str, may_assume: MayAssume | None
) -> dict[tuple[str, str, str], Standing]:
    first = group[0]
    if isinstance(first.backend, SQLite):
        try:
            with open_file(first, timeout=5.0) as file:
                return {first.key: look_into(file, first, table)}
        except PlacementMissingError:
            return {first.key: Standing()}
    if first.server.kind == "mysql":
        connect = partial(access.connect, first.server, "")
        return _of_sets(connect, group, table, lambda place: place.database or "")
    # As a batch of a migration connects, which may come next.
    if len(group) > 1:
        connect = partial(access.connect, first.server, first.database, autocommit=True)
        return _of_sets(connect, group, table, lambda place: place.schema or "", may_assume)
    try:
        with access.enter(first, autocommit=True) as connection:
            heads = heads_in(connection, first, table)
            exists, _ = read_heads(first.backend, STEPS_TABLE, first.schema)
            begun = run(connection, exists).first() is not None
            return {first.key: Standing(heads, interrupted=begun)}
    except PlacementMissingError:
        return {first.key: Standing()}


def _of_sets(
    connect: Callable[[], AbstractContextManager[Connection]],
    group: list[Place],
    table: str,
    name_of: Callable[[Place], str],
    may_assume: MayAssume | None = None,
) -> dict[tuple[str, str, str], Standing]:
    """Many schemas (or MySQL databases) by a look at the catalog and a union of their tables."""
    first = group[0]
    catalog = schemas_with if first.backend.kind == "postgresql" else heads_of_databases
    with connect() as connection:
        rows = run(connection, catalog(table)).all()
        known = {str(name): bool(has) for name, has, _ in rows}
        begun = {str(name) for name, _, is_begun in rows if is_begun}
        wanted = {name_of(place) for place in group}
        with_table = sorted(name for name in wanted if known.get(name))
        asked = with_table
        if may_assume is not None and len(with_table) > 4 * SAMPLE:
            asked = random.sample(with_table, SAMPLE)
        heads = _heads_of(connection, first, table, asked)
    if asked is not with_table:
        seen = set(heads.values())
        if may_assume is not None and len(seen) == 1 and may_assume(first, *seen):
            heads = dict.fromkeys(with_table, *seen)
        else:
            with connect() as connection:
                heads = _heads_of(connection, first, table, with_table)
    found = {}
    for place in group:
        name = name_of(place)
        if name in known:
            standing = Standing(heads.get(name, ()), interrupted=name in begun)
        else:
            standing = Standing()
        found[place.key] = standing
    return found


def _heads_of(
    connection: Connection, place: Place, table: str, names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """What the version tables hold of the schemas *names*, of the same server as *place*."""
    heads: dict[str, list[str]] = {name: [] for name in names}
    for start in range(0, len(names), AT_A_TIME):
        query = heads_of_schemas(place.backend, table, names[start : start + AT_A_TIME])
        for name, revision in run(connection, query):
            heads[str(name)].append(str(revision))
    return {name: tuple(sorted(found)) for name, found in heads.items()}


def heads_in_file(file: sqlite3.Connection, place: Place, table: str) -> tuple[str, ...]:
    """As :func:`heads_in`, of an SQLite file."""
    _, read = read_heads(place.backend, table)
    try:
        return tuple(sorted(str(row[0]) for row in file.execute(read)))
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return ()
        raise


def look_into(file: sqlite3.Connection, place: Place, table: str) -> Standing:
    """Where an SQLite file stands; one transaction, so it is locked and read once."""
    begun, _ = read_heads(place.backend, STEPS_TABLE)
    file.execute("BEGIN")
    heads = heads_in_file(file, place, table)
    interrupted = file.execute(begun).fetchone() is not None
    file.execute("COMMIT")
    return Standing(heads, interrupted)
