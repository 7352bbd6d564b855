"""What a tenant is built like at a revision: found by building one, never by believing a stamp.

A scratch place is migrated from nothing, read and dropped. What was read is the expected shape
of every tenant at that revision, and enough to make further ones at once: their statements, the
rows that revisions put in, the states of sequences, or the whole file.
"""

# ruff: noqa: S608 - names come from the server's own catalog, quoted

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from ..backends import SQLite
from ..errors import ProvisionError
from ..tenant import Isolation, Placement
from .access import Access, Place
from .apply import apply
from .drift import Creation, Difference, creation, differences
from .filling import fill, in_order, insert_rows, sequence_states, set_sequences
from .fingerprint import Shape, shape_of, shapes_of
from .migrate import Scripts, offline_dialect
from .places import drop_place, make_place, new_file, replace_file
from .plan import Plan
from .statements import run
from .status import heads_in

if TYPE_CHECKING:
    from ..tenancy import Tenancy

__all__ = ["Blueprint", "Blueprints"]


@dataclass(frozen=True)
class Blueprint:
    """A tenant at *heads*: its *shape*, and what makes another one."""

    heads: tuple[str, ...]
    shape: Shape
    creation: Creation = field(default_factory=lambda: Creation((), (), ()))
    rows: tuple[tuple[str, tuple[dict[str, Any], ...]], ...] = ()
    sequences: tuple[tuple[str, int, bool], ...] = ()
    content: bytes | None = None


def read_blueprint(
    connection: Connection, place: Place, shape: Shape, heads: tuple[str, ...]
) -> Blueprint:
    """All of the place that *connection* is in, its rows too: for small places of nobody."""
    rows = []
    for table in in_order(shape):
        if " forced" in shape.items["table", table, table].definition:
            # Its owner would be shown no rows.
            quoted = place.backend.quote(table)
            run(connection, f"ALTER TABLE {quoted} NO FORCE ROW LEVEL SECURITY")
        found = run(connection, f"SELECT * FROM {place.backend.quote(table)}")
        content = tuple(dict(row._mapping) for row in found)
        if content:
            rows.append((table, content))
    return Blueprint(
        heads,
        shape,
        creation(shape, place.backend, same_name=place.schema is None),
        tuple(rows),
        tuple(sequence_states(connection, place)),
    )


class Blueprints:
    """Blueprints of a project's *scripts*, each made once per kind of place. Safe for threads."""

    def __init__(self, access: Access, scripts: Scripts) -> None:
        self.access = access
        self.scripts = scripts
        #: Spares that were seen free and up to date, by server and isolation.
        self.spares: dict[tuple[str, Isolation], list[str]] = {}
        self._known: dict[tuple[Any, ...], Blueprint] = {}
        self._lock = threading.Lock()

    def of(self, place: Place, target: str | None = None) -> Blueprint:
        """What a place like *place* is built like at *target* (``None``: the newest).

        Raises:
            MigrationError: A revision fails on an empty place.
            ServerUnavailableError: The server does not answer.
        """
        goal = self.scripts.target(target)
        key = (place.server.name, place.schema is not None and place.database, place.whole, goal)
        with self._lock:
            found = self._known.get(key)
            if found is None:
                found = self._known[key] = self._build(place, goal)
            return found

    def drift(self, place: Place) -> list[Difference]:
        """How *place* differs from what its own revision is built like.

        Raises:
            PlacementMissingError: The place does not exist.
        """
        with self.access.enter(place) as connection:
            heads = heads_in(connection, place, self.scripts.version_table)
        expected = self.of(place, ",".join(heads)) if heads else None
        shape = expected.shape if expected is not None else Shape({})
        return differences(shape, shape_of(self.access, place), place.backend)

    def unlike(self, places: Sequence[Place], heads: Mapping[Any, tuple[str, ...]]) -> set[Any]:
        """The keys of those *places* that differ from what their *heads* are built like.

        Catalogs are read for many places at a time; see :meth:`drift` for what differs.
        """
        shapes = shapes_of(self.access, places)
        return {
            place.key
            for place in places
            if shapes[place.key]
            != (self.of(place, ",".join(heads[place.key])).shape if heads[place.key] else Shape({}))
        }

    @contextlib.contextmanager
    def template(self, like: Place) -> Iterator[str | None]:
        """A database of the newest revision for :meth:`make` to copy; gone when the block ends.

        It is nobody's and never was, so no row of a tenant can be in it. ``None`` where a
        database cannot be copied: only PostgreSQL's can.
        """
        if like.server.kind != "postgresql" or like.schema is not None:
            yield None
            return
        with self._scratch(like) as scratch:
            self.make(scratch)
            self.access.close()  # nobody may be connected to what is copied
            yield scratch.database

    def make(
        self, place: Place, target: str | None = None, *, template: str | None = None
    ) -> Blueprint:
        """Make *place*, which must not exist or be empty, at once, and compare what came of it.

        *template* is one of :meth:`template`, of the same target. What a blueprint cannot say how
        to make (a partition, an aggregate) is made by the revisions.

        Raises:
            ProvisionError: It came out different from the blueprint.
        """
        blueprint = self.of(place, target)
        if isinstance(place.backend, SQLite):
            assert blueprint.content is not None
            new_file(place.file(), blueprint.content)
            return blueprint
        if not make_place(self.access, place, template=template) or template is None:
            if blueprint.creation.unknown:
                self._migrate(place, self.scripts.target(target))
            else:
                fill_place(self.access, place, blueprint)
        found = shape_of(self.access, place)
        if found != blueprint.shape:
            unlike = differences(blueprint.shape, found, place.backend)
            words = "; ".join(each.words for each in unlike[:3])
            raise ProvisionError(
                f"the place of tenant {place.name!r} came out different from its blueprint: "
                f"{words}; nothing was opened",
                tenant_id=place.name,
            )
        return blueprint

    def filling(self, _tenancy: Tenancy, access: Access, place: Place) -> None:
        """As a step of :func:`~tenantry.fleet.create`: tables, rows and version of the newest.

        What a crash left half-way is made anew: the tenant was never open.
        """
        blueprint = self.of(place)
        if isinstance(place.backend, SQLite):
            if not _is_like(access, place, blueprint):
                assert blueprint.content is not None
                replace_file(place.file(), blueprint.content)
            return
        found = shape_of(access, place)
        if found == blueprint.shape:
            return
        if found.items:
            drop_place(access, place)
        self.make(place)

    def _build(self, place: Place, goal: str) -> Blueprint:
        with self._scratch(place) as scratch:
            make_place(self.access, scratch)
            plan = self._migrate(scratch, goal)
            shape = shape_of(self.access, scratch)
            if isinstance(scratch.backend, SQLite):
                return Blueprint(plan.after, shape, content=scratch.file().read_bytes())
            with self.access.enter(scratch) as connection:
                return read_blueprint(connection, scratch, shape, plan.after)

    def _migrate(self, place: Place, goal: str) -> Plan:
        where = None if place.server.kind == "sqlite" else place.database
        with self.access.connect(place.server, where) as connection:
            dialect = offline_dialect(connection)
        plan = self.scripts.plan((), goal, dialect)
        apply(self.access, place, plan, self.scripts)
        return plan

    @contextlib.contextmanager
    def _scratch(self, like: Place) -> Iterator[Place]:
        """A place beside *like* that is gone at the end."""
        name = f"scratch_{secrets.token_hex(6)}"
        if like.schema is not None:
            placement = Placement(like.server.name, Isolation.SCHEMA, like.database, name)
        else:
            suffix = ".db" if isinstance(like.backend, SQLite) else ""
            placement = Placement(like.server.name, Isolation.DATABASE, name + suffix)
        place = Place(like.server, placement)
        place.whole = like.whole
        try:
            yield place
        finally:
            self.access.close()  # what is kept may be connected to it
            drop_place(self.access, place)


def _is_like(access: Access, place: Place, blueprint: Blueprint) -> bool:
    try:
        return shape_of(access, place) == blueprint.shape
    except sqlite3.DatabaseError as error:
        if "malformed" in str(error):  # a crash of the machine cut it short
            return False
        raise


def fill_place(access: Access, place: Place, blueprint: Blueprint) -> None:
    """Make all of *blueprint* in an empty place; on PostgreSQL in one transaction."""

    def rows(connection: Connection) -> None:
        insert_rows(connection, place, blueprint.shape, blueprint.rows)
        set_sequences(connection, place, blueprint.sequences)

    with access.enter(place, autocommit=True) as connection:
        fill(connection, place, blueprint.creation, rows)
