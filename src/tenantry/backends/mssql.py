"""SQL Server: pyodbc, pymssql; aioodbc."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigurationError
from ..naming import shown
from ..servers import Server
from .base import Backend, Pointing
from .postgresql import TENANT_SETTING

__all__ = ["MSSQL"]

# 911: there is no such database; 4060: it cannot be opened by this login, which is also what
# the server says of one that does not exist.
_MISSING = frozenset({911, 4060})
# 3906: the database is read-only; 3908: it is a standby in recovery; 978: a replica for reads.
_READ_ONLY = frozenset({978, 3906, 3908})

# Where the reset is an ODBC call. As T-SQL (EXEC) the procedure is refused, so that pymssql's
# connections are closed instead (microsoft/mssql-jdbc#1861).
_ODBC = ("pyodbc", "aioodbc")
_RESET = "{call sys.sp_reset_connection}"
_NUMBER = re.compile(r"\((\d{3,5})\)")


class MSSQL(Backend):
    """An own database, an own schema by a translate map, or rows of shared tables."""

    kind = "mssql"
    sync_drivers = {"pyodbc": ("pyodbc", "pyodbc"), "pymssql": ("pymssql", "pymssql")}
    async_drivers = {"aioodbc": ("aioodbc", "aioodbc")}
    max_name_bytes = 128  # a sysname has 128 characters, which are at least as many bytes
    usual_schema = "dbo"
    current_database = "SELECT DB_NAME()"
    current_schema = "SELECT SCHEMA_NAME()"
    always_translates = True
    # It leaves the isolation level as it was (microsoft/mssql-python#337).
    reset_is_partial = True

    def check_database_name(self, server: Server, database: str) -> None:
        super().check_database_name(server, database)
        # In a connection string these have a meaning; a blank at the end is none to the server,
        # so that two names would be one database.
        if database != database.strip() or re.search(r"[;={}\[\]]", database):
            raise ConfigurationError(
                f"{shown(database)} cannot name a database on server {server.name!r}; "
                "it holds one of ; = { } [ ] or begins or ends with a blank"
            )

    def check_schema_name(self, server: Server, schema: str) -> None:
        super().check_schema_name(server, schema)
        # SQLAlchemy reads `other.dbo` as schema dbo of database other.
        if schema != schema.strip() or re.search(r"[.\[\]]", schema):
            raise ConfigurationError(
                f"{shown(schema)} cannot name a schema on server {server.name!r}; "
                "it holds a dot or a bracket, or begins or ends with a blank"
            )

    def quote(self, name: str) -> str:
        return "[" + name.replace("]", "]]") + "]"

    def literal(self, value: str) -> str:
        """*value* as a string in T-SQL, which knows no backslash in strings.

        Raises:
            ConfigurationError: It holds what no key holds.
        """
        if not value.isprintable():
            raise ConfigurationError(f"{shown(value)} cannot be a tenant's key")
        return "N'" + value.replace("'", "''") + "'"

    def use_database(self, database: str) -> str:
        """What points an open connection at another database of its server.

        Tenantry opens connections of each database's own instead: ``USE`` outlives the
        transaction, a connection that missed it would be in the login's default database, and
        Azure SQL Database refuses it.
        """
        return f"USE {self.quote(database)}"

    def row_pointing(self, tenant_key: str) -> Pointing:
        # Read-only: SQL text of the application cannot become another tenant until the
        # connection is reset (sp_set_session_context, @read_only).
        key = self.literal(tenant_key)
        return Pointing(
            statements=(
                f"EXEC sys.sp_set_session_context N'{TENANT_SETTING}', {key}, @read_only = 1",
            )
        )

    def reset_statement(self, driver: str | None = None) -> str | None:
        return _RESET if driver in _ODBC else None

    def is_missing_database(self, error: BaseException) -> bool:
        return not _MISSING.isdisjoint(_numbers(error))

    def is_read_only_refusal(self, error: BaseException) -> bool:
        return not _READ_ONLY.isdisjoint(_numbers(error))

    def create_database(self, database: str) -> Sequence[str]:
        return (f"CREATE DATABASE {self.quote(database)}",)

    def drop_database(self, database: str) -> Sequence[str]:
        name = self.quote(database)
        # Whoever is connected is thrown out first: DROP DATABASE would refuse.
        alone = f"ALTER DATABASE {name} SET SINGLE_USER WITH ROLLBACK IMMEDIATE"
        return (
            f"IF DB_ID({self.literal(database)}) IS NOT NULL {alone}",
            f"DROP DATABASE IF EXISTS {name}",
        )

    def database_exists(self, database: str) -> tuple[str, Mapping[str, Any]]:
        return "SELECT 1 FROM sys.databases WHERE name = :name", {"name": database}

    def create_schema(self, schema: str, *, owner: str | None = None) -> Sequence[str]:
        by = f" AUTHORIZATION {self.quote(owner)}" if owner is not None else ""
        return (f"CREATE SCHEMA {self.quote(schema)}{by}",)

    def drop_schema(self, schema: str) -> Sequence[str]:
        # There is no CASCADE: the server refuses (3729) until the schema's tables are dropped.
        return (f"DROP SCHEMA IF EXISTS {self.quote(schema)}",)

    def schema_exists(self, schema: str) -> tuple[str, Mapping[str, Any]]:
        return "SELECT 1 FROM sys.schemas WHERE name = :name", {"name": schema}


def _numbers(error: BaseException) -> set[int]:
    """The server's error numbers: pymssql's first argument, or in the text of ODBC's."""
    args: Any = getattr(getattr(error, "orig", None), "args", None) or error.args
    while args and isinstance(args[0], tuple):
        args = args[0]
    if args and isinstance(args[0], int):
        return {args[0]}
    return {int(number) for number in _NUMBER.findall(" ".join(map(str, args)))}
