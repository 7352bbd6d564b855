"""Tenants from URLs: ``{"uk": url, "aus": {"url": ...}}``, also the shape of SQLALCHEMY_BINDS."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

from ..naming import shown
from ..servers import Server
from .settings import (
    SERVER_KEYS,
    TENANT_KEYS,
    SettingError,
    Settings,
    check_keys,
    key_of,
    make_server,
    make_shared,
    make_tenant,
    read_settings,
    sqlite_path,
    url_of,
)

__all__ = ["read_mapping"]

_logger = logging.getLogger("tenantry")

# What create_engine() takes. There is one engine for all tenants, so a bind cannot set them.
_ENGINE_OPTIONS = frozenset(
    {
        "creator",
        "echo",
        "echo_pool",
        "execution_options",
        "future",
        "hide_parameters",
        "isolation_level",
        "json_deserializer",
        "json_serializer",
        "label_length",
        "logging_name",
        "max_overflow",
        "module",
        "paramstyle",
        "plugins",
        "pool",
        "pool_logging_name",
        "pool_pre_ping",
        "pool_recycle",
        "pool_reset_on_return",
        "pool_size",
        "pool_timeout",
        "pool_use_lifo",
        "poolclass",
        "query_cache_size",
        "use_insertmanyvalues",
    }
)


def read_mapping(mapping: Mapping[Any, Any], folder: Path) -> Settings:
    """Settings from either form of mapping; see :func:`~tenantry.directory.from_mapping`."""
    for key in ("servers", "tenants"):
        if isinstance(mapping.get(key), Mapping) and "url" not in mapping[key]:
            return read_settings(mapping, folder)
    return _Binds(folder).read(mapping)


class _Binds:
    """Reads ``{"uk": url, "aus": {"url": ...}}``: URLs of one login become one server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = Settings()
        self._logins: dict[Any, Server] = {}

    def read(self, mapping: Mapping[Any, Any]) -> Settings:
        for tenant_id, value in mapping.items():
            path = (key_of(tenant_id),)
            table = dict(value) if isinstance(value, Mapping) else {"url": value}
            for option in _ENGINE_OPTIONS & table.keys():
                del table[option]
                _logger.warning(
                    "%s.%s is left out: all tenants share an engine, whose options Tenancy takes",
                    shown(tenant_id),
                    option,
                )
            check_keys(table, {**SERVER_KEYS, **TENANT_KEYS}, path)
            if "server" in table:
                raise SettingError((*path, "server"), "an entry with a URL names no server")
            server, database = self._place(table, path)
            if tenant_id == "shared":
                self._read.shared = make_shared(
                    server, table.get("database", database), table.get("schema")
                )
                continue
            table = {"database": database, **table, "server": server.name}
            self._read.tenants.append(make_tenant(tenant_id, table, self._read.servers, path))
        return self._read

    def _place(self, table: dict[str, Any], path: tuple[str, ...]) -> tuple[Server, str | None]:
        url = url_of(table, path)
        database = url.database or None
        if url.get_backend_name() == "sqlite":
            file = sqlite_path(url, self._folder, (*path, "url")).resolve()
            url, database = url.set(database=str(file.parent)), file.name
        more = {key: table[key] for key in SERVER_KEYS if key in table and key != "url"}
        # A plain URL means what it means to SQLAlchemy: a missing SQLite file is made.
        more.setdefault("create_missing", url.get_backend_name() == "sqlite")
        login = (
            url.set(database="") if url.get_backend_name() != "sqlite" else url,
            repr(sorted(more.items(), key=lambda item: item[0])),
        )
        server = self._logins.get(login)
        if server is None:
            name = self._name(url)
            server = make_server(name, {"url": url, **more}, self._folder, path)
            self._logins[login] = self._read.servers[name] = server
        return server, database

    def _name(self, url: URL) -> str:
        plain = re.sub(r"[^A-Za-z0-9.-]+", "-", url.host or "").strip(".-")[:50]
        name = first = plain or url.get_backend_name()
        count = 1
        while name in self._read.servers:
            count += 1
            name = f"{first}-{count}"
        return name
