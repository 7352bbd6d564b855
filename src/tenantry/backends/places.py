"""Statements that make, remove, list and identify places; one class per server kind.

Places are databases (``database`` isolation) and PostgreSQL schemas. Nothing here runs anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..errors import UnsupportedError
from ..servers import Server
from .base import Backend
from .citus import Citus
from .mssql import MSSQL
from .mysql import MySQL
from .oracle import Oracle
from .postgresql import PostgreSQL

__all__ = [
    "CitusPlaces",
    "MSSQLPlaces",
    "MySQLPlaces",
    "OraclePlaces",
    "Places",
    "PostgreSQLPlaces",
    "places_of",
]

Query = tuple[str, Mapping[str, Any]]


class Places:
    """Defaults and refusals."""

    #: A query that says which place a connection is in, as the server itself knows it: one row
    #: of (server, database, schema). Two tenants with equal rows live in one place.
    identity: ClassVar[str]
    #: Databases besides those the server keeps for itself, by name.
    list_databases: ClassVar[str]
    #: Whether a failed or abandoned transaction takes its DDL back.
    transactional_ddl: ClassVar[bool] = True

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def create_database(
        self, database: str, *, owner: str | None = None, template: str | None = None
    ) -> Sequence[str]:
        """Statements (outside a transaction) that create a database, as a copy of *template*."""
        if template is not None:
            raise UnsupportedError(f"databases are not copied from a template on {self.kind}")
        return self.backend.create_database(database)

    def drop_database(self, database: str) -> Sequence[str]:
        """Statements (outside a transaction) that drop a database, in use or not."""
        return self.backend.drop_database(database)

    def rename_database(self, database: str, to: str) -> Sequence[str]:
        """Statements (outside a transaction) that rename a database nobody is connected to."""
        raise UnsupportedError(f"databases are not renamed on {self.kind}")

    def database_exists(self, database: str) -> Query:
        """A query, with parameters, that gives a row if the database exists."""
        return self.backend.database_exists(database)

    def create_schema(self, schema: str, *, owner: str | None = None) -> Sequence[str]:
        """Statements that create an empty schema nobody else may use."""
        raise UnsupportedError(f"schemas are databases or do not exist on {self.kind}")

    def drop_schema(self, schema: str) -> Sequence[str]:
        """Statements that drop a schema and all in it."""
        raise UnsupportedError(f"schemas are databases or do not exist on {self.kind}")

    def rename_schema(self, schema: str, to: str) -> Sequence[str]:
        """Statements that rename a schema."""
        raise UnsupportedError(f"schemas are databases or do not exist on {self.kind}")

    def schema_exists(self, schema: str) -> Query:
        """A query, with parameters, that gives a row if the schema exists."""
        raise UnsupportedError(f"schemas are databases or do not exist on {self.kind}")

    #: Schemas of a database besides the server's own, by name.
    list_schemas: ClassVar[str | None] = None

    def lock(self, name: str) -> tuple[Query, Query]:
        """Queries that take a lock of this name for the session, at once or not, and free it.

        The first gives one row with a true value if the lock was taken.
        """
        raise UnsupportedError(f"there are no named locks on {self.kind}")

    def owner(self, server: Server) -> str | None:
        """Who shall own what an admin login creates; ``None``: whoever creates it."""
        return server.url.username if server.admin is not None else None

    @property
    def kind(self) -> str:
        """The server kind."""
        return self.backend.kind


class PostgreSQLPlaces(Places):
    """Databases, and schemas within one."""

    # The system identifier is the cluster's own and survives a change of its address, but a
    # physical replica has the same one; a login may lack the right to read it.
    identity = """\
SELECT CASE WHEN pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'execute')
            THEN (SELECT system_identifier::text FROM pg_catalog.pg_control_system())
            ELSE pg_catalog.pg_postmaster_start_time()::text
                 || pg_catalog.current_setting('port') END,
       (SELECT oid::text FROM pg_catalog.pg_database
         WHERE datname = pg_catalog.current_database()),
       (SELECT oid::text FROM pg_catalog.pg_namespace WHERE nspname = :schema)"""
    list_databases = """\
SELECT datname FROM pg_catalog.pg_database
 WHERE NOT datistemplate AND datallowconn ORDER BY datname"""
    list_schemas = """\
SELECT nspname FROM pg_catalog.pg_namespace
 WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY nspname"""

    def create_database(
        self, database: str, *, owner: str | None = None, template: str | None = None
    ) -> Sequence[str]:
        quote = self.backend.quote
        words = [f"CREATE DATABASE {quote(database)}"]
        if owner is not None:
            words.append(f"OWNER {quote(owner)}")
        if template is not None:
            words.append(f"TEMPLATE {quote(template)}")
        # By default every role may connect to every database (manual, 5.8).
        close = f"REVOKE CONNECT, TEMPORARY ON DATABASE {quote(database)} FROM PUBLIC"
        return (" ".join(words), close)

    def rename_database(self, database: str, to: str) -> Sequence[str]:
        quote = self.backend.quote
        return (f"ALTER DATABASE {quote(database)} RENAME TO {quote(to)}",)

    def create_schema(self, schema: str, *, owner: str | None = None) -> Sequence[str]:
        quote = self.backend.quote
        by = f" AUTHORIZATION {quote(owner)}" if owner is not None else ""
        return (f"CREATE SCHEMA {quote(schema)}{by}",)

    def drop_schema(self, schema: str) -> Sequence[str]:
        return (f"DROP SCHEMA IF EXISTS {self.backend.quote(schema)} CASCADE",)

    def rename_schema(self, schema: str, to: str) -> Sequence[str]:
        quote = self.backend.quote
        return (f"ALTER SCHEMA {quote(schema)} RENAME TO {quote(to)}",)

    def schema_exists(self, schema: str) -> Query:
        return "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = :name", {"name": schema}

    def lock(self, name: str) -> tuple[Query, Query]:
        key = "pg_catalog.hashtextextended('tenantry:' || CAST(:name AS text), 0)"
        return (
            (f"SELECT pg_catalog.pg_try_advisory_lock({key})", {"name": name}),
            (f"SELECT pg_catalog.pg_advisory_unlock({key})", {"name": name}),
        )


class CitusPlaces(PostgreSQLPlaces):
    """Schemas are distributed as they are made. Databases stay on the coordinator."""

    backend: Citus

    def create_schema(self, schema: str, *, owner: str | None = None) -> Sequence[str]:
        made = super().create_schema(schema, owner=owner)
        return (*made, self.backend.distribute_schema(schema))


class MySQLPlaces(Places):
    """Databases, which are also called schemas here."""

    identity = "SELECT CONCAT(@@hostname, ':', @@port, ':', @@datadir), DATABASE(), NULL"
    list_databases = """\
SELECT schema_name FROM information_schema.schemata
 WHERE schema_name NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys')
 ORDER BY schema_name"""
    transactional_ddl = False

    def lock(self, name: str) -> tuple[Query, Query]:
        # A lock's name has at most 64 characters (MySQL manual, 14.14).
        key = "CONCAT('tenantry:', LEFT(SHA2(:name, 256), 40))"
        return (
            (f"SELECT GET_LOCK({key}, 0)", {"name": name}),
            (f"SELECT RELEASE_LOCK({key})", {"name": name}),
        )


class _SchemasOfBackend(Places):
    """Schemas, whose statements the backend has."""

    def create_schema(self, schema: str, *, owner: str | None = None) -> Sequence[str]:
        return self.backend.create_schema(schema, owner=owner)

    def drop_schema(self, schema: str) -> Sequence[str]:
        return self.backend.drop_schema(schema)

    def schema_exists(self, schema: str) -> Query:
        return self.backend.schema_exists(schema)


class OraclePlaces(_SchemasOfBackend):
    """Schemas, which are users. Pluggable databases are made by whoever runs the server."""

    identity = """\
SELECT sys_context('userenv', 'db_unique_name'), sys_context('userenv', 'con_name'),
       (SELECT TO_CHAR(user_id) FROM all_users WHERE LOWER(username) = LOWER(:schema))
  FROM dual"""
    list_databases = "SELECT name FROM v$pdbs ORDER BY name"
    list_schemas = "SELECT username FROM all_users WHERE oracle_maintained = 'N' ORDER BY username"
    transactional_ddl = False


class MSSQLPlaces(_SchemasOfBackend):
    """Databases, and schemas within one."""

    identity = """\
SELECT CAST(SERVERPROPERTY('ServerName') AS nvarchar(128)), CAST(DB_ID() AS varchar(12)),
       CAST(SCHEMA_ID(:schema) AS varchar(12))"""
    # The first four of each are the server's own, and schemas from 16384 on those of roles.
    list_databases = "SELECT name FROM sys.databases WHERE database_id > 4 ORDER BY name"
    list_schemas = """\
SELECT name FROM sys.schemas WHERE schema_id > 4 AND schema_id < 16384 ORDER BY name"""

    def lock(self, name: str) -> tuple[Query, Query]:
        # A resource's name has at most 255 characters (sp_getapplock).
        resource = "'tenantry:' + CONVERT(varchar(64), HASHBYTES('SHA2_256', :name), 2)"
        owner = "@LockOwner = 'Session'"
        take = f"""\
DECLARE @name nvarchar(255) = {resource}, @got int;
EXEC @got = sys.sp_getapplock @name, @LockMode = 'Exclusive', {owner}, @LockTimeout = 0;
SELECT CASE WHEN @got >= 0 THEN 1 ELSE 0 END"""
        free = f"""\
DECLARE @name nvarchar(255) = {resource}, @freed int;
EXEC @freed = sys.sp_releaseapplock @name, {owner};
SELECT CASE WHEN @freed >= 0 THEN 1 ELSE 0 END"""
        return (take, {"name": name}), (free, {"name": name})


class SQLitePlaces(Places):
    """Files; they are made, listed and identified by the file system."""


def places_of(backend: Backend) -> Places:
    """The statements for a backend's places."""
    if isinstance(backend, Citus):
        return CitusPlaces(backend)
    if isinstance(backend, PostgreSQL):
        return PostgreSQLPlaces(backend)
    if isinstance(backend, MySQL):
        return MySQLPlaces(backend)
    if isinstance(backend, Oracle):
        return OraclePlaces(backend)
    if isinstance(backend, MSSQL):
        return MSSQLPlaces(backend)
    return SQLitePlaces(backend)
