"""The tenants in tables of any database that SQLAlchemy knows."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from sqlalchemy.engine import Connection

from ..errors import DirectoryUnavailableError, DuplicatePlacementError, bare_errors
from ..naming import check_tenant_id, is_identifier, is_tenant_id
from ..servers import Server
from ..tenant import Tenant
from .base import lost, reset_after_fork, unknown
from .control import ControlDatabase, Where
from .records import Records, digest, taken
from .spellings import spellings
from .tables import Tables

__all__ = ["TableDirectory"]

T = TypeVar("T")


class TableDirectory:
    """Tenants in a table, which many processes read and change.

    *where* is a database URL, a :class:`~tenantry.Server` (its password is read at each new
    connection; *database* names another database there, for SQLite the file below its root), or
    an engine with a synchronous driver. The tables are *table_name* and, named after it, one for
    identifiers, one for the keys of removed tenants and one with a number that every change
    counts up, in *schema* (``None``: the connection's own). Call :meth:`create_tables` once.

    On PostgreSQL a new tenant is one statement; an engine that was given and listens to ``begin``
    is left its transaction.

    Give it *servers*, and it also refuses places that two servers' names make look different.
    Each question is a query: put a :class:`CachedDirectory` in front. Use it from any thread.

    Raises:
        ConfigurationError: *where* or *table_name* cannot be used.
        MissingDependencyError: The driver is not installed.
    """

    @bare_errors
    def __init__(
        self,
        where: Where,
        *,
        table_name: str = "tenantry_tenants",
        schema: str | None = None,
        database: str | None = None,
        servers: Mapping[str, Server] | None = None,
    ) -> None:
        self._records = Records(Tables(table_name, schema))
        self._servers = servers
        self._control = ControlDatabase(where, database=database)
        reset_after_fork(self)

    def create_tables(self) -> None:
        """Make the tables where they are missing; may be repeated, by several at once.

        Raises:
            DirectoryUnavailableError: The database does not answer or refuses.
        """
        for create in self._records.creations():
            try:
                self._control.write(create)
            except DirectoryUnavailableError:
                # Somebody else may have made it between our look and our CREATE: look again.
                self._control.write(create)

    def get(self, tenant_id: str) -> Tenant:
        """The tenant with this id, by one query; see :class:`Directory`."""
        found = None
        if is_tenant_id(tenant_id):
            found = self._control.read(lambda link: self._records.get(link, tenant_id))
        if found is None:
            raise unknown(tenant_id)
        return found

    def find(self, identifier: str) -> Tenant:
        """The tenant with this id or identifier, by one query; see :class:`Directory`."""
        found = None
        if is_identifier(identifier):
            found = self._control.read(lambda link: self._records.find(link, identifier))
        if found is None:
            raise unknown(identifier)
        return found

    def peek(self, tenant_id: str) -> Tenant | None:
        """Always ``None``: nothing is known without a query."""
        return None

    def tenants(self) -> list[Tenant]:
        """All tenants, ordered by id, by one query."""
        return self._control.read(self._records.all)

    def version(self) -> int:
        """A number that every change counts up, in the same transaction.

        Raises:
            DirectoryUnavailableError: The directory cannot be read.
        """
        return self._control.read(self._records.version)

    def next_generation(self, tenant_id: str) -> int:
        """See :class:`WritableDirectory`."""
        check_tenant_id(tenant_id)
        return self._control.read(lambda link: self._records.next_generation(link, tenant_id))

    def add(self, tenant: Tenant) -> Tenant:
        """Record a new tenant; see :class:`WritableDirectory`."""
        said = spellings(tenant, self._servers)
        place = digest(*said.places[0])
        given = tenant.key != tenant.id
        new = tenant if given else replace(tenant, key=str(uuid.uuid4()))

        def add(link: Connection) -> Tenant:
            generation = self._records.check_free(link, new, said, new=True)
            first = replace(new, generation=max(new.generation, generation))
            return self._records.insert(link, first, place)

        if given or not self._control.commits_alone:
            return self._write(new, add)
        added = self._control.at_once(
            lambda link: self._records.insert_if_free(link, new, said, place)
        )
        if added is not None:
            return added
        try:
            return self._write(new, add)
        except DuplicatePlacementError:
            # Taken by us? The answer to our statement may have been lost with its connection.
            # Nobody else has this key.
            added = self._control.read(lambda link: self._records.get(link, new.id))
            if added is None or added.key != new.key:
                raise
        return added

    def replace(self, tenant: Tenant, *, expected: Tenant) -> Tenant:
        """Record a change; see :class:`WritableDirectory`."""
        said = spellings(tenant, self._servers)

        def change(link: Connection) -> Tenant:
            before = self._records.get(link, expected.id)
            if before is None or before != expected or tenant.id != expected.id:
                raise lost(expected)
            moved = tenant.placement != before.placement
            generation = before.generation + moved
            new = replace(tenant, key=before.key, generation=max(tenant.generation, generation))
            # Who stays is let be: whatever was recorded once can be suspended and deleted.
            self._records.check_free(link, new, said if moved else replace(said, crowd=[]))
            return self._records.update(link, new, digest(*said.places[0]))

        return self._write(tenant, change)

    def remove(self, tenant: Tenant) -> None:
        """Forget a tenant; see :class:`WritableDirectory`. Its key stays in the tombstones."""

        def forget(link: Connection) -> None:
            before = self._records.get(link, tenant.id)
            if before is None or before.key != tenant.key:
                raise lost(tenant)
            self._records.bury(link, before)

        self._write(tenant, forget)

    def close(self) -> None:
        """Close the connections; an engine that was given is left alone."""
        self._control.close()

    def after_fork(self) -> None:
        """Called in a forked child."""
        self._control.after_fork()

    def _write(self, tenant: Tenant, body: Callable[[Connection], T]) -> T:
        def write(link: Connection) -> T:
            self._records.count_up(link)
            return body(link)

        try:
            return self._control.write(write)
        except DirectoryUnavailableError as error:
            # Writers wait for each other, so only one that goes round us can get here.
            names = {each.__name__ for each in type(error.__cause__).__mro__}
            if "IntegrityError" not in names:
                raise
        raise taken(tenant, "the id, the key, an identifier or the place")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self._control!r}>"
