"""Every way in which a tenant's place, and the database around it, may have been recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..servers import Server
from ..tenant import Isolation, Placement, Tenant
from .base import USUAL_SCHEMAS, clash, database_of, place_of, server_of

__all__ = ["Spellings", "spellings"]

Pair = tuple["str | None", "str | None"]


@dataclass(frozen=True)
class Spellings:
    """What to look for.

    *places* are (server, database, schema), the tenant's own words first. *databases* name the
    database around it on *servers*; on *own* the name may be left out. *crowd* are isolations of
    tenants that may not be in it beside this one.
    """

    places: list[tuple[str, str | None, str | None]]
    databases: list[str]
    servers: list[str]
    own: list[str]
    crowd: list[str]


def spellings(tenant: Tenant, servers: Mapping[str, Server] | None) -> Spellings:
    """Of a tenant's place; without *servers* nothing is known but its own words.

    Raises:
        ConfigurationError: Its server is not among *servers*.
    """
    place = tenant.placement
    said = (place.server, place.database, place.schema)
    if servers is None:
        crowd = _crowd(place.isolation, None)
        if place.database is None:
            return Spellings([said], [], [], [place.server], crowd)
        return Spellings([said], [place.database], [place.server], [], crowd)
    server = server_of(tenant, servers)
    around = database_of(place, server)
    same = {name: each for name, each in servers.items() if each.kind == server.kind}
    if server.kind == "mysql":
        places = [
            (name, *pair) for name, each in same.items() for pair in _of_mysql(around[2], each)
        ]
        places = [each for each in places if _around(each, servers) == around]
        return Spellings([said, *places], [], [], [], [])
    if server.kind == "sqlite":
        file = place.database or (f"{place.schema}.db" if place.schema else None)
        pairs = list(_of_sqlite(place, file))
        places = [(name, *pair) for name in same for pair in pairs]
        places = [each for each in places if _around(each, servers) == around]
        databases, own = [file] if file else [], []
    else:
        places = [(name, *pair) for name, each in same.items() for pair in _of_schemas(place, each)]
        here = place_of(place, server)
        places = [each for each in places if _place(place, each, servers) == here]
        database = place.database or server.url.database
        databases = [database] if database else []
        own = [name for name in same if _around((name, None, None), servers) == around]
    named = [
        name
        for name in same
        for each in databases
        if _around((name, each, None), servers) == around
    ]
    return Spellings([said, *places], databases, named, own, _crowd(place.isolation, server.kind))


def _crowd(isolation: Isolation, kind: str | None) -> list[str]:
    return [each.value for each in Isolation if clash(isolation, each, kind)]


def _around(
    said: tuple[str, str | None, str | None], servers: Mapping[str, Server]
) -> tuple[str, ...]:
    name, database, schema = said
    return database_of(Placement(name, database=database, schema=schema), servers[name])


def _place(
    place: Placement, said: tuple[str, str | None, str | None], servers: Mapping[str, Server]
) -> tuple[str, ...]:
    name, database, schema = said
    # Only `rows` tenants may leave the schema out.
    isolation = Isolation.ROWS if place.isolation is not Isolation.DATABASE else place.isolation
    same = Placement(name, isolation, database, schema)
    return place_of(same, servers[name])


def _of_schemas(place: Placement, server: Server) -> Iterator[Pair]:
    schemas = {place.schema}
    usual = USUAL_SCHEMAS.get(server.kind)
    if place.isolation is not Isolation.DATABASE and place.schema in (None, usual):
        schemas = {None, usual}
    for database in dict.fromkeys((place.database, server.url.database, None)):
        yield from ((database, schema) for schema in schemas)


def _of_mysql(name: str, server: Server) -> Iterator[Pair]:
    """A schema is a database: either word names it."""
    for own in (None, server.url.database):
        yield from ((own, None), (own, name))
    yield name, None


def _of_sqlite(place: Placement, file: str | None) -> Iterator[Pair]:
    """A schema is a file; if none is said, the one of its name."""
    yield place.database, place.schema
    if file is not None:
        yield file, None
        if file.endswith(".db"):
            yield None, file[:-3]
