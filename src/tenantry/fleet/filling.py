"""Fills an empty place with what another one is: tables, then rows, then what looks at rows."""

# ruff: noqa: S608 - names come from the server's own catalog, quoted

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, text

from .access import Place
from .drift import Creation
from .fingerprint import Shape
from .statements import exec_all, run, send

__all__ = ["fill", "in_order", "insert_rows", "sequence_states", "set_sequences"]

#: A column that nobody writes to, as PostgreSQL and MySQL define it.
_COMPUTED = re.compile(r" (?:GENERATED ALWAYS )?AS \((?=.*\))")


def in_order(shape: Shape) -> list[str]:
    """The tables of a place, those that others refer to first."""
    left = set(shape.tables)
    refers: dict[str, set[str]] = {table: set() for table in left}
    for item in shape.items.values():
        if item.kind == "constraint" and item.table in left:
            words = re.sub(r'["`]', "", item.definition)
            found = re.search(r"REFERENCES (\S+?) ?\(", words)
            if found is not None and found[1] != item.table:
                refers[item.table].add(found[1])
    ordered: list[str] = []
    while left:
        free = sorted(table for table in left if not refers[table] & left) or sorted(left)
        ordered += free
        left -= set(free)
    return ordered


def sequence_states(connection: Connection, place: Place) -> Iterator[tuple[str, int, bool]]:
    """How far sequences have counted (PostgreSQL only), those of identities too.

    One that was never touched is as a new one is, and left out.
    """
    if place.server.kind != "postgresql":
        return
    query = (
        "SELECT c.relname, s.seqstart FROM pg_catalog.pg_class c "
        "JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid WHERE c.relnamespace = "
        "(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = :schema)"
    )
    schema = place.schema or place.backend.usual_schema
    for name, start in connection.execute(text(query), {"schema": schema}).fetchall():
        quoted = place.backend.quote(name)
        last, called = run(connection, f"SELECT last_value, is_called FROM {quoted}").one()
        if called or last != start:
            yield name, last, called


def fill(
    connection: Connection, place: Place, made: Creation, rows: Callable[[Connection], None]
) -> None:
    """Make what *made* says in an empty place, and have *rows* put rows into it.

    On PostgreSQL in one transaction, and what looks at rows, or changes them, comes after them.
    """
    if place.server.kind == "postgresql":
        # Bodies of functions may speak of what is made after them.
        begin = ("BEGIN", "SET LOCAL check_function_bodies = off", *made.before)
        send(connection, "".join(f"{each};\n" for each in begin))
        rows(connection)
        send(connection, "".join(f"{each};\n" for each in (*made.after, "COMMIT")))
        return
    exec_all(connection, "SET SESSION foreign_key_checks = 0", *made.before, *made.after)
    # The version row is among them and seen last: what has one is whole.
    exec_all(connection, "BEGIN")
    rows(connection)
    exec_all(connection, "COMMIT", "SET SESSION foreign_key_checks = 1")


def insert_rows(
    connection: Connection,
    place: Place,
    shape: Shape,
    tables: Iterable[tuple[str, Sequence[dict[str, Any]]]],
) -> None:
    """Rows into tables, with the values they have; identities too."""

    def quote(name: str) -> str:
        return place.backend.quote(name).replace(":", "\\:")  # it is no parameter

    for table, rows in tables:
        columns_of = {name: shape.items["column", table, name].definition for name in rows[0]}
        names = [name for name, made in columns_of.items() if not _COMPUTED.search(made)]
        columns = ", ".join(quote(name) for name in names)
        values = ", ".join(f":p{number}" for number in range(len(names)))
        kind = " OVERRIDING SYSTEM VALUE" if place.server.kind == "postgresql" else ""
        connection.execute(
            text(f"INSERT INTO {quote(table)} ({columns}){kind} VALUES ({values})"),
            [{f"p{n}": row[name] for n, name in enumerate(names)} for row in rows],
        )


def set_sequences(
    connection: Connection, place: Place, sequences: Sequence[tuple[str, int, bool]]
) -> None:
    """Have sequences count on from where others stood."""
    if not sequences:
        return
    names, lasts, called = (list(each) for each in zip(*sequences, strict=True))
    connection.execute(
        text(
            "SELECT setval(CAST(s.name AS regclass), s.last, s.called) FROM unnest("
            "CAST(:names AS text[]), CAST(:lasts AS bigint[]), CAST(:called AS boolean[])) "
            "AS s (name, last, called)"
        ),
        {"names": list(map(place.backend.quote, names)), "lasts": lasts, "called": called},
    )
