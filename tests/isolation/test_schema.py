"""Schemas on PostgreSQL: what is on the path, and what happens when it is not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import ProgrammingError

from tenantry import Isolation, Placement, Server, Tenancy, Tenant
from tenantry.directory import MappingDirectory
from tenantry.errors import ConfigurationError, PlacementMissingError, UnsupportedError
from tenantry.tenant import Switch
from tenantry.testing.address import ServerAddress
from tests.places import PASSWORD, Base, Door, Kind, Note, Place, made

DRIVERS = [
    Kind("postgresql", "psycopg", isolation=Isolation.SCHEMA),
    Kind("postgresql", "psycopg2", isolation=Isolation.SCHEMA),
    Kind("postgresql", "asyncpg", True, Isolation.SCHEMA),
]


@pytest.fixture(params=DRIVERS, ids=str, scope="module")
def place(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgresql: ServerAddress,
) -> Iterator[Place]:
    with made(request.param, tmp_path_factory.mktemp("schema"), postgresql) as place:
        yield place


def note(tenant_id: str) -> Note:
    return Note(id=1, tenant=tenant_id)


def test_the_path_is_the_tenants_schema_and_temporary_objects_last(place: Place) -> None:
    tenancy = place.tenancy("uk", tables=False)
    path = Door(tenancy, place.kind.is_async).run(
        "uk", lambda session: session.scalar(text("SELECT current_setting('search_path')"))
    )
    assert str(path).replace('"', "") == f"{tenancy.get('uk').placement.schema}, pg_temp"
    tenancy.close()


def test_a_schema_that_was_dropped_is_our_error_and_never_rows_of_public(place: Place) -> None:
    tenancy = place.tenancy("uk", "aus")
    door = Door(tenancy, place.kind.is_async)
    place.execute("CREATE TABLE IF NOT EXISTS public.notes (id int, tenant text, body text)")
    place.execute("INSERT INTO public.notes VALUES (1, 'public', '')")
    place.execute(f'GRANT USAGE ON SCHEMA public TO "{place.login}"')
    place.execute(f'GRANT SELECT ON public.notes TO "{place.login}"')
    door.run("uk", lambda session: session.add(note("uk")))
    place.execute(f'DROP SCHEMA "{tenancy.get("uk").placement.schema}" CASCADE')
    for _ in range(3):
        with pytest.raises(PlacementMissingError, match="of tenant 'uk' does not exist"):
            door.run("uk", lambda session: session.scalars(select(Note.tenant)).all())
        with pytest.raises(PlacementMissingError):
            door.run("uk", lambda session: session.execute(text("SELECT * FROM notes")).all())
    assert door.run("aus", lambda session: session.scalars(select(Note.tenant)).all()) == []
    place.execute("DROP TABLE public.notes")
    tenancy.close()


def test_a_table_that_was_dropped_is_the_servers_error(place: Place) -> None:
    tenancy = place.tenancy("uk")
    door = Door(tenancy, place.kind.is_async)
    schema = tenancy.get("uk").placement.schema
    place.execute(f'DROP TABLE "{schema}".notes')
    with pytest.raises(ProgrammingError):
        door.run("uk", lambda session: session.scalars(select(Note.tenant)).all())
    tenancy.close()


def test_a_shared_schema_is_seen_when_it_is_named(place: Place) -> None:
    place.execute("CREATE SCHEMA IF NOT EXISTS common")
    place.execute("CREATE TABLE IF NOT EXISTS common.plans (name text)")
    place.execute("TRUNCATE common.plans")
    place.execute("INSERT INTO common.plans VALUES ('gold')")
    place.execute(f'GRANT USAGE ON SCHEMA common TO "{place.login}"')
    place.execute(f'GRANT SELECT ON common.plans TO "{place.login}"')
    tenant = place.tenant("uk")
    servers = {"main": place.server(shared_schema="common")}
    tenancy = Tenancy(MappingDirectory([tenant], servers=servers), servers)
    door = Door(tenancy, place.kind.is_async)
    query = text("SELECT name FROM plans")
    assert door.run("uk", lambda session: session.scalars(query).all()) == ["gold"]
    tenancy.close()


def test_behind_a_pooler_the_logins_own_path_must_be_empty(
    place: Place, pgbouncer: ServerAddress
) -> None:
    tenant = place.tenant("uk")
    login = place.role("with_path")
    server = place.server()
    url = server.url.set(host=pgbouncer.host, port=pgbouncer.port, username=login)
    servers = {
        "main": Server.from_url("main", url, password=PASSWORD, async_driver=server.async_driver)
    }
    tenancy = Tenancy(MappingDirectory([tenant], servers=servers), servers)
    door = Door(tenancy, place.kind.is_async)
    with pytest.raises(ConfigurationError, match="search_path must be empty"):
        door.run("uk", lambda session: session.connection())
    tenancy.close()


def test_a_login_role_must_be_in_its_schema(place: Place) -> None:
    role = place.role("elsewhere")
    tenant = Tenant(
        "uk",
        Placement("main", "schema", schema="not_its_own", switch=Switch.ROLE, role=role),  # type: ignore[arg-type]
    )
    servers = {"main": place.server()}
    tenancy = Tenancy(MappingDirectory([tenant], servers=servers), servers)
    with pytest.raises(PlacementMissingError, match="is not in schema"):
        Door(tenancy, place.kind.is_async).run("uk", lambda session: session.connection())
    tenancy.close()


@pytest.mark.parametrize(
    ("isolation", "schema", "switch", "refused"),
    [
        (Isolation.SCHEMA, "s", None, True),
        (Isolation.SCHEMA, "s", Switch.MAP, True),
        (Isolation.SCHEMA, "s", Switch.CONNECT, True),
        (Isolation.SCHEMA, "s", Switch.ROLE, False),
        (Isolation.ROWS, None, None, True),
        (Isolation.DATABASE, None, None, False),
    ],
)
def test_sql_of_the_tenants_own_needs_an_own_database_or_role(
    isolation: Isolation, schema: str | None, switch: Switch | None, refused: bool
) -> None:
    from tenantry.isolation import target_for

    server = Server.from_url("main", "postgresql://app@127.0.0.1/app")
    placement = Placement("main", isolation, schema=schema, switch=switch, role="r")
    tenant = Tenant("uk", placement, untrusted_sql=True)
    if refused:
        with pytest.raises(UnsupportedError, match="untrusted_sql"):
            target_for(tenant, placement, server, "psycopg", False)
    else:
        target_for(tenant, placement, server, "psycopg", False)


def test_one_process_for_one_tenant(place: Place, tmp_path: Path) -> None:
    if place.kind.is_async:
        pytest.skip("nothing here depends on the door")
    tenancy = place.tenancy("uk", tables=False)
    with tenancy.use("uk"):
        tenancy.create_all(Base.metadata)
    alone = Tenancy(tenancy.directory, tenancy.servers)
    alone.pin("uk")
    with alone.session() as session:  # no block, and no other tenant for this process
        session.add(note("uk"))
        session.commit()
    with alone.engine.connect() as connection:
        assert connection.scalar(select(Note.tenant)) == "uk"
    alone.close()
    tenancy.close()
