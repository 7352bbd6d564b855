"""Where ``tenantry`` starts; says how to install what the command line needs, if it is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import click

    from ..tenancy import Tenancy

__all__ = ["main", "tenants_group"]


def main() -> None:
    """The program ``tenantry``."""
    try:
        from .program import main as program
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.stderr.write(
            f"tenantry: the command line needs {error.name!r}, which is not installed; "
            "run `pip install 'tenantry[cli]'`\n"
        )
        sys.exit(2)
    program()


def tenants_group(
    make: Callable[[], Tenancy],
    name: str = "tenants",
    *,
    around: Callable[[], AbstractContextManager[object]] | None = None,
) -> click.Group:
    """The same commands as a group for another program, on the Tenancy that *make* returns.

    *around* gives what each command runs in, and each function that ``run`` calls in a thread:
    ``app.app_context`` of a web application. ``flask tenants ...`` is this group.
    """
    from .program import tenants_group as group

    return group(make, name, around=around)


def __getattr__(name: str) -> Any:
    # The group itself, for whoever runs commands in this process (tests, other programs).
    if name != "tenantry":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .program import tenantry

    return tenantry
