"""A warm pool: places that are built and verified before anybody asks for them.

Where a tenant lives is data, so to give a spare to a new tenant nothing is renamed or copied:
the directory records it there, and its rule that no two tenants share a place decides between
two sign-ups.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from ..backends import SQLite, backend_of
from ..backends.places import places_of
from ..errors import ConfigurationError, DuplicatePlacementError, TenantryError
from ..servers import Server
from ..tenant import Isolation, Placement, State, Tenant
from .access import Access, Place
from .blueprint import Blueprints
from .places import drop_place, names_on
from .provision import authority, is_durable
from .runner import Outcome, attempt
from .status import standings

if TYPE_CHECKING:
    from ..tenancy import Tenancy

__all__ = ["claim", "fill_spares", "spares"]

PREFIX = "spare_"


def spares(tenancy: Tenancy, access: Access, server: Server, isolation: Isolation) -> list[Place]:
    """The spares on *server* that nobody has, of any revision."""
    taken = {
        (tenant.placement.database, tenant.placement.schema)
        for tenant in authority(tenancy).tenants()
        if (tenant.placement.schema or tenant.placement.database or "").startswith(PREFIX)
    }
    free = []
    for name in _names(access, server, isolation):
        placement = _placement(server, isolation, name)
        if (placement.database, placement.schema) not in taken:
            free.append(Place(server, placement))
    return free


def fill_spares(
    tenancy: Tenancy,
    blueprints: Blueprints,
    *,
    server: str,
    isolation: Isolation | str = Isolation.DATABASE,
    count: int,
) -> list[Outcome]:
    """Have *count* spares of the newest revision on *server*; older ones are dropped.

    Raises:
        ConfigurationError: There is no such server.
    """
    access = blueprints.access
    where = _server(tenancy, server)
    kind = Isolation(isolation)
    outcomes = []
    ready, stale = _sorted(tenancy, blueprints, where, kind)
    for place in stale:
        began = time.perf_counter()
        drop_place(access, place)
        blueprints.spares.pop((server, kind), None)
        outcomes.append(Outcome(_name(place), "done", time.perf_counter() - began, "dropped"))
    names = [f"{PREFIX}{secrets.token_hex(6)}" for _ in range(count - len(ready))]
    places = [Place(where, _placement(where, kind, _physical(where, name))) for name in names]
    # Several databases are copies of one, which is the quickest way to have them on PostgreSQL.
    several = len(places) > 1
    with blueprints.template(places[0]) if several else nullcontext() as template:
        for name, place in zip(names, places, strict=True):

            def body(place: Place = place) -> Any:
                blueprints.make(place, template=template)
                blueprints.spares.setdefault((server, kind), []).append(_name(place))
                return "done", "made"

            outcomes.append(attempt(name, body))
    return outcomes


def claim(
    tenancy: Tenancy,
    blueprints: Blueprints,
    tenant_id: str,
    *,
    server: str,
    isolation: Isolation | str = Isolation.DATABASE,
    attributes: Mapping[str, Any] | None = None,
    identifiers: Sequence[str] = (),
) -> Tenant | None:
    """Give a ready spare to a new tenant; ``None``: there is none, create the tenant instead.

    Raises:
        ConfigurationError: There is no such server, or the directory does not last.
        DuplicatePlacementError: The id or an identifier is taken.
    """
    directory = authority(tenancy)
    if not is_durable(tenancy):
        raise ConfigurationError("only a directory that lasts, such as a TableDirectory, records")
    where, kind = _server(tenancy, server), Isolation(isolation)
    known = blueprints.spares.setdefault((server, kind), [])
    looked = False
    while True:
        try:
            name = known.pop()
        except IndexError:
            if looked:
                return None
            # Looked at and compared once; from then on a sign-up is one line in the directory.
            ready, _ = _sorted(tenancy, blueprints, where, kind)
            known += [_name(place) for place in ready]
            secrets.SystemRandom().shuffle(known)
            looked = True
            continue
        tenant = Tenant(
            tenant_id,
            _placement(where, kind, name),
            State.READY,
            attributes or {},
            identifiers=tuple(identifiers),
        )
        try:
            recorded: Tenant = tenancy.directory.add(tenant)  # type: ignore[attr-defined]
        except DuplicatePlacementError:
            if _is_known(directory, tenant):
                known.append(name)
                raise
            continue  # another sign-up was faster with this one
        return recorded


def _is_known(directory: Any, tenant: Tenant) -> bool:
    for name in (tenant.id, *tenant.identifiers):
        try:
            directory.find(name)
        except TenantryError:
            continue
        return True
    return False


def _sorted(
    tenancy: Tenancy, blueprints: Blueprints, server: Server, isolation: Isolation
) -> tuple[list[Place], list[Place]]:
    scripts = blueprints.scripts
    free = spares(tenancy, blueprints.access, server, isolation)
    wanted = scripts.heads(scripts.target(None))
    known = standings(blueprints.access, free, scripts.version_table)
    ready = [place for place in free if known[place.key].heads == wanted]
    return ready, [place for place in free if place not in ready]


def _names(access: Access, server: Server, isolation: Isolation) -> list[str]:
    if isolation is Isolation.DATABASE:
        found = names_on(access, server)
    else:
        query = places_of(backend_of(server)).list_schemas
        if query is None:
            return []
        with access.connect(server) as connection:
            found = [str(row[0]) for row in connection.execute(text(query))]
    return [name for name in found if name.startswith(PREFIX)]


def _placement(server: Server, isolation: Isolation, name: str) -> Placement:
    if isolation is Isolation.SCHEMA:
        return Placement(server.name, isolation, None, name)
    return Placement(server.name, isolation, name)


def _physical(server: Server, name: str) -> str:
    return f"{name}.db" if isinstance(backend_of(server), SQLite) else name


def _name(place: Place) -> str:
    return place.schema or place.database or ""


def _server(tenancy: Tenancy, name: str) -> Server:
    try:
        return tenancy.servers[name]
    except KeyError:
        known = ", ".join(sorted(tenancy.servers))
        raise ConfigurationError(f"there is no server {name!r}; configured: {known}") from None
