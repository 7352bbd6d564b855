"""One view over the same table of many tenants of one database: statements, none is run here."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Table

from ..backends import backend_of
from ..errors import UnsupportedError
from ..servers import Server
from ..tenant import Isolation, Tenant

__all__ = ["union_view_statements"]


def union_view_statements(
    table: Table,
    tenants: Sequence[Tenant],
    server: Server,
    *,
    name: str,
    schema: str,
    reader: str,
) -> list[str]:
    """Statements for a view *schema*.*name* with the column ``tenantry_tenant`` before the others.

    To be run by the owner of the schemas, again whenever a tenant comes or goes. Only *reader*, a
    role for reports, gets the right to read it; the application's login does not.

    Raises:
        UnsupportedError: The tenants are not in schemas of one database.
    """
    places = {
        (each.placement.server, each.placement.database)
        for each in tenants
        if each.placement.isolation is Isolation.SCHEMA
    }
    if len(places) != 1 or any(
        each.placement.isolation is not Isolation.SCHEMA for each in tenants
    ):
        raise UnsupportedError(
            "one view reaches schemas of one database only; read tenants elsewhere with fan_out"
        )
    backend = backend_of(server)
    if backend.attaches_schemas:
        raise UnsupportedError("SQLite views do not reach attached files; use fan_out")
    columns = ", ".join(backend.quote(column.name) for column in table.columns)
    selects = []
    for tenant in sorted(tenants, key=lambda each: each.id):
        assert tenant.placement.schema is not None
        source = f"{backend.quote(tenant.placement.schema)}.{backend.quote(table.name)}"
        # An id is plain ASCII without quotes; names are quoted.
        selects.append(f"SELECT '{tenant.id}' AS tenantry_tenant, {columns} FROM {source}")  # noqa: S608
    view = f"{backend.quote(schema)}.{backend.quote(name)}"
    body = "\nUNION ALL\n".join(selects)
    if backend.kind == "postgresql":
        role = backend.quote(reader)
        return [
            f"CREATE SCHEMA IF NOT EXISTS {backend.quote(schema)}",
            f"DROP VIEW IF EXISTS {view}",
            f"CREATE VIEW {view} AS\n{body}",
            f"REVOKE ALL ON {view} FROM PUBLIC",
            f"GRANT USAGE ON SCHEMA {backend.quote(schema)} TO {role}",
            f"GRANT SELECT ON {view} TO {role}",
        ]
    quoted = "'" + reader.replace("'", "''") + "'"
    return [
        f"CREATE DATABASE IF NOT EXISTS {backend.quote(schema)}",
        f"CREATE OR REPLACE VIEW {view} AS\n{body}",
        f"GRANT SELECT ON {view} TO {quoted}",
    ]
