"""A new tenant that is a copy of another: built alike, with its rows or without."""

# ruff: noqa: S608 - names come from the server's own catalog, quoted

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from ..backends import SQLite
from ..errors import ProvisionError
from .access import Access, Place, open_file
from .drift import creation, differences
from .filling import fill, in_order, insert_rows, sequence_states, set_sequences
from .fingerprint import shape_of
from .places import drop_place, make_place, replace_file
from .provision import Fill
from .statements import run

if TYPE_CHECKING:
    from ..tenancy import Tenancy

__all__ = ["copying"]

#: Rows that are sent at a time.
AT_A_TIME = 1000


def copying(source: Place, *, rows: bool = True, keep: tuple[str, ...] = ()) -> Fill:
    """A step of :func:`~tenantry.fleet.create` that copies *source*.

    Rows are read in one snapshot. Without *rows* only those of the tables in *keep* come along
    (the version table, so that migrations go on from there). Compares what came of it.
    """

    def copy(_tenancy: Tenancy, access: Access, place: Place) -> None:
        if place.server.kind != source.server.kind:
            raise ProvisionError(
                f"tenant {place.name!r} cannot be a copy of {source.name!r}: their servers are "
                "of different kinds",
                tenant_id=place.name,
            )
        if isinstance(place.backend, SQLite):
            _copy_file(source, place, rows, keep)
        else:
            _copy(access, source, place, rows, keep)
        wanted, found = shape_of(access, source), shape_of(access, place)
        if wanted != found:
            unlike = differences(wanted, found, place.backend)
            raise ProvisionError(
                f"tenant {place.name!r} came out different from {source.name!r}: "
                f"{'; '.join(each.words for each in unlike[:3])}; nothing was opened",
                tenant_id=place.name,
            )

    return copy


def _copy(access: Access, source: Place, place: Place, rows: bool, keep: tuple[str, ...]) -> None:
    if shape_of(access, place).items:
        # A crash came in the middle; the tenant was never open.
        drop_place(access, place)
        make_place(access, place)
    shape = shape_of(access, source)
    made = creation(shape, source.backend, same_name=place.schema == source.schema)
    if made.unknown:
        raise ProvisionError(
            f"tenant {source.name!r} has what a copy cannot be given: "
            f"{', '.join(made.unknown[:5])}; create the tenant by its revisions instead",
            tenant_id=place.name,
        )
    tables = [table for table in in_order(shape) if rows or table in keep]
    with access.enter(source) as reading:
        if place.server.kind == "postgresql":
            reading.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            # Rows that a policy hides are an error, not left out.
            reading.execute(text("SET LOCAL row_security = off"))
        else:
            reading.execute(text("START TRANSACTION WITH CONSISTENT SNAPSHOT"))
        sequences = tuple(sequence_states(reading, source)) if rows else ()

        def copied(writing: Connection) -> None:
            for table in tables:
                found = run(reading, f"SELECT * FROM {source.backend.quote(table)}")
                while part := found.fetchmany(AT_A_TIME):
                    content = [dict(row._mapping) for row in part]
                    insert_rows(writing, place, shape, [(table, content)])
            set_sequences(writing, place, sequences)

        with access.enter(place, autocommit=True) as writing:
            fill(writing, place, made, copied)


def _copy_file(source: Place, place: Place, rows: bool, keep: tuple[str, ...]) -> None:
    """By SQLite's own backup: whole, also while others write."""
    with (
        open_file(source, timeout=10.0) as reading,
        contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as copy,
    ):
        reading.backup(copy)
        if not rows:
            names = copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (name,) in names:
                if name not in keep and not name.startswith("sqlite_"):
                    copy.execute(f"DELETE FROM {place.backend.quote(name)}")
        copy.execute("VACUUM")
        draft = place.file().with_name(f".{place.file().name}.copy")
        draft.unlink(missing_ok=True)
        copy.execute("VACUUM INTO ?", (str(draft),))
        replace_file(place.file(), draft.read_bytes())
        draft.unlink()
