"""What a tenant is built like at a revision: found by building one, never by believing a stamp.

A scratch place is migrated from nothing, read and dropped. What was read is the expected shape
of every tenant at that revision, and enough to make further ones at once: their statements, the
rows that revisions put in, the states of sequences, or the whole file.
"""

# ruff: noqa: S608 - names come from the server's own catalog, quoted

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from ..backends import SQLite
from ..errors import ProvisionError
from ..tenant import Isolation, Placement
from .access import Access, Place
from .apply import apply, send
from .drift import Difference, creation, differences
from .fingerprint import Shape, shape_of
from .migrate import Scripts, offline_dialect
from .places import drop_place, exec_all, make_place, new_file, sync_folder
from .status import heads_in

if TYPE_CHECKING:
    from ..tenancy import Tenancy

__all__ = ["Blueprint", "Blueprints"]


@dataclass(frozen=True)
class Blueprint:
    """A tenant at *heads*: its *shape*, and what makes another one."""

    heads: tuple[str, ...]
    shape: Shape
    statements: tuple[str, ...] = ()
    rows: tuple[tuple[str, tuple[dict[str, Any], ...]], ...] = ()
    sequences: tuple[tuple[str, int, bool], ...] = ()
    content: bytes | None = None


class Blueprints:
    """Blueprints of a project's *scripts*, each made once per kind of place. Safe for threads."""

    def __init__(self, access: Access, scripts: Scripts) -> None:
        self.access = access
        self.scripts = scripts
        self._known: dict[tuple[Any, ...], Blueprint] = {}
        self._lock = threading.Lock()

    def of(self, place: Place, target: str | None = None) -> Blueprint:
        """What a place like *place* is built like at *target* (``None``: the newest).

        Raises:
            MigrationError: A revision fails on an empty place.
            ServerUnavailableError: The server does not answer.
        """
        goal = self.scripts.target(target)
        key = (place.server.name, place.schema is not None and place.database, goal)
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

    def make(self, place: Place, target: str | None = None) -> Blueprint:
        """Make *place*, which must not exist or be empty, at once, and compare what came of it.

        Raises:
            ProvisionError: It came out different from the blueprint.
        """
        blueprint = self.of(place, target)
        if isinstance(place.backend, SQLite):
            assert blueprint.content is not None
            self._write(place, blueprint.content)
            return blueprint
        make_place(self.access, place)
        self._fill(place, blueprint)
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

    def filling(self, tenancy: Tenancy, access: Access, place: Place) -> None:
        """As a step of :func:`~tenantry.fleet.create`."""
        del tenancy
        if isinstance(place.backend, SQLite):
            blueprint = self.of(place)
            file = place.file()
            if shape_of(access, place) == blueprint.shape:
                return
            assert blueprint.content is not None
            with new_file(file.with_name(f"{file.name}.blueprint")) as draft:
                draft.write_bytes(blueprint.content)
            file.with_name(f"{file.name}.blueprint").replace(file)
            sync_folder(file.parent)
            return
        if shape_of(access, place) != self.of(place).shape:
            self.make(place)

    def _write(self, place: Place, content: bytes) -> None:
        with new_file(place.file()) as draft:
            draft.write_bytes(content)

    def _fill(self, place: Place, blueprint: Blueprint) -> None:
        with self.access.enter(place, autocommit=True) as connection:
            if place.server.kind == "postgresql":
                message = "".join(f"{each};\n" for each in blueprint.statements)
                send(connection, f"BEGIN;\n{message}")
                self._insert(connection, place, blueprint)
                for name, last, called in blueprint.sequences:
                    connection.execute(
                        text("SELECT setval(CAST(:name AS regclass), :last, :called)"),
                        {"name": place.backend.quote(name), "last": last, "called": called},
                    )
                send(connection, "COMMIT")
                return
            exec_all(connection, "SET SESSION foreign_key_checks = 0")
            exec_all(connection, *blueprint.statements)
            exec_all(connection, "BEGIN")
            self._insert(connection, place, blueprint)
            exec_all(connection, "COMMIT", "SET SESSION foreign_key_checks = 1")

    def _insert(self, connection: Connection, place: Place, blueprint: Blueprint) -> None:
        quote = place.backend.quote
        for table, rows in blueprint.rows:
            names = list(rows[0])
            columns = ", ".join(quote(name) for name in names)
            values = ", ".join(f":p{number}" for number in range(len(names)))
            kind = " OVERRIDING SYSTEM VALUE" if place.server.kind == "postgresql" else ""
            connection.execute(
                text(f"INSERT INTO {quote(table)} ({columns}){kind} VALUES ({values})"),
                [{f"p{n}": row[name] for n, name in enumerate(names)} for row in rows],
            )

    def _build(self, place: Place, goal: str) -> Blueprint:
        with self._scratch(place) as scratch:
            make_place(self.access, scratch)
            where = None if scratch.server.kind == "sqlite" else scratch.database
            with self.access.connect(scratch.server, where) as connection:
                dialect = offline_dialect(connection)
            plan = self.scripts.plan((), goal, dialect)
            apply(self.access, scratch, plan, self.scripts)
            shape = shape_of(self.access, scratch)
            if isinstance(scratch.backend, SQLite):
                return Blueprint(plan.after, shape, content=scratch.file().read_bytes())
            with self.access.enter(scratch) as connection:
                return Blueprint(
                    plan.after,
                    shape,
                    tuple(creation(shape, scratch.backend)),
                    tuple(self._rows(connection, scratch, shape)),
                    tuple(self._sequences(connection, scratch, shape)),
                )

    def _rows(
        self, connection: Connection, place: Place, shape: Shape
    ) -> Iterator[tuple[str, tuple[dict[str, Any], ...]]]:
        """The rows that revisions put in, parents before children."""
        found = {}
        for table in shape.tables:
            rows = connection.execute(text(f"SELECT * FROM {place.backend.quote(table)}"))
            content = tuple(dict(row._mapping) for row in rows)
            if content:
                found[table] = content
        parents = {
            table: {
                other
                for item in shape.items.values()
                if item.kind == "constraint" and item.table == table
                for other in found
                if other != table and f"REFERENCES {other}(" in item.definition.replace('"', "")
            }
            for table in found
        }
        while found:
            free = [table for table in found if not parents[table] & set(found)] or list(found)
            for table in free:
                yield table, found.pop(table)

    def _sequences(
        self, connection: Connection, place: Place, shape: Shape
    ) -> Iterator[tuple[str, int, bool]]:
        if place.server.kind != "postgresql":
            return
        for item in shape.items.values():
            if item.kind == "sequence":
                name = place.backend.quote(item.name)
                row = connection.execute(text(f"SELECT last_value, is_called FROM {name}")).one()
                yield item.name, int(row[0]), bool(row[1])

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
        try:
            yield place
        finally:
            self.access.close()  # what is kept may be connected to it
            drop_place(self.access, place)
