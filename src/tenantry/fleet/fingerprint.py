"""What is in a place, as data: every table, column, index, constraint, policy, grant and more.

Two places with equal shapes are built alike, whatever their names and however they came to be.
Shapes of many schemas of a database are read by one query.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, text

from ..backends import SQLite
from ..backends.catalogs import LEFT_OUT, MYSQL, in_schemas
from .access import Access, Place, open_file
from .statements import run

__all__ = ["Item", "Shape", "shape_of", "shapes_of"]

#: Places whose catalog one query reads: the server sorts and sends all of it.
AT_A_TIME = 100


@dataclass(frozen=True, order=True)
class Item:
    """One object: its *kind*, the *table* it belongs to, its *name* and its *definition*.

    The definition names objects of the place without the place, so that two places compare.
    *position* orders objects of a kind when they are made; it is no part of the shape. *verbatim*
    is the definition with the texts in it as they are, where one names the place; else empty.
    """

    kind: str
    table: str
    name: str
    definition: str
    position: int = field(default=0, compare=False)
    verbatim: str = field(default="", compare=False)

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies it within a place."""
        return (self.kind, self.table, self.name)


@dataclass(frozen=True)
class Shape:
    """All objects of a place."""

    items: Mapping[tuple[str, str, str], Item]

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits; equal for places that are built alike."""
        digest = hashlib.blake2b(digest_size=16)
        for item in sorted(self.items.values()):
            line = "\x1f".join((item.kind, item.table, item.name, item.definition))
            digest.update(line.encode() + b"\x1e")
        return digest.hexdigest()

    @property
    def tables(self) -> list[str]:
        """The names of its tables."""
        return sorted(name for kind, name, _ in self.items if kind == "table")


def shape_of(access: Access, place: Place) -> Shape:
    """What is in *place*.

    Raises:
        PlacementMissingError: It does not exist.
        ServerUnavailableError: Its server does not answer.
    """
    return shapes_of(access, [place])[place.key]


def shapes_of(
    access: Access, places: Sequence[Place], *, workers: int = 4
) -> dict[tuple[str, str, str], Shape]:
    """What is in each of *places*, by key; those of one database by one query."""
    groups: dict[tuple[str, ...], list[Place]] = {}
    for place in places:
        group = groups.setdefault(_group(place), [])
        group.append(place)
    parts = [
        group[start : start + AT_A_TIME]
        for group in groups.values()
        for start in range(0, len(group), AT_A_TIME)
    ]
    found: dict[tuple[str, str, str], Shape] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="tenantry-shapes") as pool:
        for part in pool.map(lambda each: _read(access, each), parts):
            found.update(part)
    return found


def _group(place: Place) -> tuple[str, ...]:
    if place.server.kind == "mysql":
        return (place.server.name,)
    if place.server.kind == "postgresql":
        return (place.server.name, place.database or "", str(place.whole))
    return place.key


def _read(access: Access, places: Sequence[Place]) -> dict[tuple[str, str, str], Shape]:
    first = places[0]
    if isinstance(first.backend, SQLite):
        return {place.key: _of_file(place) for place in places}
    if first.server.kind == "mysql":
        with access.connect(first.server, "") as connection:
            names = {place.database or "": place for place in places}
            query = text(MYSQL).bindparams(bindparam("places", expanding=True))
            return _sorted(connection.execute(query, {"places": list(names)}), names)
    with access.connect(
        first.server, first.database, tenant=first.tenants[0] if first.tenants else None
    ) as connection:
        # Only now is it known where an own database keeps its tables.
        names = {place.schema or first.backend.usual_schema: place for place in places}
        # The planner thinks catalogs dear enough to compile the query, which takes half a second.
        run(connection, "SET LOCAL search_path TO pg_catalog; SET LOCAL jit = off")
        return _sorted(run(connection, in_schemas(names, whole=first.whole)), names)


def _sorted(rows: Iterable[Any], names: Mapping[str, Place]) -> dict[tuple[str, str, str], Shape]:
    items: dict[str, list[Item]] = {name: [] for name in names}
    for row in rows:
        place, kind, table, name, definition, position, *prefix = row
        definition, verbatim = str(definition or ""), ""
        if prefix and kind != "comment":
            definition, verbatim = _without(prefix[0], definition)
        name = _without(prefix[0], str(name))[0] if prefix else str(name)
        items[place].append(Item(kind, str(table), name, definition, position, verbatim))
    return {names[name].key: _shape(found) for name, found in items.items()}


#: A text of PostgreSQL's, in quotes or dollars; or the name of an object in quotes.
_TEXT = re.compile(
    r"(?P<name>'(?:[^']|'')*'(?=::reg))|'(?:[^']|'')*'|(?P<tag>\$\w*\$).*?(?P=tag)", re.DOTALL
)


def _without(prefix: str, definition: str) -> tuple[str, str]:
    """*definition* without *prefix*; and the same with its texts as they are, if one has it."""
    if prefix not in definition:
        return definition, ""
    own = re.compile(rf'(?<![\w$".]){re.escape(prefix)}')
    verbatim, end, in_text = [], 0, False
    for text_ in _TEXT.finditer(definition):
        verbatim.append(own.sub("", definition[end : text_.start()]))
        named = text_["name"] is not None
        verbatim.append(own.sub("", text_[0]) if named else text_[0])
        in_text = in_text or (not named and own.search(text_[0]) is not None)
        end = text_.end()
    verbatim.append(own.sub("", definition[end:]))
    return own.sub("", definition), "".join(verbatim) if in_text else ""


def _shape(items: Iterable[Item]) -> Shape:
    return Shape({item.key: item for item in items})


# SQLite ------------------------------------------------------------------------------------

_CHECK = re.compile(r"\bCHECK\s*\(", re.IGNORECASE)


def _of_file(place: Place) -> Shape:
    with open_file(place, timeout=5.0) as file:
        return _shape(_file_items(file))


def _file_items(connection: sqlite3.Connection) -> Iterable[Item]:
    rows = connection.execute(
        "SELECT type, tbl_name, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' "
        "ESCAPE '\\'"
    ).fetchall()
    for kind, table, name, sql in rows:
        if name in LEFT_OUT:
            continue
        if kind == "table":
            yield from _table_items(connection, name, sql or "")
        elif sql is not None:
            yield Item(kind, table, name, _plain(sql))


def _table_items(connection: sqlite3.Connection, table: str, sql: str) -> Iterable[Item]:
    yield Item("table", table, table, "table")
    name = table.replace("'", "''")
    for row in connection.execute(f"PRAGMA table_xinfo('{name}')"):
        number, column, type_, not_null, default, key, hidden = row
        words = [type_.upper()]
        words += ["NOT NULL"] if not_null else []
        words += [f"DEFAULT {default}"] if default is not None else []
        words += [f"PRIMARY KEY {key}"] if key else []
        words += ["GENERATED"] if hidden in (2, 3) else []
        yield Item("column", table, column, " ".join(words), number)
    for row in connection.execute(f"PRAGMA foreign_key_list('{name}')").fetchall():
        _, _, other, column, to, on_update, on_delete, _ = row
        definition = f"REFERENCES {other} ({to}) ON UPDATE {on_update} ON DELETE {on_delete}"
        yield Item("constraint", table, f"foreign key {column} to {other}", definition)
    for row in connection.execute(f"PRAGMA index_list('{name}')").fetchall():
        _, index, unique, origin, partial = row[:5]
        if origin == "c":
            continue  # it has SQL of its own
        columns = ", ".join(
            str(each[2]) for each in connection.execute(f"PRAGMA index_info('{index}')")
        )
        what = "UNIQUE" if unique else "INDEX"
        yield Item("constraint", table, f"{what} ({columns})", f"{origin}{partial}")
    for number, clause in enumerate(_checks(sql)):
        yield Item("constraint", table, f"check {number}: {clause}", clause)


def _checks(sql: str) -> list[str]:
    """The CHECK clauses of a CREATE TABLE, which no pragma tells."""
    found = []
    for match in _CHECK.finditer(sql):
        depth, end = 0, match.end() - 1
        for end in range(match.end() - 1, len(sql)):
            depth += {"(": 1, ")": -1}.get(sql[end], 0)
            if depth == 0:
                break
        found.append(_plain(sql[match.end() : end]))
    return sorted(found)


def _plain(sql: str) -> str:
    """SQL as SQLite kept it, whatever the white space and quotes it was written with."""
    return re.sub(r"\s*([(),])\s*", r"\1", " ".join(sql.replace('"', "").split()))
