"""Servers of every kind, as values: these tests connect to none."""

from __future__ import annotations

from tenantry import Isolation, Placement, Server, Tenant
from tenantry.isolation import Target, target_for
from tenantry.tenant import Switch

URLS = {
    "postgresql": "postgresql+psycopg://app@db:5432/app",
    "mysql": "mysql+pymysql://app@db:3306/app",
    "oracle": "oracle+oracledb://app@db:1521/?service_name=main",
    "mssql": "mssql+pyodbc://app@db:1433/app?driver=ODBC+Driver+18+for+SQL+Server",
}


def server(kind: str, switch: Switch = Switch.PATH) -> Server:
    return Server.from_url("main", URLS[kind], switch=switch)


def tenant(untrusted_sql: bool = False, **place: str | None) -> Tenant:
    isolation = Isolation(place.pop("isolation", "schema") or "schema")
    return Tenant(
        "acme",
        Placement("main", isolation, **place),  # type: ignore[arg-type]  # names of fields
        key="k1",
        untrusted_sql=untrusted_sql,
    )


def target(server: Server, tenant: Tenant) -> Target:
    driver = server.url.get_driver_name()
    return target_for(tenant, tenant.placement, server, driver, False)


class DriverError(Exception):
    """Carries what a driver's own error carries; drivers need not be installed."""
