"""Which Tenancy a command works on: named by option, environment or ``pyproject.toml``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError, TenantryError
from ..naming import shown
from ..tenancy import Tenancy

__all__ = ["Source", "find_source", "project_settings"]

_toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


@dataclass(frozen=True)
class Source:
    """Where a Tenancy comes from, in a form that another process can use.

    *app* is ``module:attribute`` (a Tenancy, or a function that returns one), *file* a TOML
    file of servers and tenants. *folder* is put on the import path.
    """

    app: str | None = None
    file: str | None = None
    folder: str = "."

    def load(self) -> Tenancy:
        """The Tenancy itself.

        Raises:
            ConfigurationError: There is no such module or attribute, or it is no Tenancy.
        """
        if self.file is not None:
            return Tenancy.from_file(self.file)
        assert self.app is not None
        folder = str(Path(self.folder).resolve())
        if folder not in sys.path:
            sys.path.insert(0, folder)
        found = import_named(self.app, "the application")
        if not isinstance(found, Tenancy) and callable(found):
            found = found()
        found = getattr(found, "tenancy", found)
        if not isinstance(found, Tenancy):
            raise ConfigurationError(
                f"{self.app} is a {type(found).__name__}, not a Tenancy; name the attribute that "
                "holds one, as in module:tenancy"
            )
        return found


def find_source(
    app: str | None = None,
    file: str | Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    folder: str | Path = ".",
) -> Source:
    """The application to work on: *file*, *app*, ``TENANTRY_APP``, or ``[tool.tenantry]``.

    ``pyproject.toml`` is looked for in *folder* and the folders above it; it may say ``app`` or
    ``file``.

    Raises:
        ConfigurationError: Nothing names one, or two options do.
    """
    if app and file:
        raise ConfigurationError("say either --app or --file, not both")
    if file:
        return Source(file=str(file))
    if app := (app or environ.get("TENANTRY_APP")):
        return Source(app=app, folder=str(folder))
    settings, home = project_settings(folder)
    if "app" in settings:
        return Source(app=str(settings["app"]), folder=str(home))
    if "file" in settings:
        return Source(file=str(home / str(settings["file"])))
    raise ConfigurationError(
        "no application is named; set TENANTRY_APP=module:tenancy, write it under "
        "[tool.tenantry] in pyproject.toml, or give --file tenants.toml"
    )


def project_settings(folder: str | Path = ".") -> tuple[Mapping[str, Any], Path]:
    """``[tool.tenantry]`` of the nearest ``pyproject.toml``, and the folder it lies in.

    Raises:
        ConfigurationError: The file cannot be read.
    """
    start = Path(folder).resolve()
    for home in (start, *start.parents):
        file = home / "pyproject.toml"
        if not file.is_file():
            continue
        try:
            content = _toml.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, _toml.TOMLDecodeError) as error:
            raise ConfigurationError(f"{file} cannot be read: {error}") from None
        settings = content.get("tool", {}).get("tenantry", {})
        if not isinstance(settings, Mapping):
            raise ConfigurationError(f"{file}: tool.tenantry must be a table")
        return settings, home
    return {}, start


def import_named(name: str, what: str) -> Any:
    """What ``module:attribute`` names.

    Raises:
        ConfigurationError: It cannot be imported; the message names the module at fault.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigurationError(f"{shown(name)} does not name {what}; write module:attribute")
    try:
        found: Any = importlib.import_module(module_name)
    except TenantryError:
        raise
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{what} {name} cannot be imported: there is no module {error.name!r}; run the "
            "command in the folder of the project, or install what is missing"
        ) from error
    except Exception as error:
        raise ConfigurationError(
            f"{what} {name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigurationError(f"module {module_name} has no {attribute!r}") from None
    return found
