"""``tenantry demo``: a web application with several tenants, made and asked before your eyes."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import ExitStack

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from ..demo.application import create_app
from ..demo.orders import SHOPS
from ..demo.serving import QUESTIONS, ask, claimed, served
from ..demo.world import KINDS, add_tenant, opened
from ..tenancy import Tenancy

__all__ = ["demo"]

_COLOURS = {"uk": "blue", "aus": "dark_orange", "eu": "green"}


@click.command()
@click.option(
    "--server",
    type=click.Choice(KINDS),
    default="sqlite",
    show_default=True,
    help="Where the tenants live: files in a temporary folder, or a PostgreSQL started for it.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port of 127.0.0.1; 0: a free one."
)
@click.option("--once", is_flag=True, help="End after the transcript; so without a terminal.")
def demo(server: str, port: int, once: bool) -> None:
    """A web application with the tenants uk, aus and eu, each in its own database.

    Makes them, asks the application over HTTP in every way, then serves until Ctrl-C.
    """
    once = once or os.environ.get("DEMO_ONCE") == "1" or not sys.stdout.isatty()
    # The width of a paper where there is no terminal, so that lines are not broken in a log.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    # Everything made here goes, also when a supervisor ends it or the terminal is closed.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: sys.exit(0))
    with ExitStack() as stack:
        listener = stack.enter_context(claimed(port))
        if server == "postgresql":
            console.print("Starting a PostgreSQL for this demonstration ...", style="dim")
        tenancy = stack.enter_context(opened(server))
        _make_tenants(console, tenancy)
        port = stack.enter_context(served(create_app(tenancy), listener))
        _transcript(console, port)
        if once:
            return
        console.print(
            f"\n[bold]Serving[/] http://127.0.0.1:{port}/?tenant=uk and "
            f"http://aus.localhost:{port}/ [dim](Ctrl-C ends it)[/]",
            soft_wrap=True,
        )
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            console.print("\nStopped; its databases are removed.", style="dim")


def _make_tenants(console: Console, tenancy: Tenancy) -> None:
    table = Table("tenant", "state", "place", "orders", title=None, box=None, header_style="dim")
    columns = (TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.completed}/4"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("Making tenants", total=len(SHOPS))
        for tenant_id, shop in SHOPS.items():
            progress.update(task, description=f"Making tenant {tenant_id}")
            tenant = add_tenant(tenancy, tenant_id)
            table.add_row(
                Text(tenant_id, f"bold {_COLOURS.get(tenant_id, 'dim')}"),
                str(tenant.state),
                str(tenant.placement),
                str(len(shop.orders)),
            )
            progress.advance(task)
    console.print(table)


def _transcript(console: Console, port: int) -> None:
    """Ask over HTTP and show what was asked and what came back."""
    for question in QUESTIONS:
        status, answer = ask(question, port)
        console.print(f"\n[dim]$[/] {question.command(port)}", soft_wrap=True)
        console.print(_line(status, answer), soft_wrap=True)


def _line(status: int, answer: dict[str, object]) -> Text:
    line = Text("  ")
    if status != 200:
        line.append(f"{status} ", "bold red")
        return line.append(str(answer["error"]))
    line.append("200 ", "bold green")
    line.append(str(answer["tenant"]), f"bold {_COLOURS.get(str(answer['tenant']), '')}")
    orders = answer["orders"]
    assert isinstance(orders, list)
    line.append(f" from {answer['database']}, named by {answer['because']}: ")
    return line.append(f"{len(orders)} orders, {answer['total']}")
