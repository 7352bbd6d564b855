"""PostgreSQL: psycopg 3, psycopg2, asyncpg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from ..errors import ConfigurationError
from ..naming import shown
from .base import Backend, sqlstate

__all__ = ["TENANT_SETTING", "PostgreSQL"]

#: The setting that row policies compare the tenant column with.
TENANT_SETTING = "tenantry.tenant"

# What DISCARD ALL does, without what breaks the drivers' own prepared statements
# (psycopg/psycopg#1307, MagicStack/asyncpg#270): those are left, statements PREPAREd by SQL go.
_RESET = """\
SET SESSION AUTHORIZATION DEFAULT;
RESET ALL;
CLOSE ALL;
UNLISTEN *;
SELECT pg_catalog.pg_advisory_unlock_all();
DISCARD TEMP;
DISCARD SEQUENCES;
DO $tenantry$
DECLARE prepared pg_catalog.text;
BEGIN
  FOR prepared IN SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql LOOP
    EXECUTE 'DEALLOCATE ' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(prepared);
  END LOOP;
END
$tenantry$"""


def _escaped(value: str) -> str:
    """A value for libpq's ``options``: backslashes and blanks take a backslash (manual, 34.1.2)."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


class PostgreSQL(Backend):
    """An own database, an own schema, or row-level security."""

    kind = "postgresql"
    sync_drivers = {"psycopg": ("psycopg", "psycopg"), "psycopg2": ("psycopg2", "psycopg2")}
    async_drivers = {"psycopg": ("psycopg", "psycopg"), "asyncpg": ("asyncpg", "asyncpg")}
    current_database = "SELECT current_database()"
    has_path = True
    has_row_security = True
    usual_schema = "public"

    def empty_path(self) -> Mapping[str, str]:
        return {"search_path": ""}

    def add_settings(
        self, parameters: dict[str, Any], driver: str, settings: Mapping[str, str], pooled: bool
    ) -> None:
        if driver == "asyncpg":
            if pooled:
                parameters["statement_cache_size"] = 0
                parameters["prepared_statement_cache_size"] = 0
                parameters["prepared_statement_name_func"] = lambda: f"__tenantry_{uuid4().hex}__"
            if settings:
                given = parameters.get("server_settings") or {}
                parameters["server_settings"] = {**given, **settings}
        elif settings:
            words = [f"-c {name}={_escaped(value)}" for name, value in settings.items()]
            given = parameters.get("options")
            parameters["options"] = " ".join([*([given] if given else []), *words])

    def path(self, schema: str, shared_schema: str | None) -> str:
        # pg_temp last: a temporary table must not stand before the tenant's own (PostgreSQL
        # manual, search_path: the temporary schema is searched first unless it is named).
        names = [self.quote(schema)]
        if shared_schema is not None:
            names.append(self.quote(shared_schema))
        return ", ".join([*names, "pg_temp"])

    def arm(self, *, path: str, session: bool, tenant_key: str | None = None) -> str:
        scope = "SESSION" if session else "LOCAL"
        statement = f"SET {scope} search_path TO {path}"
        if tenant_key is not None:
            statement += f"; SET {scope} {TENANT_SETTING} TO {self.literal(tenant_key)}"
        return statement

    def literal(self, value: str) -> str:
        """*value* as a string in SQL; keys are checked when they are made, and again here.

        Raises:
            ConfigurationError: It holds what no key holds.
        """
        if not value.isascii() or not value.isprintable() or "'" in value or "\\" in value:
            raise ConfigurationError(f"{shown(value)} cannot be a tenant's key")
        return f"'{value}'"

    def reset_statement(self, driver: str | None = None) -> str | None:
        return _RESET

    def read_only_statements(self) -> Sequence[str]:
        return ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",)

    def is_missing_database(self, error: BaseException) -> bool:
        # psycopg 3 and psycopg2 give no SQLSTATE for an error during the connection's start-up.
        text = str(error)
        return sqlstate(error) == "3D000" or ("database" in text and "does not exist" in text)

    def is_missing_table(self, error: BaseException) -> bool:
        return sqlstate(error) in ("42P01", "3F000")  # undefined_table, invalid_schema_name

    def place_exists(self, name: str | None) -> str | None:
        if name is None:
            return None
        quoted = name.replace("'", "''")
        return f"SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = '{quoted}'"  # noqa: S608

    def is_read_only_refusal(self, error: BaseException) -> bool:
        return sqlstate(error) == "25006"

    def is_stale_plan(self, error: BaseException) -> bool:
        return sqlstate(error) == "0A000"  # "cached plan must not change result type", and others

    def create_database(self, database: str) -> Sequence[str]:
        return (f"CREATE DATABASE {self.quote(database)}",)

    def drop_database(self, database: str) -> Sequence[str]:
        return (f"DROP DATABASE IF EXISTS {self.quote(database)} WITH (FORCE)",)

    def database_exists(self, database: str) -> tuple[str, Mapping[str, Any]]:
        return "SELECT 1 FROM pg_database WHERE datname = :name", {"name": database}
