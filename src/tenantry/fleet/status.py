"""Where every tenant stands: one set-based query per database, where the server has sets.

A thousand schemas of one database cost a handful of statements, a thousand databases of one
MariaDB too. PostgreSQL's databases and SQLite's files are asked one by one, for no connection
sees two of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

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
from .access import Access, Place
from .runner import describe
from .statements import run

__all__ = ["Standing", "heads_in", "standings"]

#: Version tables read by one statement: each takes a lock of its own in the server's table.
AT_A_TIME = 350


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
    access: Access, places: Sequence[Place], table: str, *, workers: int = 4
) -> dict[tuple[str, str, str], Standing]:
    """Where each place stands, by its key."""
    found: dict[tuple[str, str, str], Standing] = {}
    groups: dict[tuple[str, ...], list[Place]] = {}
    for place in places:
        groups.setdefault(_group(place), []).append(place)

    def ask(group: list[Place]) -> dict[tuple[str, str, str], Standing]:
        try:
            return _ask(access, group, table)
        except Exception as error:
            problem = Standing(error=describe(error))
            return {place.key: problem for place in group}

    with ThreadPoolExecutor(workers, thread_name_prefix="tenantry-status") as pool:
        for part in pool.map(ask, groups.values()):
            found.update(part)
    return found


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


def _ask(access: Access, group: list[Place], table: str) -> dict[tuple[str, str, str], Standing]:
    first = group[0]
    if isinstance(first.backend, SQLite):
        return {place.key: _of_file(place, table) for place in group}
    if first.server.kind == "mysql":
        with access.connect(first.server, "") as connection:
            return _of_sets(connection, group, table, lambda place: place.database or "")
    if first.schema is not None:
        with access.connect(first.server, first.database) as connection:
            return _of_sets(connection, group, table, lambda place: place.schema or "")
    try:
        with access.connect(first.server, first.database) as connection:
            heads = heads_in(connection, first, table)
            exists, _ = read_heads(first.backend, STEPS_TABLE)
            begun = run(connection, exists).first() is not None
            return {first.key: Standing(heads, interrupted=begun)}
    except PlacementMissingError:
        return {first.key: Standing()}


def _of_sets(
    connection: Connection, group: list[Place], table: str, name_of: Any
) -> dict[tuple[str, str, str], Standing]:
    """Many schemas (or MySQL databases) by a look at the catalog and a union of their tables."""
    backend = group[0].backend
    catalog = schemas_with if backend.kind == "postgresql" else heads_of_databases
    known = {str(name): bool(has) for name, has in run(connection, catalog(table))}
    begun = {str(name) for name, has in run(connection, catalog(STEPS_TABLE)) if has}
    wanted = {name_of(place) for place in group}
    with_table = sorted(name for name in wanted if known.get(name))
    heads: dict[str, list[str]] = {name: [] for name in with_table}
    for start in range(0, len(with_table), AT_A_TIME):
        query = heads_of_schemas(backend, table, with_table[start : start + AT_A_TIME])
        for name, revision in run(connection, query):
            heads[str(name)].append(str(revision))
    found = {}
    for place in group:
        name = name_of(place)
        if name in known:
            standing = Standing(tuple(sorted(heads.get(name, ()))), interrupted=name in begun)
        else:
            standing = Standing()
        found[place.key] = standing
    return found


def _of_file(place: Place, table: str) -> Standing:
    """Straight from the driver: opening a file is most of the work.

    For reading and writing: what a killed process left half-written is rolled back by whoever
    comes next, and only who may write can (sqlite.org/lockingv3.html, "Hot Journals").
    """
    file = place.file()
    if not file.exists():
        return Standing()
    connection = sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=5.0)
    try:
        exists, read = read_heads(place.backend, table)
        begun, _ = read_heads(place.backend, STEPS_TABLE)
        heads: tuple[str, ...] = ()
        if connection.execute(exists).fetchone() is not None:
            heads = tuple(sorted(str(row[0]) for row in connection.execute(read)))
        return Standing(heads, interrupted=connection.execute(begun).fetchone() is not None)
    finally:
        connection.close()
