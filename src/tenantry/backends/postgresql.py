"""PostgreSQL: psycopg 3, psycopg2, asyncpg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .base import Backend, sqlstate

__all__ = ["PostgreSQL"]

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


class PostgreSQL(Backend):
    """An own database, an own schema, or row-level security."""

    kind = "postgresql"
    sync_drivers = {"psycopg": ("psycopg", "psycopg"), "psycopg2": ("psycopg2", "psycopg2")}
    async_drivers = {"psycopg": ("psycopg", "psycopg"), "asyncpg": ("asyncpg", "asyncpg")}
    current_database = "SELECT current_database()"

    def reset_statement(self) -> str | None:
        return _RESET

    def read_only_statements(self) -> Sequence[str]:
        return ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",)

    def is_missing_database(self, error: BaseException) -> bool:
        # psycopg 3 and psycopg2 give no SQLSTATE for an error during the connection's start-up.
        text = str(error)
        return sqlstate(error) == "3D000" or ("database" in text and "does not exist" in text)

    def is_read_only_refusal(self, error: BaseException) -> bool:
        return sqlstate(error) == "25006"

    def create_database(self, database: str) -> Sequence[str]:
        return (f"CREATE DATABASE {self.quote(database)}",)

    def drop_database(self, database: str) -> Sequence[str]:
        return (f"DROP DATABASE IF EXISTS {self.quote(database)} WITH (FORCE)",)

    def database_exists(self, database: str) -> tuple[str, Mapping[str, Any]]:
        return "SELECT 1 FROM pg_database WHERE datname = :name", {"name": database}
