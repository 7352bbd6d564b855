"""Oracle and SQL Server, where one is given by URL; nobody promises these servers.

``TENANTRY_TEST_ORACLE_URL`` (``oracle+oracledb://...?service_name=...``) and
``TENANTRY_TEST_MSSQL_URL`` (``mssql+pyodbc://.../db?driver=...``) are of an account that may
create users, schemas and tables. Without them these tests are skipped, also where ``CI`` is set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from sqlalchemy import URL, Connection, NullPool, create_engine, inspect, make_url, select, text
from sqlalchemy.orm import Session

from tenantry import Isolation, Placement, Server, Tenancy, Tenant
from tenantry.backends import backend_of
from tenantry.directory import MappingDirectory
from tenantry.errors import CrossTenantError
from tenantry.tenant import Switch
from tests.places import Author, Base, Note

VARIABLES = {"oracle": "TENANTRY_TEST_ORACLE_URL", "mssql": "TENANTRY_TEST_MSSQL_URL"}
BOTH = ("tenantry_test_uk", "tenantry_test_aus")


def given(kind: str) -> URL:
    address = os.environ.get(VARIABLES[kind])
    if not address:
        pytest.skip(f"no {kind} server is given; set {VARIABLES[kind]} to run this")
    return make_url(address)


def as_admin(url: URL) -> Connection:
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    return engine.connect()


@pytest.fixture(params=["oracle", "mssql"])
def tenancy(request: pytest.FixtureRequest) -> Iterator[Tenancy]:
    """Two tenants, each with a schema of its own that has the tables."""
    url = given(request.param)
    switch = Switch.MAP if request.param == "mssql" else Switch.PATH
    server = Server.from_url("main", url, switch=switch)
    backend = backend_of(server)
    tenants = [
        Tenant(name, Placement("main", Isolation.SCHEMA, schema=name), key=name) for name in BOTH
    ]
    servers = {"main": server}
    tenancy = Tenancy(MappingDirectory(tenants, servers=servers), servers, max_connections=1)
    with as_admin(url) as admin:
        for name in BOTH:
            query, parameters = backend.schema_exists(name)
            if admin.execute(text(query), parameters).first() is None:
                for statement in backend.create_schema(name):
                    admin.exec_driver_sql(statement)
    try:
        for name in BOTH:
            with tenancy.use(name), tenancy.session() as session:
                Base.metadata.create_all(session.connection())
                session.add(Note(id=1, tenant=name, author=Author(id=1, name=name)))
                session.commit()
        yield tenancy
    finally:
        for name in BOTH:
            with tenancy.use(name), tenancy.session() as session:
                Base.metadata.drop_all(session.connection())
                session.commit()
        tenancy.close()
        with as_admin(url) as admin:
            for name in BOTH:
                for statement in backend.drop_schema(name):
                    admin.exec_driver_sql(statement)


def seen(session: Session) -> set[str]:
    names = set(session.scalars(select(Note.tenant)))
    session.commit()
    names |= set(session.scalars(select(Note.tenant)))
    session.rollback()
    note = session.get(Note, 1)
    assert note is not None
    assert note.author is not None
    names |= {note.tenant, note.author.name}
    return names


def test_one_connection_serves_two_schemas_by_turns(tenancy: Tenancy) -> None:
    for name in (*BOTH, *BOTH):
        with tenancy.use(name), tenancy.session() as session:
            assert seen(session) == {name}


def test_tables_are_reflected_from_the_tenants_schema(tenancy: Tenancy) -> None:
    for name in BOTH:
        with tenancy.use(name), tenancy.session() as session:
            assert set(inspect(session.connection()).get_table_names()) == {"authors", "notes"}


def test_text_reads_the_tenants_schema_where_connections_are_pointed(tenancy: Tenancy) -> None:
    if tenancy.servers["main"].kind != "oracle":
        pytest.skip("a translate map does not reach text; there is no path on SQL Server")
    for name in (*BOTH, *BOTH):
        with tenancy.use(name), tenancy.session() as session:
            assert set(session.scalars(text("SELECT tenant FROM notes"))) == {name}
            session.execute(text("ALTER SESSION SET NLS_DATE_FORMAT = 'YYYY'"))


def test_a_session_is_not_used_under_another_tenant(tenancy: Tenancy) -> None:
    session = tenancy.session(BOTH[0])
    with session, tenancy.use(BOTH[1]), pytest.raises(CrossTenantError):
        session.scalars(select(Note.tenant)).all()


def test_rows_the_session_context_is_the_tenants_and_cannot_be_changed() -> None:
    url = given("mssql")
    servers = {"main": Server.from_url("main", url)}
    tenants = [Tenant(name, Placement("main", Isolation.ROWS), key=name) for name in BOTH]
    tenancy = Tenancy(MappingDirectory(tenants, servers=servers), servers, max_connections=1)
    read = text("SELECT CAST(SESSION_CONTEXT(N'tenantry.tenant') AS nvarchar(128))")
    for name in (*BOTH, *BOTH):
        with tenancy.use(name), tenancy.engine.connect() as connection:
            assert connection.scalar(read.execution_options(tenantry_filtered=True)) == name
    tenancy.close()
