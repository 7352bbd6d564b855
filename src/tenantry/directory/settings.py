"""From nested settings to servers and tenants, each mistake named with its place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, make_url

from ..errors import ConfigurationError, TenantryError
from ..naming import is_identifier, is_tenant_id, shown
from ..servers import Server
from ..tenant import Isolation, Placement, State, Switch, Tenant
from .base import default_database, place_of

__all__ = [
    "SERVER_KEYS",
    "TENANT_KEYS",
    "SettingError",
    "Settings",
    "check_keys",
    "key_of",
    "make_server",
    "make_shared",
    "make_tenant",
    "read_settings",
    "sqlite_path",
    "url_of",
]

_URLS = (str, URL)
_PASSWORDS = (str, Callable)
SERVER_KEYS: Mapping[str, tuple[Any, ...]] = {
    "url": _URLS,
    "password": _PASSWORDS,
    "password_env": (str,),
    "password_file": (str, Path),
    "max_connections": (int,),
    "async_driver": (str,),
    "connect_args": (Mapping,),
    "shared_schema": (str,),
    "create_missing": (bool,),
    "switch": (str,),
    "pooler": (bool,),
    "citus": (bool,),
    "direct_url": _URLS,
    "admin_url": _URLS,
    "admin_password": _PASSWORDS,
    "admin_password_env": (str,),
    "admin_password_file": (str, Path),
}
TENANT_KEYS: Mapping[str, tuple[Any, ...]] = {
    "server": (str,),
    "isolation": (str,),
    "database": (str,),
    "schema": (str,),
    "switch": (str,),
    "role": (str,),
    "key": (str,),
    "state": (str,),
    "attributes": (Mapping,),
    "identifiers": (list, tuple),
    "untrusted_sql": (bool,),
}
_SHARED_KEYS = {key: TENANT_KEYS[key] for key in ("server", "database", "schema")}
_TOP_KEYS: Mapping[str, tuple[Any, ...]] = {
    "servers": (Mapping,),
    "tenants": (Mapping,),
    "shared": (Mapping,),
}
_WORDS: Mapping[Any, str] = {
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    list: "a list of strings",
    Mapping: "a table",
}
_SERVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def key_of(key: object) -> str:
    """A key of a mapping as text, whatever it is."""
    return key if isinstance(key, str) else shown(key)


class SettingError(ConfigurationError):
    """A mistake at *path*, the keys from the outermost inwards; *problem* is what is wrong."""

    def __init__(self, path: Sequence[str], problem: str) -> None:
        self.path = tuple(path)
        self.problem = problem
        place = ".".join(each if each.isidentifier() else shown(each) for each in self.path)
        super().__init__(f"{place}: {problem}" if place else problem)


@dataclass
class Settings:
    """What was read. *shared* is where what belongs to no tenant lives."""

    tenants: list[Tenant] = field(default_factory=list)
    servers: dict[str, Server] = field(default_factory=dict)
    shared: Placement | None = None


def read_settings(settings: Mapping[str, Any], folder: Path) -> Settings:
    """Settings from ``{"servers": ..., "tenants": ..., "shared": ...}``."""
    check_keys(settings, _TOP_KEYS, ())
    read = Settings()
    for name, table in settings.get("servers", {}).items():
        path: tuple[str, ...] = ("servers", key_of(name))
        if not isinstance(name, str) or _SERVER_NAME.fullmatch(name) is None:
            raise SettingError(path, "a server's name has letters, digits, dots, - and _ only")
        check_keys(_table(table, path), SERVER_KEYS, path)
        read.servers[name] = make_server(name, table, folder, path)
    for tenant_id, table in settings.get("tenants", {}).items():
        path = ("tenants", key_of(tenant_id))
        check_keys(_table(table, path), TENANT_KEYS, path)
        read.tenants.append(make_tenant(tenant_id, table, read.servers, path))
    if "shared" in settings:
        table, path = settings["shared"], ("shared",)
        check_keys(table, _SHARED_KEYS, path)
        server = _server_of(table, read.servers, path)
        read.shared = make_shared(server, table.get("database"), table.get("schema"))
    return read


def sqlite_path(url: URL, folder: Path, path: tuple[str, ...]) -> Path:
    """The absolute path that a SQLite URL names, relative to *folder*."""
    database = url.database or ""
    if database in ("", ":memory:") or url.query.get("mode") == "memory":
        raise SettingError(
            path,
            "a database in memory is one per connection; name a file, a temporary one for tests",
        )
    if database.startswith("file:"):
        raise SettingError(path, "SQLite's file: form is not read; write sqlite:///path/to/file.db")
    return (folder / database).absolute()


def make_server(name: str, table: Mapping[str, Any], folder: Path, path: tuple[str, ...]) -> Server:
    options = dict(table)
    url = options["url"] = url_of(table, path)
    if url.get_backend_name() == "sqlite":
        root = sqlite_path(url, folder, (*path, "url"))
        options["url"] = url.set(database=str(root))
    for key in ("password_file", "admin_password_file"):
        if key in options:
            options[key] = folder / options[key]
    if "switch" in options:
        options["switch"] = _choice(options, "switch", None, Switch, path)
    try:
        return Server.from_url(name, **options)
    except TenantryError as error:
        raise SettingError(path, str(error)) from None


def url_of(table: Mapping[str, Any], path: tuple[str, ...]) -> URL:
    if "url" not in table:
        raise SettingError(path, "the key url is missing")
    try:
        url = make_url(table["url"])
        url.get_backend_name()
        return url
    except Exception:  # the message would repeat the URL and its password
        raise SettingError(
            (*path, "url"),
            "is not a database URL; it looks like postgresql+psycopg://user@host:5432/database",
        ) from None


def make_tenant(
    tenant_id: Any, table: Mapping[str, Any], servers: Mapping[str, Server], path: tuple[str, ...]
) -> Tenant:
    if not is_tenant_id(tenant_id):
        raise SettingError(
            path, "is not a tenant id; ids match [a-z][a-z0-9_-]{0,47} and are not reserved words"
        )
    server = _server_of(table, servers, path)
    isolation = _choice(table, "isolation", Isolation.DATABASE, Isolation, path)
    database = table.get("database")
    if not database and isolation is Isolation.ROWS and server.kind == "sqlite":
        database = "rows.db"  # one file for all of them
    elif not database and (isolation is Isolation.DATABASE or server.kind == "sqlite"):
        database = default_database(tenant_id, server)
    for identifier in table.get("identifiers", ()):
        if not is_identifier(identifier):
            raise SettingError(
                (*path, "identifiers"),
                f"{shown(identifier)} is no identifier; identifiers are tenant ids or lower-case "
                "host names",
            )
    if isolation is Isolation.SCHEMA and not table.get("schema"):
        raise SettingError((*path, "schema"), "is missing; isolation 'schema' needs a schema")
    state = _choice(table, "state", State.READY, State, path)
    switch = _choice(table, "switch", None, Switch, path) if "switch" in table else None
    try:
        placement = Placement(
            server.name, isolation, database, table.get("schema"), switch, table.get("role")
        )
        place_of(placement, server)
        return Tenant(
            tenant_id,
            placement,
            state=state,
            attributes=table.get("attributes", {}),
            key=table.get("key", ""),
            identifiers=tuple(table.get("identifiers", ())),
            untrusted_sql=table.get("untrusted_sql", False),
        )
    except TenantryError as error:
        raise SettingError(path, str(error)) from None


def _server_of(
    table: Mapping[str, Any], servers: Mapping[str, Server], path: tuple[str, ...]
) -> Server:
    name = table.get("server")
    if name is None and len(servers) == 1:
        return next(iter(servers.values()))
    if name is None:
        raise SettingError(path, "the key server is missing; it names one of [servers]")
    if name not in servers:
        raise SettingError((*path, "server"), _no_such("server", name, servers))
    return servers[name]


def make_shared(server: Server, database: str | None, schema: str | None) -> Placement:
    if server.kind == "sqlite":
        database = database or "shared.db"
    isolation = Isolation.SCHEMA if schema else Isolation.DATABASE
    return Placement(server.name, isolation, database, schema)


def _choice(
    table: Mapping[str, Any], key: str, default: Any, kind: Any, path: tuple[str, ...]
) -> Any:
    try:
        return kind(table.get(key, default))
    except ValueError:
        known = [each.value for each in kind]
        raise SettingError((*path, key), _no_such(key, table[key], known)) from None


def _table(value: Any, path: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SettingError(path, "must be a table")
    return value


def check_keys(
    table: Mapping[str, Any], known: Mapping[str, tuple[Any, ...]], path: tuple[str, ...]
) -> None:
    for key, value in table.items():
        if key not in known:
            raise SettingError((*path, key_of(key)), _no_such("key", key, known))
        kinds = known[key]
        if not _is_a(value, kinds):
            raise SettingError((*path, key), f"must be {_WORDS.get(kinds[0], 'something else')}")


def _is_a(value: Any, kinds: tuple[Any, ...]) -> bool:
    if Callable in kinds and callable(value):
        return True
    if isinstance(value, bool) and bool not in kinds:
        return False
    return isinstance(value, tuple(kind for kind in kinds if kind is not Callable))


def _no_such(what: str, name: object, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(key_of(name), names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names) or 'none'}"
    return f"there is no {what} {shown(name)}; {hint}"
