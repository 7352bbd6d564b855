"""How far a revision has come that is no single transaction: a table in the tenant's own place.

It is there only meanwhile. Of a revision that is compiled it holds one row, which says which
statement is the next; of a live one also a row for each statement it has sent (see ``replay``).
"""

# ruff: noqa: S608 - names come from the scripts and the directory, quoted; no value is a request's

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ..backends.base import sqlstate
from ..backends.versions import STEPS_TABLE, read_heads
from .plan import Step
from .statements import run

if TYPE_CHECKING:
    from .access import Place

__all__ = [
    "LIVE",
    "Begun",
    "Position",
    "alone",
    "error_number",
    "interrupted_step",
    "label",
    "make_table",
    "mark",
    "note",
    "position",
    "refusal",
    "refuse",
    "table_of",
    "unmark",
]

# What a statement says that was done before: PostgreSQL's states, MySQL's numbers.
_DONE_STATES = ("42P07", "42701", "42710", "42P16", "42704", "42703", "42P01")
_DONE_NUMBERS = (1007, 1050, 1051, 1060, 1061, 1091, 1826, 1146, 1054)
_CONCURRENTLY = re.compile(
    r"\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?"
    r'("(?:[^"]|"")+"|\w+)',
    re.IGNORECASE,
)

#: The outcome of the row of a step that runs live; a statement that the server refused has one too.
LIVE = "live"
_REFUSED = "refused"


class Position(NamedTuple):
    """The statement that is the next. *in_doubt*: a crash may have come just after it."""

    number: int
    in_doubt: bool


class Begun(NamedTuple):
    """The step that the table is about, as ``label`` calls it, and whether it ran live."""

    label: str
    at: Position
    is_live: bool


def label(step: Step) -> str:
    """What a step is called in the table, as it stands between quotes."""
    return f"{'+' if step.is_upgrade else '-'}{step.revision}".replace("'", "''")


def table_of(place: Place) -> str:
    """The table, quoted."""
    return place.backend.quote(STEPS_TABLE)


def make_table(connection: Connection, place: Place) -> None:
    """Make the table, unless it is there."""
    run(
        connection,
        f"CREATE TABLE IF NOT EXISTS {table_of(place)} (revision VARCHAR(255), "
        "position INTEGER, statement VARCHAR(80), outcome VARCHAR(80))",
    )


def mark(connection: Connection, place: Place, step: Step, *, live: bool = False) -> None:
    """Say that *step* is begun."""
    unmark(connection, place)  # what another step left
    make_table(connection, place)
    outcome = f"'{LIVE}'" if live else "NULL"
    run(connection, f"INSERT INTO {table_of(place)} VALUES ('{label(step)}', 0, NULL, {outcome})")


def unmark(connection: Connection, place: Place) -> None:
    """Say that nothing is begun."""
    run(connection, f"DROP TABLE IF EXISTS {table_of(place)}")


def note(place: Place, number: int, step: Step | None = None) -> str:
    """The statement which says that *number* is the next, of *step* if that is another one."""
    revision = f"revision = '{label(step)}', " if step is not None else ""
    return f"UPDATE {table_of(place)} SET {revision}position = {number}, outcome = NULL"


def refuse(connection: Connection, place: Place, number: int) -> None:
    """Say that the server refused *number*: it is not in doubt, and "exists" means something."""
    with contextlib.suppress(Exception):  # then it stays in doubt
        run(
            connection,
            f"UPDATE {table_of(place)} SET position = {number}, outcome = '{_REFUSED}'",
        )


def position(connection: Connection, place: Place, step: Step) -> Position | None:
    """Where *step* stands; ``None``: it is not begun."""
    found = interrupted_step(connection, place)
    # What another step left is done: its version row was written.
    return found.at if found.label == label(step) else None


def interrupted_step(connection: Connection, place: Place) -> Begun:
    """What the table says; no label: nothing is begun."""
    exists, _ = read_heads(place.backend, STEPS_TABLE, place.schema)
    rows = []
    if run(connection, exists).first() is not None:
        query = f"SELECT revision, position, statement, outcome FROM {table_of(place)}"
        rows = run(connection, query).all()
    if not rows:
        return Begun("", Position(0, in_doubt=False), is_live=False)
    first = next((each for each in rows if each.statement is None), rows[0])
    is_live = any(each.statement is not None or each.outcome == LIVE for each in rows)
    at = Position(int(first.position), in_doubt=first.outcome is None)
    return Begun(str(first.revision), at, is_live)


def alone(
    connection: Connection, statement: str, send: Callable[[], Any], *, in_doubt: bool
) -> bool:
    """A statement that commits itself, sent by *send*; says whether it did anything.

    Where it is *in_doubt*, "exists already" means that it was done.
    """
    index = _CONCURRENTLY.match(statement)
    if index is not None and in_doubt:
        # An interrupted build leaves an index that is of no use and in the way (manual, CREATE
        # INDEX, "Building Indexes Concurrently").
        _drop_invalid(connection, index[1])
    try:
        send()
    except Exception as error:
        if in_doubt and _says_done(error):
            return False
        if index is not None:
            with contextlib.suppress(Exception):
                _drop_invalid(connection, index[1])
        raise
    return True


def refusal(error: BaseException) -> bool:
    """Whether the server answered, so that the statement is known not to be done."""
    return isinstance(error, DBAPIError) and not error.connection_invalidated


def error_number(error: BaseException) -> int | None:
    """The number that MySQL gives an error."""
    args = getattr(getattr(error, "orig", None) or error, "args", ())
    return args[0] if args and isinstance(args[0], int) else None


def _drop_invalid(connection: Connection, index: str) -> None:
    name = index.replace("'", "''")
    query = (
        "SELECT 1 FROM pg_catalog.pg_index WHERE NOT indisvalid "
        f"AND indexrelid = pg_catalog.to_regclass('{name}')"
    )
    if run(connection, query).first() is not None:
        run(connection, f"DROP INDEX CONCURRENTLY {index}")


def _says_done(error: BaseException) -> bool:
    return sqlstate(error) in _DONE_STATES or error_number(error) in _DONE_NUMBERS
