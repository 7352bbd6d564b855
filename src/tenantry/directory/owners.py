"""Who has what a tenant wants: the question, and a new tenant recorded only if nobody has."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    String,
    and_,
    any_,
    bindparam,
    cast,
    func,
    insert,
    literal_column,
    or_,
    select,
    true,
    union_all,
    update,
)

from .tables import Tables

__all__ = ["NEW", "Owners"]

# SQLAlchemy has every UPDATE and INSERT within a statement set the columns that parameters are
# named after.
NEW = "new_"


class Owners:
    """The statements about *tables*, each built once."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._queries: dict[tuple[bool, bool], Any] = {}
        self._additions: dict[tuple[bool, bool], Any] = {}

    def query(self, rows: bool, *, arrays: bool = False) -> Any:
        """Who has what a tenant wants: rows of (what, the owner's id, a generation or 0).

        With *arrays* of PostgreSQL its text is always the same, and SQLAlchemy has less to do.
        """
        query = self._queries.get((rows, arrays))
        if query is None:
            tenants, identifiers = self._tables.tenants, self._tables.identifiers
            buried = self._tables.tombstones
            place = tenants.c.sole_place if rows else tenants.c.place
            tenant_id: Any = bindparam("who")
            key: Any = bindparam("whose_key")
            none: Any = literal_column("0")
            least: Any = func.min(tenants.c.id)  # one will do, there may be thousands

            def among(column: Any, name: str) -> Any:
                if arrays:
                    return column == any_(cast(bindparam(name), ARRAY(String)))
                return column.in_(bindparam(name, expanding=True))

            here: Any = or_(
                and_(among(tenants.c.server, "servers"), among(tenants.c.database, "databases")),
                and_(among(tenants.c.server, "own"), tenants.c.database.is_(None)),
            )
            crowd: Any = among(tenants.c.isolation, "crowd")

            def part(what: str, owner: Any, number: Any, where: Any) -> Any:
                return select(literal_column(f"'{what}'").label("what"), owner, number).where(where)

            query = self._queries[rows, arrays] = union_all(
                part("name", tenants.c.id, tenants.c.generation, among(tenants.c.id, "names")),
                part(
                    "identifier",
                    identifiers.c.tenant_id,
                    none,
                    among(identifiers.c.identifier, "names"),
                ),
                part("left", identifiers.c.tenant_id, none, identifiers.c.tenant_id == tenant_id),
                part("place", tenants.c.id, none, among(place, "places")),
                part("crowd", least, none, and_(here, crowd, tenants.c.id != tenant_id)),
                part("key", tenants.c.id, none, tenants.c.key == key),
                part("key", buried.c.id, none, buried.c.key == key),
                part("buried", buried.c.id, buried.c.generation, buried.c.id == tenant_id),
            )
        return query

    def addition(self, rows: bool, named: bool) -> Any:
        """The owners' query, and an INSERT if it finds nobody and the version stays as it was then.

        All of it sees the tables as they were when it began. UPDATE then waits for the version's
        row, and looks at its condition again with what that row has become (PostgreSQL manual,
        13.2.1, Read Committed; in the stricter levels it fails instead). Everybody counts the
        version up who changes anything, so what was free at the beginning is free still.

        There is one version, and its key says so to the planner: with rows guessed by the thousand
        the plan looks so dear that PostgreSQL makes it anew each time, for longer than it runs.
        """
        addition = self._additions.get((rows, named))
        if addition is None:
            tenants, version = self._tables.tenants, self._tables.version
            found = self.query(rows, arrays=True).cte("found")
            what, owner, number = found.c
            taken = select(owner).where(what != literal_column("'buried'"), owner.is_not(None))
            last = select(func.coalesce(func.max(number), 0)).scalar_subquery()
            only = version.c.id == literal_column("1")
            seen: Any = (
                select(version.c.version, (last + 1).label("generation"))
                .where(only, ~taken.exists())
                .cte("seen")
            )
            counted = (
                update(version)
                .where(only, version.c.version == seen.c.version)
                .values(version=version.c.version + 1)
                .returning(seen.c.generation)
                .cte("counted")
            )
            values: dict[str, Any] = {
                each.name: bindparam(NEW + each.name, type_=each.type) for each in tenants.c
            }
            values["generation"] = func.greatest(values["generation"], counted.c.generation)
            addition = (
                insert(tenants)
                .from_select(list(values), select(*values.values()).select_from(counted))
                .returning(tenants.c.generation, tenants.c.attributes)
            )
            if named:
                array = cast(bindparam("identifiers"), ARRAY(String))
                each = func.unnest(array).table_valued("identifier", with_ordinality="place")
                each = each.render_derived()
                addition = addition.add_cte(
                    insert(self._tables.identifiers)
                    .from_select(
                        ["identifier", "tenant_id", "position"],
                        select(each.c.identifier, values["id"], each.c.place - 1).select_from(
                            counted.join(each, true())
                        ),
                    )
                    .cte("named")
                )
            self._additions[rows, named] = addition
        return addition
