"""Where tables stand that tenants with ``rows`` isolation share, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import MetaData

from ..directory.base import server_of
from ..isolation import RowFinding, audit_rows, rows_metadata
from ..servers import Server
from ..tenant import Isolation, Tenant
from .access import Access

__all__ = ["RowTables", "audit_tables", "row_tables"]


@dataclass(frozen=True)
class RowTables:
    """Tables that tenants share: those in *schema* of *database* on *server*."""

    server: Server
    database: str | None
    schema: str

    @property
    def login(self) -> str:
        """The application's login, which the policies must bind."""
        return self.server.url.username or ""

    def __str__(self) -> str:
        return f"{self.server.name}/{self.database}/{self.schema}"


def row_tables(
    tenants: Iterable[Tenant], servers: Mapping[str, Server]
) -> dict[RowTables, list[Tenant]]:
    """The tables of *tenants* that live in rows of a PostgreSQL, each with whose they are."""
    found: dict[RowTables, list[Tenant]] = {}
    for tenant in tenants:
        place = tenant.placement
        server = server_of(tenant, servers)
        if place.isolation is Isolation.ROWS and server.kind == "postgresql":
            database = place.database or server.url.database
            tables = RowTables(server, database, place.schema or "public")
            found.setdefault(tables, []).append(tenant)
    return found


def audit_tables(access: Access, tables: RowTables, metadata: MetaData | None) -> list[RowFinding]:
    """Every way around row-level security that is open; *metadata* is that of the models.

    Asks with the server's admin login, if it has one.
    """
    shared = rows_metadata(metadata) if metadata is not None else None
    with access.connect(tables.server, tables.database, admin=True) as connection:
        return audit_rows(connection, shared, schema=tables.schema, login=tables.login)
