"""Tenants that are known when the program starts: a mapping, the environment, a TOML file."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigurationError, DuplicatePlacementError, bare_errors
from ..naming import check_tenant_id, is_identifier
from ..servers import Server
from ..tenant import Isolation, Placement, Tenant
from .base import (
    check_identifiers,
    check_placements,
    clash,
    crowded,
    database_of,
    lost,
    place_of,
    reset_after_fork,
    server_of,
    unknown,
)
from .binds import read_mapping
from .environment import read_environment
from .file import read_file
from .settings import SettingError, Settings

__all__ = ["Loaded", "MappingDirectory", "from_env", "from_file", "from_mapping"]

_KEYS = uuid.UUID("6d4f9a0e-3c1b-5f52-9a57-1f0c3de0a8b7")


class MappingDirectory:
    """The tenants in memory. Changes hold for this process only, and until it ends.

    Give it *servers*, and it compares places by what is really there: two names of one machine
    are one machine, a schema of MySQL is a database, and a file stays below its server's root.

    Raises:
        DuplicatePlacementError: Two tenants share an id, an identifier or a place.
        ConfigurationError: A tenant's server is not among *servers*.
    """

    def __init__(
        self, tenants: Iterable[Tenant] = (), *, servers: Mapping[str, Server] | None = None
    ) -> None:
        self._servers = dict(servers) if servers is not None else None
        self._lock = threading.Lock()
        self._version = 0
        self._tenants: dict[str, Tenant] = {}
        self._identifiers: dict[str, str] = {}
        self._places: dict[tuple[str, ...], dict[str, Isolation]] = {}
        self._databases: dict[tuple[str, ...], dict[Isolation, set[str]]] = {}
        self._generations: dict[str, int] = {}
        self._keys: set[str] = set()
        given = list(tenants)
        if servers is not None:
            check_placements(given, servers)
        for tenant in given:
            # With rows isolation the key stands in the rows, wherever they are moved.
            if tenant.key == tenant.id and tenant.placement.isolation is not Isolation.ROWS:
                place = json.dumps([tenant.id, *self._place(tenant)])
                tenant = replace(tenant, key=str(uuid.uuid5(_KEYS, place)))
            self._check_free(tenant)
            self._put(tenant)
        reset_after_fork(self)

    def get(self, tenant_id: str) -> Tenant:
        """The tenant with this id; see :class:`Directory`."""
        if type(tenant_id) is str and (tenant := self._tenants.get(tenant_id)) is not None:
            return tenant
        raise unknown(tenant_id)

    def find(self, identifier: str) -> Tenant:
        """The tenant with this id or identifier; see :class:`Directory`."""
        if is_identifier(identifier):
            tenant_id = self._identifiers.get(identifier, identifier)
            if (tenant := self._tenants.get(tenant_id)) is not None:
                return tenant
        raise unknown(identifier)

    def peek(self, tenant_id: str) -> Tenant | None:
        """The tenant with this id, or ``None``: it is always known without I/O."""
        return self._tenants.get(tenant_id) if type(tenant_id) is str else None

    def tenants(self) -> list[Tenant]:
        """All tenants, ordered by id."""
        with self._lock:
            return sorted(self._tenants.values(), key=lambda tenant: tenant.id)

    def version(self) -> int:
        """A number that every change counts up."""
        return self._version

    def next_generation(self, tenant_id: str) -> int:
        """See :class:`WritableDirectory`."""
        return self._generations.get(check_tenant_id(tenant_id), 0) + 1

    def add(self, tenant: Tenant) -> Tenant:
        """Record a new tenant; see :class:`WritableDirectory`."""
        with self._lock:
            if tenant.key == tenant.id:
                tenant = replace(tenant, key=str(uuid.uuid4()))
            generation = self._generations.get(tenant.id, 0) + 1
            if tenant.generation < generation:
                tenant = replace(tenant, generation=generation)
            self._check_free(tenant)
            self._put(tenant)
            return tenant

    def replace(self, tenant: Tenant, *, expected: Tenant) -> Tenant:
        """Record a change; see :class:`WritableDirectory`."""
        with self._lock:
            before = self._tenants.get(expected.id)
            if before is None or before != expected or tenant.id != expected.id:
                raise lost(expected)
            generation = before.generation + (tenant.placement != before.placement)
            tenant = replace(tenant, key=before.key, generation=max(tenant.generation, generation))
            self._check_free(tenant)
            self._take(before, keep=tenant.identifiers)
            self._put(tenant)
            return tenant

    def remove(self, tenant: Tenant) -> None:
        """Forget a tenant; see :class:`WritableDirectory`."""
        with self._lock:
            before = self._tenants.get(tenant.id)
            if before is None or before.key != tenant.key:
                raise lost(tenant)
            self._take(before)
            del self._tenants[tenant.id]
            self._version += 1

    def after_fork(self) -> None:
        """Called in a forked child."""
        self._lock = threading.Lock()

    def _place(self, tenant: Tenant) -> tuple[str, ...]:
        place = tenant.placement
        if self._servers is not None:
            return place_of(place, server_of(tenant, self._servers))
        return (place.server, place.database or "", place.schema or "")

    def _database(self, tenant: Tenant) -> tuple[tuple[str, ...], str | None]:
        """The database that the tenant is in, and its kind, if that is known."""
        place = tenant.placement
        if self._servers is None:
            return (place.server, place.database or ""), None
        server = server_of(tenant, self._servers)
        return database_of(place, server), server.kind

    def _check_free(self, tenant: Tenant) -> None:
        other = self._tenants.get(tenant.id)
        if other is not None and other.key != tenant.key:
            raise _taken(tenant, "the id", tenant.id)
        if other is None and tenant.key in self._keys:
            raise _taken(tenant, "the key", tenant.id)
        for name in (tenant.id, *check_identifiers(tenant)):
            owner = self._identifiers.get(name, name)
            if owner != tenant.id and owner in self._tenants:
                raise _taken(tenant, f"the identifier {name!r}", owner)
        here = self._places.get(self._place(tenant), {})
        rows = tenant.placement.isolation is Isolation.ROWS
        for owner, isolation in here.items():
            if owner != tenant.id and not (rows and isolation is Isolation.ROWS):
                raise _taken(tenant, f"the place {tenant.placement}", owner)
        database, kind = self._database(tenant)
        for isolation, owners in self._databases.get(database, {}).items():
            others = owners - {tenant.id}
            if others and clash(tenant.placement.isolation, isolation, kind):
                raise crowded(tenant, min(others))

    def _put(self, tenant: Tenant) -> None:
        place = self._places.setdefault(self._place(tenant), {})
        place[tenant.id] = tenant.placement.isolation
        database = self._databases.setdefault(self._database(tenant)[0], {})
        database.setdefault(tenant.placement.isolation, set()).add(tenant.id)
        for name in check_identifiers(tenant):
            self._identifiers[name] = tenant.id
        self._generations[tenant.id] = tenant.generation
        self._keys.add(tenant.key)
        self._tenants[tenant.id] = tenant
        self._version += 1

    def _take(self, tenant: Tenant, *, keep: tuple[str, ...] = ()) -> None:
        # What stays is never taken out in between: readers ask for no lock.
        self._places[self._place(tenant)].pop(tenant.id, None)
        for ids in self._databases[self._database(tenant)[0]].values():
            ids.discard(tenant.id)
        for name in tenant.identifiers:
            if name not in keep:
                self._identifiers.pop(name, None)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._tenants)} tenants>"


class Loaded(NamedTuple):
    """What a loader found. *shared* is where what belongs to no tenant lives, if that was said."""

    directory: MappingDirectory
    servers: dict[str, Server]
    shared: Placement | None


@bare_errors
def from_mapping(mapping: Mapping[Any, Any], *, folder: str | Path | None = None) -> Loaded:
    """Tenants from a mapping of ids to URLs, or from the nested form of the TOML file.

    A value is a URL (text or SQLAlchemy's), or a mapping with a ``url``; what is said as
    ``SQLALCHEMY_BINDS`` fits. URLs that differ in the database only become one server. An entry
    ``shared`` says where what belongs to no tenant lives. Relative SQLite paths are below
    *folder*; ``None`` means the current one.

    Raises:
        ConfigurationError: An entry is wrong; names it, and never shows a URL.
        DuplicatePlacementError: Two tenants are in one place.
    """
    try:
        return _load(read_mapping(mapping, Path(folder or ".")))
    except SettingError as error:
        raise ConfigurationError(str(error)) from None


@bare_errors
def from_env(prefix: str = "DB_", environ: Mapping[str, str] = os.environ) -> Loaded:
    """Tenants from environment variables: ``DB_UK_HOST`` and ``DB_UK_PASS`` make tenant ``uk``.

    Optional are ``_USER`` (``superset``), ``_DB`` (``postgres``; on other servers than PostgreSQL
    the tenant's id), ``_PORT``, ``_DRIVER`` (``postgresql``), ``_ISOLATION`` and ``_SCHEMA``.
    ``_URL`` takes the place of host, user, database, port and driver, and needs no password
    beside it. Empty means not set. Passwords are read from *environ* at each new connection.

    Raises:
        MissingVariableError: A tenant has one required variable but not the other; names it.
        ConfigurationError: A variable's value is wrong; names the variable.
        DuplicatePlacementError: Two tenants are in one place.
    """
    return _load(read_environment(prefix, environ))


@bare_errors
def from_file(path: str | Path) -> Loaded:
    """Tenants and servers from a TOML file. Relative paths in it are below its own folder.

    Raises:
        DirectoryFileError: It cannot be read or understood; names the line and the key.
        DuplicatePlacementError: Two tenants are in one place.
    """
    return _load(read_file(Path(path)))


def _load(settings: Settings) -> Loaded:
    directory = MappingDirectory(settings.tenants, servers=settings.servers)
    if settings.shared is not None:
        place = place_of(settings.shared, settings.servers[settings.shared.server])
        for tenant in settings.tenants:
            alone = tenant.placement.isolation is not Isolation.ROWS
            if alone and place_of(tenant.placement, server_of(tenant, settings.servers)) == place:
                raise DuplicatePlacementError(
                    f"tenant {tenant.id!r} is placed where [shared] is; give each its own place",
                    tenant_id=tenant.id,
                )
    return Loaded(directory, settings.servers, settings.shared)


def _taken(tenant: Tenant, what: str, owner: str) -> DuplicatePlacementError:
    return DuplicatePlacementError(
        f"tenant {tenant.id!r} cannot be recorded: {what} is taken by tenant {owner!r}; "
        "choose another",
        tenant_id=tenant.id,
    )
