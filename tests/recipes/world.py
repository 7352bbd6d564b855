"""One database as an application that has grown has it: clients' schemas, and tables in public.

Each schema (on MariaDB: database) has the same tables, and in ``users`` one row that bears the
schema's name. So a row read says where it came from.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import URL, Engine, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tenantry import Isolation, Placement, Server, Tenancy, Tenant
from tenantry.directory import MappingDirectory
from tenantry.testing.address import ServerAddress

PASSWORD = "password-of-test-roles"
DEFAULT = "public"

_numbers = itertools.count(1)


class Base(DeclarativeBase):
    """The models of the application; they know of no client."""


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80))


class Visit(Base):
    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    client: Mapped[str] = mapped_column(String(80))


@dataclass
class World:
    """*clients* are names of schemas in *database* (MariaDB: of databases)."""

    address: ServerAddress
    database: str
    login: str
    clients: Sequence[str]
    engines: list[Engine] = field(default_factory=list)
    tenancies: list[Tenancy] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)

    @property
    def is_postgresql(self) -> bool:
        return self.address.admin_driver.startswith("postgresql")

    def url(self, login: str | None = None) -> URL:
        """For the application's *login*, or another one."""
        driver = "postgresql+psycopg" if self.is_postgresql else "mysql+pymysql"
        url = self.address.url(driver, self.database)
        if not self.is_postgresql:
            return url
        return url.set(username=login or self.login, password=PASSWORD)

    def engine(self, login: str | None = None, **options: Any) -> Engine:
        engine = create_engine(self.url(login), **options)
        self.engines.append(engine)
        return engine

    def tenancy(self, switch: str = "path", **options: Any) -> Tenancy:
        """The same clients as tenants of tenantry."""
        server = Server.from_url("main", self.url(), switch=switch)
        tenants = [
            Tenant(client, Placement("main", Isolation.SCHEMA, schema=client))
            for client in self.clients
        ]
        servers = {"main": server}
        tenancy = Tenancy(MappingDirectory(tenants, servers=servers), servers, **options)
        self.tenancies.append(tenancy)
        return tenancy

    def role(self, client: str) -> str:
        """A login of the client's own, as the answer about ``ALTER ROLE`` has it."""
        role = f"{self.login}_{client}"
        self.execute(f"CREATE ROLE \"{role}\" LOGIN PASSWORD '{PASSWORD}'")
        self.execute(f'GRANT "{self.login}" TO "{role}"')
        self.roles.append(role)
        return role

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """As the server's admin."""
        return self.address.execute(sql, self.database)

    def misplaced(self) -> int:
        """How many visits stand in a schema that is not their client's."""
        counts = (
            f"SELECT count(*) AS n FROM {place}.visits WHERE client <> '{place}'"
            for place in self.places
        )
        query = f"SELECT sum(n) FROM ({' UNION ALL '.join(counts)}) AS counts"
        return int(self.execute(query)[0][0])

    @property
    def places(self) -> list[str]:
        """Every schema (MariaDB: database) with tables."""
        return [*self.clients, *([DEFAULT] if self.is_postgresql else [])]

    def forget_visits(self) -> None:
        """Empty every table of visits."""
        if self.is_postgresql:
            self.execute(f"TRUNCATE {', '.join(f'{place}.visits' for place in self.places)}")
            return
        for place in self.places:
            self.execute(f"DELETE FROM {place}.visits")

    def connections(self) -> int:
        """How many sessions the application's logins have on the server now."""
        query = f"SELECT count(*) FROM pg_stat_activity WHERE usename LIKE '{self.login}%'"
        return int(self.execute(query)[0][0])

    def close(self) -> None:
        for engine in self.engines:
            engine.dispose()
        for tenancy in self.tenancies:
            tenancy.close()


def _tables(schema: str, is_postgresql: bool) -> list[str]:
    counted = "id serial PRIMARY KEY" if is_postgresql else "id int AUTO_INCREMENT PRIMARY KEY"
    return [
        f"CREATE TABLE {schema}.users (id int PRIMARY KEY, name varchar(80))",
        f"INSERT INTO {schema}.users VALUES (1, '{schema}')",
        f"CREATE TABLE {schema}.visits ({counted}, client varchar(80) NOT NULL)",
    ]


@contextmanager
def postgresql_world(address: ServerAddress, clients: Sequence[str]) -> Iterator[World]:
    number = f"{os.getpid()}_{next(_numbers)}"
    world = World(address, f"recipes_{number}", f"app_{number}", clients)
    address.execute(f"CREATE DATABASE {world.database}")
    try:
        statements = [
            f"CREATE ROLE {world.login} LOGIN PASSWORD '{PASSWORD}'",
            *_tables(DEFAULT, True),
        ]
        for client in clients:
            statements += [f"CREATE SCHEMA {client}", *_tables(client, True)]
        for schema in (DEFAULT, *clients):
            statements += [
                f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {world.login}",
                f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {world.login}",
                f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {world.login}",
            ]
        world.execute(";\n".join(statements))
        yield world
    finally:
        world.close()
        address.execute(f"DROP DATABASE IF EXISTS {world.database} WITH (FORCE)")
        for role in (*world.roles, world.login):
            address.execute(f'DROP ROLE IF EXISTS "{role}"')


@contextmanager
def mariadb_world(address: ServerAddress, clients: Sequence[str]) -> Iterator[World]:
    """Databases belong to the whole server, so their names end in a number of this world's."""
    number = f"{os.getpid()}_{next(_numbers)}"
    clients = [f"{client}_{number}" for client in clients]
    world = World(address, address.database, "", clients)
    try:
        for client in clients:
            for statement in (f"CREATE DATABASE {client}", *_tables(client, False)):
                address.execute(statement)
        yield world
    finally:
        world.close()
        for client in clients:
            address.execute(f"DROP DATABASE IF EXISTS {client}")
