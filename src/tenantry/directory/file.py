"""Tenants from a TOML file, each mistake named with its line and key."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from ..errors import DirectoryFileError
from .settings import SettingError, Settings, read_settings

__all__ = ["read_file"]

# The standard library has it from Python 3.11 on.
_toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

_LINE = re.compile(r"line (\d+)")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_.-]|"[^"]*"|'[^']*')+)\s*(?:=|$)""")
_HEADER = re.compile(r"\s*\[+([^\]=]*)(\]|$)")


def read_file(path: Path) -> Settings:
    """Settings from the TOML file *path*; see :func:`~tenantry.directory.from_file`."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise DirectoryFileError(
            f"the tenants file {path} cannot be read: {error.strerror}; name an existing file"
        ) from None
    except UnicodeDecodeError as error:
        raise DirectoryFileError(f"{path}, byte {error.start}: is not UTF-8; save it so") from None
    try:
        settings = _toml.loads(text)
    except _toml.TOMLDecodeError as error:
        raise DirectoryFileError(f"{path}, {_syntax(text, str(error))}") from None
    try:
        _refuse_secrets(settings)
        return read_settings(settings, path.absolute().parent)
    except SettingError as error:
        line = _line_of(text, error.path)
        place = f"{path}, line {line}" if line else f"{path}"
        raise DirectoryFileError(f"{place}, {error}") from None


def _refuse_secrets(settings: dict[str, Any]) -> None:
    servers = settings.get("servers", {})
    for name, table in servers.items() if isinstance(servers, dict) else ():
        for key in ("password", "admin_password"):
            if isinstance(table, dict) and key in table:
                raise SettingError(
                    ("servers", name, key),
                    f"no secret stands in this file; use {key}_env or {key}_file",
                )


def _syntax(text: str, message: str) -> str:
    """The parser's message with line and key. It quotes single characters, never a value."""
    lines = text.splitlines()
    found = _LINE.search(message)
    number = int(found[1]) if found else max(len(lines), 1)
    problem = message.split(" (at ")[0]
    key = ""
    header = ""
    for line in lines[:number]:
        if (match := _HEADER.match(line)) is not None:
            header, key = match[1].strip(), ""
        elif (match := _KEY.match(line)) is not None:
            key = match[1]
    place = ".".join(part for part in (header, key) if part)
    return f"line {number}{f', {place}' if place else ''}: {problem[0].lower()}{problem[1:]}"


def _line_of(text: str, path: tuple[str, ...]) -> int | None:
    """The line on which the key *path* is set; ``None`` if it is written in a rarer form."""
    best = None
    header: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if (match := _HEADER.match(line)) is not None and match[2]:
            header = _parts(match[1])
            here = header
        elif (match := _KEY.match(line)) is not None:
            here = (*header, *_parts(match[1]))
        else:
            continue
        if here == path:
            return number
        if best is None and here == path[: len(here)] and len(here) == len(path) - 1:
            best = number
    return best


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in key.split("."))
