"""A Citus: every statement for it, and on a PostgreSQL what each of its transactions begins with.

No Citus is promised anywhere; ``TENANTRY_TEST_CITUS_URL`` has the behaviour suite run on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    select,
    text,
)
from sqlalchemy.orm import Session

from tenantry import Isolation, Placement, Server, Tenancy, Tenant
from tenantry.backends import Citus, backend_of
from tenantry.backends.places import places_of
from tenantry.directory import MappingDirectory, from_mapping
from tenantry.errors import ConfigurationError
from tenantry.isolation import distribution_statements, rows_metadata
from tenantry.testing.address import ServerAddress
from tests.backends.support import target, tenant
from tests.places import CITUS_KINDS, Author, Door, Kind, Note, Place, citus_address, made

citus = Server.from_url("main", "postgresql+psycopg://app@db/app", citus=True)


def test_a_server_says_that_it_is_a_citus() -> None:
    assert isinstance(backend_of(citus), Citus)
    url = "postgresql://app@db/app"
    settings = {"servers": {"main": {"url": url, "citus": True, "admin_url": url}}, "tenants": {}}
    server = from_mapping(settings).servers["main"]
    assert server.citus
    assert server.admin is not None
    assert server.admin.citus
    assert not Server.from_url("main", url).citus
    with pytest.raises(ConfigurationError, match="no Citus"):
        Server.from_url("main", "mysql://app@db/app", citus=True)


def test_a_schema_is_distributed_when_it_is_made() -> None:
    places = places_of(backend_of(citus))
    assert list(places.create_schema("acme", owner="app")) == [
        'CREATE SCHEMA "acme" AUTHORIZATION "app"',
        "SELECT pg_catalog.citus_schema_distribute('\"acme\"')",
    ]
    assert places.create_schema("a'b\"c")[1].endswith("""('"a''b""c"')""")
    plain = places_of(backend_of(replace(citus, citus=False)))
    assert list(plain.create_schema("acme")) == ['CREATE SCHEMA "acme"']


def test_tables_are_spread_by_tenant_and_shared_ones_are_everywhere() -> None:
    metadata = MetaData()

    def table(name: str, *more: Column[int], shared: bool = False) -> None:
        own = Column("tenant_id", String(48), info={"tenantry": "tenant"})
        info = {"tenantry": "shared"} if shared else {}
        columns = [Column("id", Integer, primary_key=True), *more]
        Table(name, metadata, *columns, *([] if shared else [own]), info=info)

    table("a_lines", Column("order_id", ForeignKey("orders.id")))
    table("orders", Column("country_id", ForeignKey("z_countries.id")))
    table("z_countries", shared=True)
    unless = (
        " WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_dist_partition "
        "WHERE logicalrelid = {0}::pg_catalog.regclass)"
    )
    # What is referred to comes first.
    names = ['\'"shop"."z_countries"\'', '\'"shop"."orders"\'', '\'"shop"."a_lines"\'']
    assert distribution_statements(rows_metadata(metadata), schema="shop") == [
        f"SELECT pg_catalog.create_reference_table({names[0]})" + unless.format(names[0]),
        *(
            f"SELECT pg_catalog.create_distributed_table({name}, 'tenant_id')" + unless.format(name)
            for name in names[1:]
        ),
    ]


def test_workers_are_told_who_the_tenant_is_and_a_session_is_refused() -> None:
    rows = target(citus, tenant(isolation="rows"))
    assert rows.arm == (
        "SET LOCAL citus.propagate_set_commands TO 'local'; "
        "SET LOCAL search_path TO \"public\", pg_temp; SET LOCAL tenantry.tenant TO 'k1'"
    )
    assert "RAISE" in str(rows.arm_session)
    schema = target(citus, tenant(schema="acme"))
    plain = target(replace(citus, citus=False), tenant(schema="acme"))
    assert (schema.arm, schema.arm_session) == (plain.arm, plain.arm_session)


def test_the_place_kind_is_there_with_an_address_only() -> None:
    assert citus_address({}) is None
    address = citus_address({"TENANTRY_TEST_CITUS_URL": "postgresql://me:secret@co:5433/shop"})
    assert address is not None
    assert (address.host, address.port, address.user) == ("co", 5433, "me")
    assert {str(kind) for kind in CITUS_KINDS} == {
        "citus-psycopg-schema",
        "citus-asyncpg-async-schema",
        "citus-psycopg-rows",
        "citus-asyncpg-async-rows",
    }


@pytest.fixture(scope="module")
def place(postgresql: ServerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    kind = Kind("postgresql", "psycopg", isolation=Isolation.ROWS)
    with made(kind, tmp_path_factory.mktemp("citus"), postgresql) as place:
        place.create_shared_tables()
        yield place


def write(name: str, session: Session) -> None:
    session.add(Author(name=name))


def test_a_transaction_begins_so_and_a_session_answers_in_words(place: Place) -> None:
    """On a plain PostgreSQL: it knows nothing of that setting, and takes it as anybody's."""
    servers = {"main": place.server(citus=True)}
    tenants = [Tenant(name, Placement("main", Isolation.ROWS)) for name in ("uk", "aus")]
    tenancy = Tenancy(MappingDirectory(tenants, servers=servers), servers)
    door = Door(tenancy, False)
    told = text("SELECT current_setting('citus.propagate_set_commands', true)")
    for name in ("uk", "aus"):
        door.run(name, partial(write, name))
        seen = door.run(name, lambda session: session.scalars(select(Author.name)).all())
        assert seen == [name]
        assert door.run(name, lambda session: session.scalar(told)) == "local"
    with tenancy.use("uk"):
        with tenancy.engine.connect() as connection:
            alone = connection.execution_options(isolation_level="AUTOCOMMIT")
            with pytest.raises(Exception, match="do not reach the workers of a Citus"):
                alone.execute(select(Note.id))
        with pytest.raises(Exception, match="do not reach the workers of a Citus"):
            tenancy.engine.raw_connection()
    assert door.run("aus", lambda session: session.scalars(select(Author.name)).all()) == ["aus"]
    tenancy.close()
