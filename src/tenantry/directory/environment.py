"""Tenants from environment variables, as ``DB_UK_HOST`` and ``DB_UK_PASS``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, make_url

from ..errors import ConfigurationError, MissingVariableError
from ..naming import is_tenant_id, shown
from .settings import SettingError, Settings, read_settings, sqlite_path

__all__ = ["read_environment"]

_REQUIRED = ("HOST", "PASS")
_OPTIONAL = ("USER", "DB", "PORT", "DRIVER", "ISOLATION", "SCHEMA")
_TELLS = ("HOST", "PASS", "URL")
_HOST_AND_PORT = re.compile(r"[^:]+:[0-9]+")


def read_environment(prefix: str, environ: Mapping[str, str]) -> Settings:
    """Settings from *environ*; see :func:`~tenantry.directory.from_env`."""
    names = _tenant_names(prefix, environ)
    servers: dict[str, Any] = {}
    tenants: dict[str, Any] = {}
    settings = {"servers": servers, "tenants": tenants}
    for name in names:
        variables = _Variables(f"{prefix}{name}_", environ)
        tenant_id = name.lower()
        if tenant_id != "shared" and not is_tenant_id(tenant_id):
            raise ConfigurationError(
                f"the variable {variables.first()} would make a tenant {shown(tenant_id)}, which "
                "is not a tenant id; rename it, or choose another prefix"
            )
        server, place = variables.read(tenant_id)
        servers[tenant_id] = server
        if tenant_id == "shared":
            settings["shared"] = {key: place[key] for key in place if key != "isolation"}
        else:
            tenants[tenant_id] = place
    try:
        return read_settings(settings, Path())
    except SettingError as error:
        name = error.path[0] if error.path[0] == "shared" else error.path[1]
        variables = _Variables(f"{prefix}{name.upper()}_", environ)
        raise ConfigurationError(f"{variables.named(error.path[-1])}: {error.problem}") from None


def _tenant_names(prefix: str, environ: Mapping[str, str]) -> list[str]:
    pattern = re.compile(f"{re.escape(prefix)}([A-Z0-9_]+)_(?:{'|'.join(_TELLS)})")
    found = (pattern.fullmatch(variable) for variable in environ)
    names = {match[1] for match in found if match is not None}
    return sorted(name for name in names if not _is_service_link(prefix + name, environ))


def _is_service_link(start: str, environ: Mapping[str, str]) -> bool:
    """Whether Kubernetes set these for a service like ``db-uk`` (its manual, *Service*)."""
    return (
        start.endswith("_SERVICE")
        and f"{start}_PORT" in environ
        and f"{start}_PASS" not in environ
        and f"{start}_URL" not in environ
    )


class _Variables:
    """The variables of one tenant."""

    def __init__(self, start: str, environ: Mapping[str, str]) -> None:
        self._start = start
        self._environ = environ

    def get(self, what: str) -> str | None:
        return self._environ.get(self._start + what) or None

    def first(self) -> str:
        return next(self._start + each for each in _TELLS if self._start + each in self._environ)

    def named(self, key: str) -> str:
        """The variable that a key of the settings came from."""
        what = {"isolation": "ISOLATION", "schema": "SCHEMA", "url": "URL", "database": "DB"}
        return self._start + what.get(key, "*")

    def read(self, tenant_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
        url = self._from_url() if self.get("URL") else self._from_parts()
        server: dict[str, Any] = {}
        place: dict[str, Any] = {"server": tenant_id}
        for key, what in (("isolation", "ISOLATION"), ("schema", "SCHEMA")):
            if (value := self.get(what)) is not None:
                place[key] = value
        if url.get_backend_name() == "sqlite":
            file = self._file(url)
            url, place["database"] = url.set(database=str(file.parent)), file.name
            server["create_missing"] = True  # as for any plain URL
        elif url.database:
            place["database"] = url.database
        server["url"] = url
        if self._start + "PASS" in self._environ:
            server["password"] = self._password(self._start + "PASS")
        return server, place

    def _from_url(self) -> URL:
        for each in ("HOST", "USER", "DB", "PORT", "DRIVER"):
            if self.get(each) is not None:
                raise ConfigurationError(
                    f"{self._start}URL and {self._start}{each} say the same; keep one of them"
                )
        try:
            url = make_url(self._environ[self._start + "URL"])
            url.get_backend_name()
            return url
        except Exception:  # the message would repeat the URL and its password
            raise ConfigurationError(
                f"the value of {self._start}URL is not a database URL; "
                "it looks like postgresql+psycopg://user@host:5432/database"
            ) from None

    def _from_parts(self) -> URL:
        if self.get("HOST") is None:
            raise self._missing("HOST")
        if self._start + "PASS" not in self._environ:
            raise self._missing("PASS")
        host = self._environ[self._start + "HOST"]
        if _HOST_AND_PORT.fullmatch(host):
            raise ConfigurationError(
                f"{self._start}HOST holds a port as well; put that into {self._start}PORT"
            )
        driver = self.get("DRIVER") or "postgresql"
        if not re.fullmatch(r"[a-z0-9_]+(?:\+[a-z0-9_]+)?", driver) or driver.startswith("sqlite"):
            raise ConfigurationError(
                f"{self._start}DRIVER must be like postgresql+psycopg or mysql+pymysql; for SQLite "
                f"set {self._start}URL"
            )
        port = self.get("PORT")
        if port is not None and not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536):
            raise ConfigurationError(f"{self._start}PORT must be a number from 1 to 65535")
        default = "postgres" if driver.startswith("postgresql") else None
        return URL.create(
            driver,
            username=self.get("USER") or "superset",
            host=host,
            port=int(port) if port is not None else None,
            database=self.get("DB") or default,
        )

    def _file(self, url: URL) -> Path:
        try:
            return sqlite_path(url, Path(), ()).resolve()
        except SettingError as error:
            raise ConfigurationError(f"{self._start}URL: {error.problem}") from None

    def _missing(self, what: str) -> MissingVariableError:
        wanted = self._start + what
        known = {self._start + each for each in (*_TELLS, *_OPTIONAL)}
        others = [each for each in self._environ if each.startswith(self._start)]
        near = difflib.get_close_matches(wanted, [each for each in others if each not in known], 1)
        hint = f" ({near[0]} is; rename it)" if near else ""
        return MissingVariableError(
            f"the environment variable {wanted} is not set{hint}; a tenant needs "
            f"{self._start}HOST and {self._start}PASS, or {self._start}URL"
        )

    def _password(self, variable: str) -> Callable[[], str]:
        environ = self._environ

        def read() -> str:
            try:
                return environ[variable]
            except KeyError:
                raise MissingVariableError(
                    f"the environment variable {variable} is not set; it must hold a password"
                ) from None

        return read
