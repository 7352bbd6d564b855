"""The statements of a table directory; each function works in a transaction of its caller."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    Table,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Connection

from ..errors import ConfigurationError, DirectoryUnavailableError, DuplicatePlacementError
from ..tenant import Isolation, Placement, State, Tenant
from .base import check_identifiers, crowded
from .owners import NEW, Owners
from .spellings import Spellings
from .tables import Tables

__all__ = ["Records", "digest", "taken"]


class Records:
    """Reads and writes tenants in *tables*, and nothing about who may."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._owners = Owners(tables)

    def creations(self) -> list[Callable[[Connection], None]]:
        """What makes the missing tables, each to be done in a transaction of its own."""

        def table(table: Table) -> Callable[[Connection], None]:
            return lambda connection: table.create(connection, checkfirst=True)

        def first_version(connection: Connection) -> None:
            version = self._tables.version
            if connection.execute(select(version.c.id)).first() is None:
                connection.execute(insert(version).values(id=1, version=1))

        return [*map(table, self._tables.metadata.sorted_tables), first_version]

    def version(self, connection: Connection) -> int:
        """The number that every change counts up."""
        found = connection.execute(select(self._tables.version.c.version)).scalar()
        if found is None:
            raise _no_version()
        return int(found)

    def count_up(self, connection: Connection) -> None:
        """Count the version up, first of all: its row lock has all writers wait for each other."""
        version = self._tables.version
        changed = connection.execute(update(version).values(version=version.c.version + 1))
        if changed.rowcount == 0:
            raise _no_version()

    def all(self, connection: Connection) -> list[Tenant]:
        """Every tenant, ordered by id."""
        return _tenants(connection.execute(self._select()).mappings())

    def get(self, connection: Connection, tenant_id: str) -> Tenant | None:
        """The tenant with exactly this id."""
        where = self._tables.tenants.c.id == tenant_id
        found = _tenants(connection.execute(self._select().where(where)).mappings())
        return next((tenant for tenant in found if tenant.id == tenant_id), None)

    def find(self, connection: Connection, identifier: str) -> Tenant | None:
        """The tenant with exactly this id or identifier."""
        tenants, identifiers = self._tables.tenants, self._tables.identifiers
        named = select(identifiers.c.tenant_id).where(identifiers.c.identifier == identifier)
        where = or_(tenants.c.id == identifier, tenants.c.id.in_(named))
        found = _tenants(connection.execute(self._select().where(where)).mappings())
        # Compared once more: a database may ignore case, or spaces at the end.
        return next((each for each in found if identifier in (each.id, *each.identifiers)), None)

    def next_generation(self, connection: Connection, tenant_id: str) -> int:
        """One more than any tenant of this id ever had."""
        last = 0
        for table in (self._tables.tenants, self._tables.tombstones):
            highest = select(func.max(table.c.generation)).where(table.c.id == tenant_id)
            last = max(last, connection.execute(highest).scalar() or 0)
        return last + 1

    def check_free(
        self, connection: Connection, tenant: Tenant, said: Spellings, *, new: bool = False
    ) -> int:
        """Refuse a name or place of another tenant, and a database that one has alone.

        For a *new* tenant also an id that is taken, and a key that any tenant has or had. One
        query: a sign-up waits for it. Returns the first generation that no tenant of this id
        has had.
        """
        query = self._owners.query(tenant.placement.isolation is Isolation.ROWS)
        found = connection.execute(query, _wanted(tenant, said))
        owners: dict[str, list[str]] = {}
        generation = 1
        for what, owner, number in found:
            if owner is None:
                continue  # the least of none
            generation = max(generation, (number or 0) + 1)
            owners.setdefault(what, []).append(owner)
        if new and tenant.id in owners.get("name", ()):
            raise taken(tenant, "the id", tenant.id)
        if new and "key" in owners:
            raise taken(tenant, "the key")
        for what, words in (
            ("name", "an identifier"),
            ("identifier", "the id or an identifier"),
            ("place", f"the place {tenant.placement}"),
        ):
            for owner in owners.get(what, ()):
                if owner != tenant.id:
                    raise taken(tenant, words, owner)
        for owner in owners.get("crowd", ()):
            raise crowded(tenant, owner)
        if new and "left" in owners:
            self._forget_identifiers(connection, tenant)  # nobody's, and not to be this tenant's
        return generation

    def insert(self, connection: Connection, tenant: Tenant, place: str) -> Tenant:
        """Record a new tenant, and return it as it will be read."""
        tenants = self._tables.tenants
        values = _first_values(tenant, place)
        statement = insert(tenants)
        on_postgresql = connection.dialect.name == "postgresql"
        if not getattr(connection.dialect, "insert_returning", on_postgresql):
            connection.execute(statement, values)
            self._add_identifiers(connection, tenant)
            return self._again(connection, tenant)
        row = connection.execute(statement.returning(*tenants.c), values).mappings().one()
        return _tenant(row, list(enumerate(self._add_identifiers(connection, tenant))))

    def insert_if_free(
        self, connection: Connection, tenant: Tenant, said: Spellings, place: str
    ) -> Tenant | None:
        """Count the version up, check and record a new tenant, by one statement of PostgreSQL.

        ``None``, and nothing is done: what it wants may not be free, or somebody else wrote while
        the statement waited for the version's row. Needs no transaction and no lock before it.
        """
        identifiers = list(check_identifiers(tenant))
        first = _first_values(tenant, place)
        values = {NEW + name: each for name, each in first.items()}
        named = {"identifiers": identifiers} if identifiers else {}
        found = connection.execute(
            self._owners.addition(tenant.placement.isolation is Isolation.ROWS, bool(named)),
            {**_wanted(tenant, said), **values, **named},
        )
        row = found.first()
        if row is None:
            return None
        recorded = {**first, "generation": row.generation, "attributes": row.attributes}
        return _tenant(recorded, list(enumerate(identifiers)))

    def update(self, connection: Connection, tenant: Tenant, place: str) -> Tenant:
        """Record a change, and return the tenant as it will be read."""
        tenants = self._tables.tenants
        connection.execute(
            update(tenants).where(tenants.c.id == tenant.id).values(**_values(tenant, place))
        )
        self._forget_identifiers(connection, tenant)
        self._add_identifiers(connection, tenant)
        return self._again(connection, tenant)

    def bury(self, connection: Connection, tenant: Tenant) -> None:
        """Forget a tenant, all but its key and generation."""
        tenants, tombstones = self._tables.tenants, self._tables.tombstones
        self._forget_identifiers(connection, tenant)
        connection.execute(delete(tenants).where(tenants.c.id == tenant.id))
        connection.execute(
            insert(tombstones).values(
                key=tenant.key, id=tenant.id, generation=tenant.generation, removed_at=_now()
            )
        )

    def _add_identifiers(self, connection: Connection, tenant: Tenant) -> Sequence[str]:
        identifiers = check_identifiers(tenant)
        rows = [
            {"identifier": identifier, "tenant_id": tenant.id, "position": position}
            for position, identifier in enumerate(identifiers)
        ]
        if rows:
            connection.execute(insert(self._tables.identifiers), rows)
        return list(identifiers)

    def _again(self, connection: Connection, tenant: Tenant) -> Tenant:
        recorded = self.get(connection, tenant.id)
        assert recorded is not None
        return recorded

    def _forget_identifiers(self, connection: Connection, tenant: Tenant) -> None:
        identifiers = self._tables.identifiers
        connection.execute(delete(identifiers).where(identifiers.c.tenant_id == tenant.id))

    def _select(self) -> Any:
        tenants, identifiers = self._tables.tenants, self._tables.identifiers
        joined = tenants.outerjoin(identifiers, identifiers.c.tenant_id == tenants.c.id)
        columns = [*tenants.c, identifiers.c.identifier, identifiers.c.position]
        return select(*columns).select_from(joined)


def digest(*parts: str | None) -> str:
    """A short name for a place, for its own name may be longer than a key can be."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def taken(tenant: Tenant, what: str, owner: str | None = None) -> DuplicatePlacementError:
    """The error for what another tenant has already."""
    whose = f"tenant {owner!r}" if owner else "another tenant"
    return DuplicatePlacementError(
        f"tenant {tenant.id!r} cannot be recorded: {what} is taken by {whose}; choose another",
        tenant_id=tenant.id,
    )


def _no_version() -> DirectoryUnavailableError:
    return DirectoryUnavailableError(
        "the tenant directory has no version yet; call create_tables() once"
    )


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(tzinfo=None)


def _wanted(tenant: Tenant, said: Spellings) -> dict[str, Any]:
    """What the owners' query asks for."""
    return {
        "who": tenant.id,
        "whose_key": tenant.key,
        "names": [tenant.id, *check_identifiers(tenant)],
        "places": [digest(*each) for each in dict.fromkeys(said.places)],
        "databases": said.databases,
        "servers": said.servers,
        "own": said.own,
        "crowd": said.crowd,
    }


def _first_values(tenant: Tenant, place: str) -> dict[str, Any]:
    return {
        "id": tenant.id,
        "key": tenant.key,
        "created_at": _now(),
        **_values(tenant, place),
    }


def _values(tenant: Tenant, place: str) -> dict[str, Any]:
    placement = tenant.placement
    attributes = dict(tenant.attributes)
    try:
        json.dumps(attributes, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ConfigurationError(
            f"tenant {tenant.id!r} has attributes that JSON cannot hold; use texts and numbers",
            tenant_id=tenant.id,
        ) from None
    return {
        "generation": tenant.generation,
        "state": tenant.state.value,
        "server": placement.server,
        "isolation": placement.isolation.value,
        "database": placement.database,
        "schema": placement.schema,
        "switch": placement.switch.value if placement.switch else None,
        "role": placement.role,
        "place": place,
        "sole_place": None if placement.isolation is Isolation.ROWS else place,
        "untrusted_sql": tenant.untrusted_sql,
        "attributes": attributes,
        "updated_at": _now(),
    }


def _tenants(rows: Iterable[Any]) -> list[Tenant]:
    """Tenants from rows that hold one identifier each, ordered by id byte for byte."""
    found: dict[str, tuple[Any, list[tuple[int, str]]]] = {}
    for row in rows:
        _, identifiers = found.setdefault(row["id"], (row, []))
        if row["identifier"] is not None:
            identifiers.append((row["position"], row["identifier"]))
    return [_tenant(*found[tenant_id]) for tenant_id in sorted(found)]


def _tenant(row: Any, identifiers: list[tuple[int, str]]) -> Tenant:
    return Tenant(
        row["id"],
        Placement(
            row["server"],
            Isolation(row["isolation"]),
            row["database"],
            row["schema"],
            row["switch"],
            row["role"],
        ),
        state=State(row["state"]),
        attributes=row["attributes"] or {},
        key=row["key"],
        generation=row["generation"],
        identifiers=tuple(identifier for _, identifier in sorted(identifiers)),
        untrusted_sql=bool(row["untrusted_sql"]),
    )
