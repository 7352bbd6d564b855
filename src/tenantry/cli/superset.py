"""``tenantry superset``: ask a running Superset whether it leaks, and fill or empty its caches.

Runs in Superset's own environment too, so nothing here needs SQLAlchemy 2.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ..context import use
from ..integrations import superset as adapter
from ..servers import Secret
from ..tenant import Placement, Tenant

__all__ = ["superset"]

_STYLES = {"ok": "green", "leak": "bold red", "error": "red", "same": "yellow", "refused": "dim"}


@click.group()
def superset() -> None:
    """Tenants in a running Apache Superset: what leaks, and their caches."""


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        [
            click.option("--url", required=True, help="Where Superset is, from here."),
            click.option("--embedded", required=True, help="The dashboard's embedding id."),
            click.option(
                "--tenant",
                "tenants",
                multiple=True,
                required=True,
                help="A tenant id; give it several times.",
            ),
            click.option("--user", required=True, help="A staff account that reads the dashboard."),
            click.option(
                "--password-env",
                default="SUPERSET_PASSWORD",
                show_default=True,
                help="The environment variable with its password.",
            ),
            click.option(
                "--guest-secret-env",
                help="The variable with GUEST_TOKEN_JWT_SECRET; without it the staff account "
                "asks Superset for the tokens.",
            ),
            click.option(
                "--audience",
                default="http://0.0.0.0:8080/",
                show_default=True,
                help="GUEST_TOKEN_JWT_AUDIENCE, for tokens made with the secret.",
            ),
            click.option("--json", "as_json", is_flag=True, help="One JSON document."),
        ]
    ):
        command = option(command)
    return command


@superset.command()
@_common
@click.option("--threads", default=8, show_default=True, help="How many ask at once, at the end.")
@click.option("--rounds", default=2, show_default=True, help="How often each tenant asks.")
@click.option("--verbose", is_flag=True, help="Show the routes that were refused to guests too.")
def check(
    *,
    url: str,
    embedded: str,
    tenants: tuple[str, ...],
    user: str,
    password_env: str,
    guest_secret_env: str | None,
    audience: str,
    as_json: bool,
    threads: int,
    rounds: int,
    verbose: bool,
) -> None:
    """Ask for every row that a guest of a dashboard can get, as each tenant, and compare.

    Give two tenants or more whose rows differ. Nothing is changed but caches and one filter's
    state. Ends with 1 if anything leaked, failed or could not be told apart.
    """
    password = Secret.from_env(password_env)
    with _tokens(url, embedded, user, password, guest_secret_env, audience) as token:
        report = adapter.check(
            url,
            tenants=tenants,
            token=token,
            username=user,
            password=password,
            embedded=embedded,
            threads=threads,
            rounds=rounds,
        )
    if as_json:
        click.echo(json.dumps(_as_json(report), indent=2))
    else:
        _show(report, verbose)
    raise SystemExit(0 if report.clean else 1)


@superset.command()
@_common
def warm(
    *,
    url: str,
    embedded: str,
    tenants: tuple[str, ...],
    user: str,
    password_env: str,
    guest_secret_env: str | None,
    audience: str,
    as_json: bool,
) -> None:
    """Fill the caches of tenants with a dashboard's charts and filters."""
    password = Secret.from_env(password_env)
    with _tokens(url, embedded, user, password, guest_secret_env, audience) as token:
        warmed = adapter.warm(
            url,
            tenants=tenants,
            token=token,
            username=user,
            password=password,
            embedded=embedded,
        )
    if as_json:
        click.echo(json.dumps(warmed, indent=2))
        return
    for tenant_id, count in warmed.items():
        click.echo(f"{tenant_id}: {count} queries cached")


@superset.command()
@click.argument("tenant")
@click.option(
    "--redis-url-env",
    default="REDIS_URL",
    show_default=True,
    help="The environment variable with the address of Superset's Redis.",
)
@click.option(
    "--directory",
    "directories",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A CACHE_DIR of Superset's, where it caches in files; may be given again.",
)
def purge(*, tenant: str, redis_url_env: str, directories: tuple[Path, ...]) -> None:
    """Delete what Superset has cached for the guests of TENANT, in Redis or in files."""
    places = directories or (Secret.from_env(redis_url_env).reveal(),)
    purged = sum(adapter.purge(place, tenant) for place in places)
    click.echo(f"{purged} entries of {tenant} deleted")


@contextmanager
def _tokens(
    url: str, embedded: str, user: str, password: Secret, secret_env: str | None, audience: str
) -> Iterator[Callable[[str], str]]:
    """A function that makes a guest token for a tenant id."""
    person = os.environ.get("USER") or "tenantry"
    asked = None if secret_env else adapter.GuestTokens(url, user, password)

    def token(tenant_id: str) -> str:
        # Only the id goes into a token, so where the tenant lives need not be known here.
        with use(Tenant(tenant_id, Placement("superset"))):
            if asked is not None:
                return asked.token(embedded, person=person)
            assert secret_env is not None
            secret = Secret.from_env(secret_env)
            return adapter.mint(embedded, secret=secret, person=person, audience=audience)

    try:
        yield token
    finally:
        if asked is not None:
            asked.close()


def _as_json(report: adapter.Report) -> dict[str, Any]:
    return {
        "clean": report.clean,
        "counts": dict(report.counts()),
        "routes": {route: dict(counts) for route, counts in report.by_route().items()},
        "findings": [
            {
                "route": each.route,
                "tenant": each.tenant_id,
                "status": each.status,
                "note": each.note,
            }
            for each in report.findings
            if each.status not in ("ok", "refused")
        ],
    }


def _show(report: adapter.Report, verbose: bool) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("route", "found", "what"):
        table.add_column(column)
    for route, counts in report.by_route().items():
        if counts.keys() == {"refused"} and not verbose:
            continue
        found = ", ".join(
            f"[{_STYLES[status]}]{count} {status}[/]" for status, count in counts.items()
        )
        notes = {each.note for each in report.findings if each.route == route and each.note}
        table.add_row(route, found, "; ".join(sorted(notes)[:2]))
    console = Console()
    console.print(table)
    total = ", ".join(f"{count} {status}" for status, count in sorted(report.counts().items()))
    console.print(f"\n{'clean' if report.clean else 'NOT CLEAN'}: {total}")
