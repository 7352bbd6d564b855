"""Options that many commands share, and how a command finds its application."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
from sqlalchemy import MetaData

from ..errors import CallerError, ConfigurationError
from ..fleet import Selection, Source, find_source, import_named, project_settings
from ..tenancy import Tenancy
from ..tenant import Isolation, State, Tenant

__all__ = [
    "Application",
    "application_options",
    "dry_run_option",
    "find_metadata",
    "json_option",
    "metadata_option",
    "pass_application",
    "selection_options",
    "workers_option",
]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Application:
    """The application a command works on; loaded when it is first asked for."""

    app: str | None = None
    file: str | None = None
    make: Callable[[], Tenancy] | None = None
    around: Callable[[], AbstractContextManager[object]] | None = None
    _tenancy: Tenancy | None = field(default=None, repr=False)

    @property
    def source(self) -> Source | None:
        """Where it comes from, for other processes; ``None`` inside a web framework's command."""
        return find_source(self.app, self.file) if self.make is None else None

    @property
    def tenancy(self) -> Tenancy:
        """The Tenancy.

        Raises:
            ConfigurationError: No application is named, or two, or it cannot be loaded.
        """
        if self._tenancy is None:
            if self.make is not None and (self.app or self.file):
                raise ConfigurationError(
                    "this command works on the program's own application; --app and --file are "
                    "options of the program `tenantry`"
                )
            if self.make is not None:
                self._tenancy = self.make()
            else:
                source = self.source
                assert source is not None
                self._tenancy = source.load()
        return self._tenancy


pass_application = click.make_pass_decorator(Application, ensure=True)


def _remember(name: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def callback(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            setattr(context.ensure_object(Application), name, value)

    return callback


def application_options(function: F) -> F:
    """``--app`` and ``--file``; on the whole program and on each command."""
    for option in (
        click.option(
            "--file",
            metavar="TOML",
            expose_value=False,
            callback=_remember("file"),
            help="A file of servers and tenants; needs no application.",
        ),
        click.option(
            "--app",
            metavar="MODULE:TENANCY",
            expose_value=False,
            callback=_remember("app"),
            help="The application; else TENANTRY_APP or [tool.tenantry] in pyproject.toml.",
        ),
    ):
        function = option(function)
    return function


def metadata_option(function: F) -> F:
    """``--metadata``: the models' metadata, given as ``metadata_name``; see `find_metadata`."""
    return click.option(
        "--metadata",
        "metadata_name",
        metavar="MODULE:METADATA",
        help="The models' metadata, as in app.models:Base.metadata; else `metadata` under "
        "[tool.tenantry] in pyproject.toml.",
    )(function)


def find_metadata(given: str | None) -> MetaData | None:
    """The metadata that *given* or ``pyproject.toml`` names; ``None``: neither names any.

    Raises:
        ConfigurationError: It cannot be imported, or is no metadata.
    """
    home = Path.cwd()
    if given is None:
        settings, home = project_settings()
        given = settings.get("metadata")
    if given is None:
        return None
    if str(home) not in sys.path:
        sys.path.insert(0, str(home))
    found = import_named(str(given), "the metadata")
    if not isinstance(found, MetaData):
        raise ConfigurationError(
            f"{given} is a {type(found).__name__}, not a MetaData; write module:Base.metadata"
        )
    return found


def selection_options(function: F) -> F:
    """Tenants by id or glob, state, server, isolation, attribute; given as ``selection``."""
    options = [
        click.argument("tenants", nargs=-1),
        *_selection_by_option(),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def tenant_options(function: F) -> F:
    """The same selection, with ``--tenant`` in place of arguments."""
    options = [
        click.option(
            "--tenant",
            "tenants",
            multiple=True,
            metavar="ID",
            help="A tenant id or glob; may be repeated. Without any: all tenants.",
        ),
        *_selection_by_option(),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _selection_by_option() -> list[Callable[[Any], Any]]:
    return [
        click.option(
            "--state",
            "states",
            multiple=True,
            type=click.Choice([each.value for each in State]),
            help="Only tenants in this state; may be repeated.",
        ),
        click.option(
            "--server",
            "servers",
            multiple=True,
            metavar="NAME",
            help="Only tenants on this server (a name or glob); may be repeated.",
        ),
        click.option(
            "--isolation",
            "isolations",
            multiple=True,
            type=click.Choice([each.value for each in Isolation]),
            help="Only tenants kept apart this way; may be repeated.",
        ),
        click.option(
            "--attribute",
            "attributes",
            multiple=True,
            metavar="KEY=VALUE",
            help="Only tenants with this attribute; may be repeated.",
        ),
    ]


def selection(
    tenants: tuple[str, ...],
    states: tuple[str, ...],
    servers: tuple[str, ...],
    isolations: tuple[str, ...],
    attributes: tuple[str, ...],
) -> Selection:
    """The selection that the options say."""
    return Selection(
        ids=tenants,
        states=tuple(State(each) for each in states),
        servers=servers,
        isolations=tuple(Isolation(each) for each in isolations),
        attributes=pairs(attributes),
    )


def chosen(application: Application, options: dict[str, Any]) -> list[Tenant]:
    """Takes the selection's options out of *options* and gives the tenants they mean."""
    names = ("tenants", "states", "servers", "isolations", "attributes")
    wanted = selection(*(options.pop(name) for name in names))
    return wanted.of(application.tenancy.tenants())


def pairs(values: tuple[str, ...]) -> dict[str, str]:
    """``("plan=gold",)`` as a mapping.

    Raises:
        CallerError: One has no equals sign.
    """
    found = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key:
            raise CallerError(f"{value!r} is not KEY=VALUE")
        found[key] = text
    return found


def json_option(function: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(
        function
    )


def dry_run_option(function: F) -> F:
    """``--dry-run``."""
    return click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")(
        function
    )


def workers_option(function: F) -> F:
    """``--workers``."""
    return click.option(
        "--workers",
        type=click.IntRange(1, 64),
        default=4,
        show_default=True,
        help="How many tenants are worked on at a time.",
    )(function)


def budget_option(function: F) -> F:
    """``--max-failures``."""
    return click.option(
        "--max-failures",
        "failure_budget",
        type=click.IntRange(0),
        default=None,
        metavar="N",
        help="Begin no further tenant after more than N failed; else all are tried.",
    )(function)
