"""``tenantry rows``: row-level security of tables that tenants share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from sqlalchemy import Connection, MetaData

from .. import fleet
from ..errors import ConfigurationError, UnsupportedError
from ..isolation import (
    adoption_statements,
    distribution_statements,
    policy_statements,
    rows_metadata,
)
from ..tenant import Isolation, Tenant
from . import render
from .options import (
    Application,
    application_options,
    find_metadata,
    json_option,
    metadata_option,
    pass_application,
)

__all__ = ["rows"]

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def rows() -> None:
    """Row-level security of the tables that tenants with rows isolation share (PostgreSQL)."""


def _yes_options(function: F) -> F:
    for option in (
        click.option("--yes", is_flag=True, help="Run them, in one transaction, as the owner."),
        click.option("--dry-run", is_flag=True, help="Only print them; so without --yes."),
    ):
        function = option(function)
    return function


@rows.command()
@metadata_option
@click.option("--tenant", "tenant_id", required=True, metavar="ID", help="Whose the rows are.")
@_yes_options
@application_options
@pass_application
def adopt(
    application: Application,
    /,
    metadata_name: str | None,
    tenant_id: str,
    dry_run: bool,
    yes: bool,
) -> None:
    """Turn the tables of one tenant into tables that tenants share.

    Adds the tenant column, gives every row to the tenant, puts the column into the keys and sets
    the policies. The tenant's placement already says rows and where the tables are. Prints the
    statements; --yes runs them with the login of the server's admin_url.
    """
    tenant = application.tenancy.get(tenant_id)
    (tables,) = _tables_of(application, [tenant])
    statements = adoption_statements(
        _metadata(metadata_name), schema=tables.schema, login=tables.login, tenant_key=tenant.key
    )
    _print_or_run(application, {tables: statements}, yes and not dry_run)


@rows.command()
@metadata_option
@click.option(
    "--keep-others",
    is_flag=True,
    help="Leave what these models do not know as it is: models of another metadata are there too.",
)
@_yes_options
@application_options
@pass_application
def policies(
    application: Application,
    /,
    metadata_name: str | None,
    keep_others: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Set the policies and rights of every table; repeat it after each migration.

    What the models do not know (a forgotten table, a partition, a materialized view) is closed
    to the application's login, unless --keep-others is given. On a Citus the tables are
    distributed first. Prints the statements; --yes runs them.
    """
    shared = rows_metadata(_metadata(metadata_name))
    found = {
        tables: [
            *(distribution_statements(shared, schema=tables.schema) if tables.server.citus else ()),
            *policy_statements(
                shared, schema=tables.schema, login=tables.login, close_others=not keep_others
            ),
        ]
        for tables in _tables_of(application)
    }
    _print_or_run(application, found, yes and not dry_run)


@rows.command()
@metadata_option
@json_option
@application_options
@pass_application
def check(application: Application, /, metadata_name: str | None, as_json: bool) -> None:
    """Look for every known way around row-level security. Ends with 1 if one is open."""
    metadata = _metadata(metadata_name)
    findings = []
    with fleet.Access(application.tenancy.servers) as access:
        for tables in _tables_of(application):
            findings += fleet.audit_tables(access, tables, metadata)
    if as_json:
        render.document({"findings": [each.as_dict() for each in findings]})
    elif findings:
        columns = ("code", "finding", "repair")
        render.table(columns, [(each.code, each.message, each.repair) for each in findings])
    else:
        render.say("no way around row-level security is open")
    if findings:
        sys.exit(1)


def _metadata(name: str | None) -> MetaData:
    found = find_metadata(name)
    if found is None:
        raise ConfigurationError(
            "the models are not known; give --metadata module:Base.metadata, or `metadata` under "
            "[tool.tenantry] in pyproject.toml"
        )
    return found


def _tables_of(
    application: Application, tenants: Sequence[Tenant] | None = None
) -> list[fleet.RowTables]:
    """Where the tables of *tenants* (``None``: all with rows isolation) are, each place once."""
    tenancy = application.tenancy
    for tenant in tenants or ():
        server = tenancy.servers[tenant.placement.server]
        if tenant.placement.isolation is not Isolation.ROWS:
            raise ConfigurationError(
                f"tenant {tenant.id!r} does not live in rows; set isolation = 'rows' first",
                tenant_id=tenant.id,
            )
        if server.kind != "postgresql":
            raise UnsupportedError(
                f"server {server.name!r} ({server.kind}) has no row-level security",
                tenant_id=tenant.id,
            )
    found = fleet.row_tables(tenancy.tenants() if tenants is None else tenants, tenancy.servers)
    if not found:
        raise ConfigurationError("no tenant lives in rows of a PostgreSQL server")
    return list(found)


def _print_or_run(
    application: Application, statements: dict[fleet.RowTables, list[str]], run: bool
) -> None:
    for tables, listed in statements.items():
        click.echo(f"-- {tables}")
        for statement in listed:
            click.echo(f"{statement};")
    if not run:
        render.say("nothing was changed; --yes runs these statements")
        return
    with fleet.Access(application.tenancy.servers) as access:
        for tables, listed in statements.items():
            if tables.server.admin is None:
                raise ConfigurationError(
                    f"server {tables.server.name!r} has no admin_url; give the login that owns "
                    "the tables"
                )
            with access.connect(tables.server, tables.database, admin=True) as connection:
                _run(connection, listed)
            render.say(f"{len(listed)} statements were run in {tables}")


def _run(connection: Connection, statements: Sequence[str]) -> None:
    bare = connection.execution_options(no_parameters=True)
    for statement in statements:
        bare.exec_driver_sql(statement)
    connection.commit()
