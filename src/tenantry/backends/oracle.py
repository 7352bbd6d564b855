"""Oracle: python-oracledb, for threads and asyncio. A schema is a user, a database a service."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy.engine import URL

from ..errors import ConfigurationError
from ..naming import shown
from ..servers import Server
from .base import Backend, Pointing

__all__ = ["Oracle"]

# ORA-12505, -12514: the listener knows no such SID or service; -65011: no such pluggable
# database. DPY-6001 and -6003 are python-oracledb's own words for the first two.
_MISSING = frozenset({"ORA-12505", "ORA-12514", "ORA-65011", "DPY-6001", "DPY-6003"})
# ORA-01456: a write in a READ ONLY transaction; -16000: the database is open for reads only;
# -28194: the user or session may only read.
_READ_ONLY = frozenset({"ORA-01456", "ORA-16000", "ORA-28194"})

_SERVICE = re.compile(r"[A-Za-z][A-Za-z0-9_.$#-]*")
_SCHEMA = re.compile(r"[A-Za-z0-9_$#-]+")
_PLAIN = re.compile(r"[A-Z][A-Z0-9_$#]*")
_CODE = re.compile(r"(?:ORA|DPY)-\d{4,5}")
_NO_SUCH_USER = -1918
_CLIENT_IDENTIFIER_BYTES = 64


@cache
def _dialect() -> Any:
    """SQLAlchemy's rules for names; imported where there is an Oracle server only."""
    from sqlalchemy.dialects.oracle.base import OracleDialect

    return OracleDialect()


class Oracle(Backend):
    """An own pluggable database (by its service), an own schema, or rows of shared tables.

    Names are written as SQLAlchemy writes them: all lower case stands for the name that Oracle
    keeps in upper case, unless only quotes can hold it.
    """

    kind = "oracle"
    sync_drivers = {"oracledb": ("oracledb", "oracledb")}
    async_drivers = {"oracledb": ("oracledb", "oracledb")}
    max_name_bytes = 128  # since 12.2 (SQL Language Reference, Database Object Names)
    current_database = "SELECT sys_context('userenv', 'con_name') FROM dual"
    current_schema = "SELECT sys_context('userenv', 'current_schema') FROM dual"
    always_translates = True

    def url(self, server: Server, database: str | None, driver: str) -> URL:
        # In the URL's place for a database SQLAlchemy expects a SID; a pluggable database has a
        # service instead.
        url = server.url.set(drivername=f"oracle+{driver}")
        if database is None:
            return url
        others = {key: value for key, value in url.query.items() if key != "service_name"}
        return url.set(database="", query={**others, "service_name": database})

    def check_database_name(self, server: Server, database: str) -> None:
        super().check_database_name(server, database)
        # It becomes part of a connect descriptor, in which parentheses have a meaning.
        if _SERVICE.fullmatch(database) is None:
            raise ConfigurationError(
                f"{shown(database)} cannot name a service on server {server.name!r}; "
                "use letters, digits and _ . $ # -"
            )

    def check_schema_name(self, server: Server, schema: str) -> None:
        super().check_schema_name(server, schema)
        if _SCHEMA.fullmatch(schema) is None:
            raise ConfigurationError(
                f"{shown(schema)} cannot name a schema on server {server.name!r}; "
                "use letters, digits and _ $ # -"
            )
        # Two spellings of one schema would be two tenants in one place.
        if _dialect().normalize_name(self.stored(schema)) != schema:
            raise ConfigurationError(
                f"schema {shown(schema)} on server {server.name!r} has two spellings; write it "
                "in lower case, which stands for Oracle's upper case"
            )

    def stored(self, name: str) -> str:
        """*name* as Oracle's catalogue keeps it."""
        return str(_dialect().denormalize_name(name))

    def quote(self, name: str) -> str:
        return super().quote(self.stored(name))

    def schema_pointing(self, schema: str) -> Pointing:
        stored = self.stored(schema)
        if _PLAIN.fullmatch(stored):
            # Sent along with the driver's next call, and verified by the server then
            # (python-oracledb, Connection.current_schema).
            return Pointing(attributes={"current_schema": stored})
        # How the attribute takes a name that needs quotes is written nowhere.
        return Pointing(statements=(self.current_schema_statement(schema),))

    def current_schema_statement(self, schema: str) -> str:
        """What the driver's attribute does, as SQL at the cost of a round trip."""
        return f"ALTER SESSION SET CURRENT_SCHEMA = {self.quote(schema)}"

    def row_pointing(self, tenant_key: str) -> Pointing:
        # For a policy (DBMS_RLS) that compares SYS_CONTEXT('USERENV', 'CLIENT_IDENTIFIER').
        if len(tenant_key.encode()) > _CLIENT_IDENTIFIER_BYTES or not tenant_key.isprintable():
            raise ConfigurationError(
                f"{shown(tenant_key)} cannot be a tenant's key on Oracle; use at most "
                f"{_CLIENT_IDENTIFIER_BYTES} bytes"
            )
        return Pointing(attributes={"client_identifier": tenant_key})

    def is_missing_database(self, error: BaseException) -> bool:
        return not _MISSING.isdisjoint(_codes(error))

    def is_read_only_refusal(self, error: BaseException) -> bool:
        return not _READ_ONLY.isdisjoint(_codes(error))

    def database_exists(self, database: str) -> tuple[str, Mapping[str, Any]]:
        return "SELECT 1 FROM v$services WHERE LOWER(name) = LOWER(:name)", {"name": database}

    def create_schema(self, schema: str, *, owner: str | None = None) -> Sequence[str]:
        # Nobody logs in as a schema (18c and later); *owner* is whoever may use it, and cannot
        # own it: on Oracle a schema is its own owner.
        name = self.quote(schema)
        return (f"CREATE USER {name} NO AUTHENTICATION", f"GRANT UNLIMITED TABLESPACE TO {name}")

    def drop_schema(self, schema: str) -> Sequence[str]:
        # DROP USER has no IF EXISTS before 23ai.
        name = self.quote(schema).replace("'", "''")
        drop = f"EXECUTE IMMEDIATE 'DROP USER {name} CASCADE';"
        unless_missing = f"IF SQLCODE != {_NO_SUCH_USER} THEN RAISE; END IF;"
        return (f"BEGIN {drop} EXCEPTION WHEN OTHERS THEN {unless_missing} END;",)

    def schema_exists(self, schema: str) -> tuple[str, Mapping[str, Any]]:
        return "SELECT 1 FROM all_users WHERE username = :name", {"name": self.stored(schema)}


def _codes(error: BaseException) -> set[str]:
    """The codes in a driver's error, as ``ORA-12514``: it may wrap another one."""
    return set(_CODE.findall(str(getattr(error, "orig", None) or error)))
