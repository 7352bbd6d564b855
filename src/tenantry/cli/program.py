"""The program ``tenantry``: commands over the functions of :mod:`tenantry.fleet`.

Each command's module is loaded when the command is used, so an extra that is not installed
concerns only the command that needs it.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import click

from ..errors import (
    CallerError,
    ConfigurationError,
    MissingDependencyError,
    TenantryError,
    UnknownTenantError,
)

if TYPE_CHECKING:
    from ..tenancy import Tenancy

__all__ = ["exit_code_of", "main", "tenantry", "tenants_group"]

#: Command -> (module, attribute, what it does). Modules are siblings of this one.
COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "list": ("tenants", "list_", "List tenants: where each lives, and its state."),
    "show": ("tenants", "show", "Show one tenant and its place."),
    "create": ("tenants", "create", "Create tenants, or finish what a crash interrupted."),
    "clone": ("tenants", "clone", "Create a tenant as a copy of another."),
    "spares": ("tenants", "spares", "Keep a warm pool of places for new tenants."),
    "suspend": ("tenants", "suspend", "Let tenants serve no requests; their data stays."),
    "resume": ("tenants", "resume", "Let suspended tenants serve requests again."),
    "delete": ("tenants", "delete", "Drop tenants' databases, schemas or files for good."),
    "sweep": ("tenants", "sweep", "Mend what crashes left of creations and deletions."),
    "migrate": ("migrations", "migrate", "Bring tenants to a revision, up or down."),
    "status": ("migrations", "status", "Say where every tenant stands."),
    "revision": ("migrations", "revision", "Write a new revision from the models."),
    "run": ("work", "run", "Call a function, or run a program, in each tenant."),
    "sql": ("work", "sql", "Run one SQL statement in each tenant."),
    "shell": ("work", "shell", "A Python shell inside one tenant."),
    "doctor": ("doctor", "doctor", "Compare the directory with the servers."),
    "rows": ("rows", "rows", "Row-level security of tables that tenants share."),
    "demo": ("demo", "demo", "A web application with three tenants, on this machine."),
    "superset": ("superset", "superset", "Databases and users of tenants in Apache Superset."),
}

_SETTINGS = {"help_option_names": ["-h", "--help"]}
_EXTRAS = {"demo": "flask,cli", "superset": "superset"}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    commands_by_name: Mapping[str, tuple[str, str, str]] = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands_by_name, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = self.commands_by_name.get(cmd_name)
        if known is None:
            return super().get_command(ctx, cmd_name)
        module_name, attribute, _ = known
        try:
            module = importlib.import_module(f"tenantry.cli.{module_name}")
        except ModuleNotFoundError as error:
            return _unavailable(cmd_name, error)
        command: click.Command = getattr(module, attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, known[2]) for name, known in self.commands_by_name.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Errors of ours become one line and an exit code; here for every way in."""
        try:
            return super().invoke(ctx)
        except TenantryError as error:
            line = " ".join(str(error).split())
            click.echo(f"{ctx.find_root().info_name or 'tenantry'}: {line}", err=True)
            raise click.exceptions.Exit(exit_code_of(error)) from None


def exit_code_of(error: TenantryError) -> int:
    """2 if the command was used wrongly (caller, configuration, unknown tenant), else 1."""
    used_wrongly = (CallerError, ConfigurationError, UnknownTenantError)
    return 2 if isinstance(error, used_wrongly) else 1


def _unavailable(name: str, error: ModuleNotFoundError) -> click.Command:
    extra = _EXTRAS.get(name, "cli")
    missing = MissingDependencyError(
        f"`tenantry {name}` needs {error.name!r}, which is not installed; "
        f"run `pip install 'tenantry[{extra}]'`"
    )

    def fail(**_options: Any) -> None:
        raise missing

    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(name, callback=fail, context_settings=settings)


def _application_options(function: Callable[..., Any]) -> Callable[..., Any]:
    from .options import application_options

    return application_options(function)


@click.group(cls=LazyGroup, context_settings=_SETTINGS)
@_application_options
@click.version_option(version("tenantry"), prog_name="tenantry")
def tenantry() -> None:
    """Make, move, migrate and mend every tenant of an application.

    Ends with 0 if all is done, 1 if some tenants failed, 2 if it was used wrongly.
    """


def tenants_group(
    make: Callable[[], Tenancy],
    name: str = "tenants",
    *,
    around: Callable[[], AbstractContextManager[object]] | None = None,
) -> click.Group:
    """See :func:`tenantry.cli.main.tenants_group`."""
    summary = "Make, move, migrate and mend every tenant."

    @click.group(name, cls=LazyGroup, help=summary, context_settings=_SETTINGS)
    @click.pass_context
    def group(ctx: click.Context) -> None:
        from .options import Application  # brings in the fleet: only when a command is used

        if around is not None:
            ctx.with_resource(around())
        ctx.obj = Application(make=make, around=around)

    return group


def main() -> None:
    """Where ``tenantry`` starts."""
    try:
        tenantry.main(prog_name="tenantry")
    except TenantryError as error:
        click.echo(f"tenantry: {' '.join(str(error).split())}", err=True)
        sys.exit(exit_code_of(error))
