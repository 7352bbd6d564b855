"""The tables of a table directory, the same on SQLite, PostgreSQL and MariaDB or MySQL."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    String,
    Table,
)

from ..errors import ConfigurationError

__all__ = ["Tables"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,47}")
# Ids, identifiers and places are compared byte for byte; MySQL's own default ignores case and
# accents (its manual, 12.8.2).
_MYSQL = {"engine": "InnoDB", "charset": "utf8mb4", "collate": "utf8mb4_bin"}
_OPTIONS: dict[str, Any] = {
    f"{dialect}_{key}": value for dialect in ("mysql", "mariadb") for key, value in _MYSQL.items()
}


class Tables:
    """The tables under a name; the others are named after the first.

    Raises:
        ConfigurationError: *name* is no plain table name.
    """

    def __init__(self, name: str, schema: str | None) -> None:
        if _NAME.fullmatch(name) is None:
            raise ConfigurationError(
                f"{name!r} is no plain table name; use letters, digits and _, at most 48"
            )
        start = name.removesuffix("_tenants")
        self.metadata = MetaData(schema=schema)
        self.tenants = Table(
            name,
            self.metadata,
            Column("id", String(48), primary_key=True),
            Column("key", String(64), nullable=False, unique=True),
            Column("generation", Integer, nullable=False),
            Column("state", String(16), nullable=False),
            Column("server", String(63), nullable=False),
            Column("isolation", String(16), nullable=False),
            Column("database", String(255)),
            Column("schema", String(255)),
            Column("switch", String(16)),
            Column("role", String(63)),
            # A digest of server, database and schema: their names may be longer than a key.
            Column("place", String(64), nullable=False, index=True),
            # The same where the tenant must be alone: rows tenants share their place.
            Column("sole_place", String(64), unique=True),
            Column("untrusted_sql", Boolean, nullable=False),
            Column("attributes", JSON, nullable=False),
            Column("created_at", DateTime, nullable=False),
            Column("updated_at", DateTime, nullable=False),
            # Who else is in a database: one tenant may have it alone.
            Index(f"ix_{name}_database", "server", "database", "isolation"),
            **_OPTIONS,
        )
        self.identifiers = Table(
            f"{start}_identifiers",
            self.metadata,
            Column("identifier", String(253), primary_key=True),
            Column("tenant_id", String(48), nullable=False, index=True),
            Column("position", Integer, nullable=False),
            **_OPTIONS,
        )
        self.tombstones = Table(
            f"{start}_tombstones",
            self.metadata,
            Column("key", String(64), primary_key=True),
            Column("id", String(48), nullable=False, index=True),
            Column("generation", Integer, nullable=False),
            Column("removed_at", DateTime, nullable=False),
            **_OPTIONS,
        )
        self.version = Table(
            f"{start}_version",
            self.metadata,
            Column("id", Integer, primary_key=True, autoincrement=False),
            Column("version", BigInteger, nullable=False),
            **_OPTIONS,
        )
