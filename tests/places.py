"""Where the tenants of a test live: every server and driver that routing is promised for.

A :class:`Place` makes databases for tenants on one real server. Test bodies are written once,
as plain functions of a synchronous session; :class:`Door` runs them through a session for
threads or one for asyncio.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, ForeignKey, MetaData, String, create_engine, make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from tenantry import Isolation, Placement, Server, Tenancy, Tenant
from tenantry.backends import backend_of
from tenantry.backends.places import places_of
from tenantry.directory import MappingDirectory
from tenantry.isolation.policies import (
    distribution_statements,
    policy_statements,
    rows_metadata,
)
from tenantry.orm import TenantRows
from tenantry.tenant import Switch
from tenantry.testing.address import ServerAddress

T = TypeVar("T")

PASSWORD = "password-of-test-roles"

# Several workers share one server, so names carry the process.
_numbers = (f"{os.getpid():x}x{number}" for number in itertools.count(1))


class Base(DeclarativeBase):
    metadata = MetaData()


class Author(TenantRows, Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80))
    notes: Mapped[list[Note]] = relationship(back_populates="author")


class Note(TenantRows, Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(String(80))
    body: Mapped[str] = mapped_column(String(200), default="")
    author_id: Mapped[int | None] = mapped_column(ForeignKey("authors.id"))
    author: Mapped[Author | None] = relationship(back_populates="notes")


@dataclass(frozen=True)
class Kind:
    """A kind of place: *server* as in the fixtures, driver, asyncio or threads, isolation."""

    server: str
    driver: str
    is_async: bool = False
    isolation: Isolation = Isolation.DATABASE
    switch: Switch | None = None
    pooled: bool = False
    citus: bool = False

    def __str__(self) -> str:
        words = ["citus" if self.citus else self.server, self.driver]
        if self.is_async:
            words.append("async")
        if self.isolation is not Isolation.DATABASE:
            words.append(self.isolation.value)
        if self.switch is not None:
            words.append(self.switch.value)
        if self.pooled:
            words.append("pgbouncer")
        return "-".join(words)


KINDS = [
    Kind("sqlite", "pysqlite"),
    Kind("sqlite", "aiosqlite", True),
    Kind("postgresql", "psycopg"),
    Kind("postgresql", "psycopg2"),
    Kind("postgresql", "psycopg", True),
    Kind("postgresql", "asyncpg", True),
    Kind("mariadb", "pymysql"),
    Kind("mariadb", "aiomysql", True),
    Kind("postgresql", "psycopg", isolation=Isolation.SCHEMA),
    Kind("postgresql", "psycopg2", isolation=Isolation.SCHEMA),
    Kind("postgresql", "psycopg", True, Isolation.SCHEMA),
    Kind("postgresql", "asyncpg", True, Isolation.SCHEMA),
    Kind("postgresql", "psycopg", isolation=Isolation.SCHEMA, switch=Switch.MAP),
    Kind("postgresql", "asyncpg", True, Isolation.SCHEMA, Switch.MAP),
    Kind("postgresql", "psycopg", isolation=Isolation.SCHEMA, switch=Switch.ROLE),
    Kind("postgresql", "asyncpg", True, Isolation.SCHEMA, Switch.ROLE),
    Kind("postgresql", "psycopg2", isolation=Isolation.SCHEMA, switch=Switch.CONNECT),
    Kind("postgresql", "asyncpg", True, Isolation.SCHEMA, Switch.CONNECT),
    Kind("postgresql", "psycopg", isolation=Isolation.ROWS),
    Kind("postgresql", "psycopg2", isolation=Isolation.ROWS),
    Kind("postgresql", "psycopg", True, Isolation.ROWS),
    Kind("postgresql", "asyncpg", True, Isolation.ROWS),
    Kind("postgresql", "psycopg", pooled=True),
    Kind("postgresql", "asyncpg", True, pooled=True),
    Kind("postgresql", "psycopg", isolation=Isolation.SCHEMA, pooled=True),
    Kind("postgresql", "psycopg2", isolation=Isolation.SCHEMA, pooled=True),
    Kind("postgresql", "asyncpg", True, Isolation.SCHEMA, pooled=True),
    Kind("postgresql", "psycopg", True, Isolation.ROWS, pooled=True),
    Kind("mariadb", "pymysql", isolation=Isolation.SCHEMA),
    Kind("sqlite", "pysqlite", isolation=Isolation.SCHEMA),
    Kind("sqlite", "aiosqlite", True, Isolation.SCHEMA),
]

#: The coordinator of a Citus, given by address: nobody promises one.
CITUS_VARIABLE = "TENANTRY_TEST_CITUS_URL"
CITUS_KINDS = [
    Kind("postgresql", driver, is_async, isolation, citus=True)
    for isolation in (Isolation.SCHEMA, Isolation.ROWS)
    for driver, is_async in (("psycopg", False), ("asyncpg", True))
]


def citus_address(environ: Mapping[str, str] = os.environ) -> ServerAddress | None:
    """The Citus that the environment names, if it does; everything is made in its database."""
    given = environ.get(CITUS_VARIABLE)
    if not given:
        return None
    url = make_url(given)
    return ServerAddress(
        url.host or "localhost",
        url.port or 5432,
        url.username or "postgres",
        str(url.password or ""),
        url.database or "postgres",
        "Citus",
        "postgresql+psycopg",
    )


@dataclass
class Place:
    """A real server on which tenants get places of their own; dropped at the end.

    With ``schema`` and ``rows`` isolation on PostgreSQL all share one database, in which the
    application's login owns nothing and finds nothing by itself.
    """

    kind: Kind
    folder: Path
    address: ServerAddress | None
    pooler: ServerAddress | None = None
    _made: list[str] = field(default_factory=list)
    _schemas: list[str] = field(default_factory=list)
    _roles: list[str] = field(default_factory=list)
    _shared_database: str | None = None
    _login: str | None = None

    def server(self, name: str = "main", **options: Any) -> Server:
        """The server of this place under another *name* or with further options."""
        if self.address is None:
            return Server.from_url(
                name, f"sqlite:///{self.folder}/", create_missing=True, **options
            )
        dialect = "postgresql" if self.kind.server == "postgresql" else "mysql"
        options.setdefault("async_driver", self.kind.driver if self.kind.is_async else None)
        drivername = dialect if self.kind.is_async else f"{dialect}+{self.kind.driver}"
        url = (self.pooler or self.address).url(drivername)
        if self._shares_database:
            url = url.set(database=self.shared_database, username=self.login, password=PASSWORD)
        options.setdefault("citus", self.kind.citus)
        return Server.from_url(name, url, **options)

    @property
    def _shares_database(self) -> bool:
        return self.kind.server == "postgresql" and self.kind.isolation is not Isolation.DATABASE

    @property
    def shared_database(self) -> str:
        """The one database of tenants with ``schema`` or ``rows`` isolation (PostgreSQL)."""
        if self.kind.citus:
            assert self.address is not None
            return self.address.database  # a new one would have no workers
        if self._shared_database is None:
            self._shared_database = self.database("shared")
            self.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        return self._shared_database

    @property
    def login(self) -> str:
        """The application's login in :attr:`shared_database`."""
        if self._login is None:
            self._login = self.role("app")
            if self.kind.pooled:
                self.execute(f"ALTER ROLE \"{self._login}\" SET search_path = ''")
        return self._login

    def role(self, label: str) -> str:
        """A new login role with the password of all test roles."""
        assert self.address is not None
        name = f"r{next(_numbers)}_{label}"
        self.address.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{PASSWORD}'")
        self._roles.append(name)
        return name

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement as the admin, in the shared database."""
        assert self.address is not None
        return self.address.execute(sql, self.shared_database)

    def tenant(self, tenant_id: str, **options: Any) -> Tenant:
        """A tenant with a new, empty place of its own."""
        if self.kind.isolation is Isolation.DATABASE:
            name = self.database(tenant_id)
            return Tenant(tenant_id, Placement("main", database=name), **options)
        if self.kind.isolation is Isolation.ROWS:
            database = None if self._shares_database else self.rows_database
            schema = self.rows_schema if self.kind.citus else None
            return Tenant(tenant_id, Placement("main", Isolation.ROWS, database, schema), **options)
        schema = f"s{next(_numbers)}_{tenant_id}"
        role = None
        if self.kind.server == "mariadb":
            schema = self.database(tenant_id)
        elif self.kind.server == "postgresql":
            owner = self.login
            if self.kind.switch is Switch.ROLE:
                role = owner = self.role(tenant_id)
            places = places_of(backend_of(self.server()))
            for statement in places.create_schema(schema, owner=owner):
                self.execute(statement)
            self._schemas.append(schema)
            if role is not None:
                self.execute(f'ALTER ROLE "{role}" SET search_path = "{schema}", pg_temp')
        placement = Placement(
            "main", Isolation.SCHEMA, schema=schema, switch=self.kind.switch, role=role
        )
        return Tenant(tenant_id, placement, **options)

    def database(self, label: str) -> str:
        """A new, empty database; for SQLite the name of a file that does not exist yet."""
        name = f"t{next(_numbers)}_{label}"
        if self.address is None:
            return f"{name}.db"
        quote = '"' if self.kind.server == "postgresql" else "`"
        self.address.execute(f"CREATE DATABASE {quote}{name}{quote}")
        self._made.append(name)
        return name

    def tenancy(self, *tenant_ids: str, tables: bool = True, **options: Any) -> Tenancy:
        """A Tenancy of new tenants, with the tables of :class:`Base` in each."""
        tenants = [self.tenant(each) for each in tenant_ids]
        servers = {"main": self.server()}
        tenancy = Tenancy(MappingDirectory(tenants, servers=servers), servers, **options)
        if tables and self.kind.isolation is Isolation.ROWS:
            self.create_shared_tables()
        elif tables:
            for each in tenant_ids:
                Door(tenancy, self.kind.is_async).run(
                    each, lambda session: Base.metadata.create_all(session.connection())
                )
        return tenancy

    @property
    def rows_schema(self) -> str:
        """Where the tables are whose rows tenants share (PostgreSQL)."""
        if not self.kind.citus:
            return "public"
        if not self._schemas:
            self._schemas.append(f"s{next(_numbers)}_rows")
            self.execute(f'CREATE SCHEMA "{self._schemas[0]}"')
        return self._schemas[0]

    @property
    def rows_database(self) -> str:
        """The one database (or file) of tenants with ``rows`` isolation, not on PostgreSQL."""
        if self._shared_database is None:
            self._shared_database = self.database("rows")
        return self._shared_database

    def admin_engine(self) -> Engine:
        """A plain engine on the shared database, of the account that owns its tables."""
        if self.address is None:
            return create_engine(f"sqlite:///{self.folder / self.rows_database}")
        name = self.shared_database if self._shares_database else self.rows_database
        return create_engine(self.address.url(database=name))

    def create_as_admin(self, metadata: MetaData) -> None:
        """The tables of *metadata* in the shared database."""
        engine = self.admin_engine()
        metadata.create_all(engine)
        engine.dispose()

    def create_shared_tables(self) -> None:
        """The tables of :class:`Base` for the rows of many tenants, owned by the admin."""
        if not self._shares_database:
            self.create_as_admin(Base.metadata)
            return
        assert self.address is not None
        shared = rows_metadata(Base.metadata)
        schema = self.rows_schema
        engine = create_engine(
            self.address.url(database=self.shared_database),
            execution_options={"schema_translate_map": {None: schema}},
        )
        statements = policy_statements(shared, schema=schema, login=self.login)
        if self.kind.citus:
            statements = [*distribution_statements(shared, schema=schema), *statements]
        with engine.begin() as connection:
            shared.create_all(connection)
            for statement in statements:
                connection.exec_driver_sql(statement)
        engine.dispose()

    def drop(self) -> None:
        """Drop everything made here."""
        if self.kind.citus:
            for schema in self._schemas:
                self.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
            for role in self._roles:
                self.execute(f'DROP OWNED BY "{role}"')
        for name in self._made:
            assert self.address is not None
            if self.kind.server == "postgresql":
                self.address.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            else:
                self.address.execute(f"DROP DATABASE IF EXISTS `{name}`")
        for role in self._roles:
            assert self.address is not None
            self.address.execute(f'DROP ROLE IF EXISTS "{role}"')


@dataclass
class Door:
    """Runs a synchronous body in a tenant's session, through threads or through asyncio."""

    tenancy: Tenancy
    is_async: bool

    def run(self, tenant_id: str, body: Callable[[Session], T], *, commit: bool = True) -> T:
        """*body* in a session of the tenant; committed at the end unless *commit* is false."""
        if self.is_async:
            return asyncio.run(self._arun(tenant_id, body, commit))
        with self.tenancy.use(tenant_id), self.tenancy.session() as session:
            result = body(session)
            if commit:
                session.commit()
            return result

    async def _arun(self, tenant_id: str, body: Callable[[Session], T], commit: bool) -> T:
        try:
            return await self.arun(tenant_id, body, commit=commit)
        finally:
            await self.tenancy.aclose()

    async def arun(self, tenant_id: str, body: Callable[[Session], T], *, commit: bool = True) -> T:
        """The same on a running event loop."""
        async with self.tenancy.use(tenant_id), self.tenancy.asession() as session:
            result = await session.run_sync(body)
            if commit:
                await session.commit()
            return result


@contextmanager
def made(
    kind: Kind,
    folder: Path,
    address: ServerAddress | None,
    pooler: ServerAddress | None = None,
) -> Iterator[Place]:
    """A place of *kind*; everything made in it is dropped at the end."""
    place = Place(kind, folder, address, pooler if kind.pooled else None)
    try:
        yield place
    finally:
        place.drop()
