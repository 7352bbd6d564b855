"""Named database servers and their limits; the only module that holds credentials.

A password lives in a :class:`Secret`, which refuses to be shown, formatted or pickled. It is
read when a connection is opened, so that a rotated password or token is used at once.
Imports under SQLAlchemy 1.4 as well as 2.x.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from sqlalchemy.engine import URL, make_url

from .errors import ConfigurationError, MissingVariableError, TenantryError, bare_errors
from .tenant import Switch

__all__ = ["Secret", "Server", "is_pooled"]

#: Query parameters of a database URL that hold secrets. SQLAlchemy hides the password before
#: the ``@`` in a URL's repr, but not these.
SECRET_PARAMETERS = frozenset({"password", "passwd", "sslpassword", "passfile_password", "token"})

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Secret:
    """Something that must not be seen: a string, or a callable that returns it anew each time."""

    __slots__ = ("_source",)

    def __init__(self, source: str | Callable[[], str]) -> None:
        self._source: Callable[[], str] = source if callable(source) else (lambda: source)

    def reveal(self) -> str:
        """The secret itself, for the driver and nobody else."""
        return self._source()

    @classmethod
    def from_env(cls, variable: str) -> Secret:
        """Read from the environment variable *variable* at each use.

        Raises:
            MissingVariableError: (at use) the variable is not set.
        """

        def read() -> str:
            try:
                return os.environ[variable]
            except KeyError:
                raise MissingVariableError(
                    f"the environment variable {variable} is not set; it must hold a password"
                ) from None

        return cls(read)

    @classmethod
    def from_file(cls, path: str | Path) -> Secret:
        """Read from the file *path* at each use, without a newline at its end.

        Raises:
            ConfigurationError: (at use) the file cannot be read.
        """

        def read() -> str:
            try:
                return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
            except OSError as error:
                raise ConfigurationError(
                    f"the password file {path} cannot be read: {error.strerror}"
                ) from None

        return cls(read)

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "<secret>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled; send the server's name instead")


@dataclass(frozen=True, repr=False)
class Server:
    """A database server, or for SQLite a root folder with one file per tenant.

    *url* holds no secret; its database is the server's own one (for SQLite: the root folder).
    *max_connections* bounds what this process opens there, over all tenants; ``None`` leaves
    only the overall budget. *async_driver* names the driver for asyncio (``"asyncpg"``) where
    the one in the URL has no asynchronous form. *connect_args* go to the driver as they are.
    *create_missing* lets SQLite make a tenant's file when it is first opened, as plain
    SQLAlchemy does; without it a missing file is an error.
    *shared_schema* is the schema that every tenant's path may see (PostgreSQL; ``None``: none).
    *switch* is how connections are pointed at a schema. *pooler* says whether a transaction
    pooler (PgBouncer) stands before a PostgreSQL. ``True`` is believed; ``None``: find out at
    the first connection. ``False`` spares tenants with ``database`` isolation that question, and
    for them it is believed; connections for ``schema`` and ``rows`` are verified all the same,
    and a pooler that they find is taken into account on the whole server from then on.
    *citus* says that it is the coordinator of a Citus (a PostgreSQL).
    *role_password* gives the password of a tenant's login role; ``None``: the server's own.
    *direct* is the same server with a connection of its own for each session, past any pooler:
    fleet work goes there; ``None``: there is no pooler to go past.
    *admin* is the login that may create and drop databases; ``None``: the same login does.

    Build one with :meth:`from_url`.
    """

    name: str
    url: URL
    password: Secret | None = None
    max_connections: int | None = None
    async_driver: str | None = None
    connect_args: Mapping[str, Any] = field(default_factory=lambda: _NOTHING, hash=False)
    secret_query: Mapping[str, Secret] = field(default_factory=lambda: _NOTHING, hash=False)
    admin: Server | None = None
    direct: Server | None = None
    shared_schema: str | None = None
    create_missing: bool = False
    switch: Switch = Switch.PATH
    pooler: bool | None = None
    citus: bool = False
    role_password: Callable[[str], str] | None = None

    @classmethod
    @bare_errors
    def from_url(
        cls,
        name: str,
        url: str | URL,
        *,
        password: str | Callable[[], str] | None = None,
        password_env: str | None = None,
        password_file: str | Path | None = None,
        max_connections: int | None = None,
        async_driver: str | None = None,
        connect_args: Mapping[str, Any] | None = None,
        direct_url: str | URL | None = None,
        admin_url: str | URL | None = None,
        admin_password: str | Callable[[], str] | None = None,
        admin_password_env: str | None = None,
        admin_password_file: str | Path | None = None,
        shared_schema: str | None = None,
        create_missing: bool = False,
        switch: Switch | str = Switch.PATH,
        pooler: bool | None = None,
        citus: bool = False,
        role_password: Callable[[str], str] | None = None,
    ) -> Server:
        """A server from a database URL and at most one source of its password.

        A password found in the URL is taken out of it. A callable is asked at each new
        connection (rotating tokens). *direct_url* without a password is used with that of *url*.

        Raises:
            ConfigurationError: The URL is no database URL, there are two sources for the
                password, or the limit is not positive.
        """
        parsed = _parsed(name, "URL", url)
        sources: list[Secret] = []
        if password is not None:
            sources.append(Secret(password))
        if password_env is not None:
            sources.append(Secret.from_env(password_env))
        if password_file is not None:
            sources.append(Secret.from_file(password_file))
        if parsed.password is not None:
            sources.append(Secret(str(parsed.password)))
        if len(sources) > 1:
            raise ConfigurationError(
                f"server {name!r} has {len(sources)} sources for its password; keep one of "
                "password, password_env, password_file and the URL"
            )
        if max_connections is not None and max_connections < 1:
            raise ConfigurationError(f"max_connections of server {name!r} must be at least 1")
        if citus and parsed.get_backend_name() != "postgresql":
            raise ConfigurationError(
                f"server {name!r} is no PostgreSQL, so it is no Citus; leave citus out"
            )
        hidden = {
            key: Secret(value if isinstance(value, str) else value[-1])
            for key, value in parsed.query.items()
            if key.lower() in SECRET_PARAMETERS
        }
        clean = URL.create(
            parsed.drivername,
            parsed.username,
            None,
            parsed.host,
            parsed.port,
            parsed.database,
            {key: value for key, value in parsed.query.items() if key not in hidden},
        )

        def another(what: str, url: str | URL, **options: Any) -> Server:
            return cls.from_url(name, _parsed(name, what, url), citus=citus, **options)

        direct = None
        if direct_url is not None:
            direct = another("direct_url", direct_url, connect_args=connect_args)
            if direct.url.get_backend_name() != parsed.get_backend_name():
                raise ConfigurationError(
                    f"the direct_url of server {name!r} names a server of another kind; it is "
                    "the address of the same server past its pooler"
                )
            if direct.password is None and sources:
                direct = replace(direct, password=sources[0])
        admin = None
        if admin_url is not None:
            admin = another(
                "admin_url",
                admin_url,
                password=admin_password,
                password_env=admin_password_env,
                password_file=admin_password_file,
            )
        return cls(
            name=name,
            url=clean,
            password=sources[0] if sources else None,
            max_connections=max_connections,
            async_driver=async_driver,
            connect_args=MappingProxyType(dict(connect_args or {})),
            secret_query=MappingProxyType(hidden),
            admin=admin,
            direct=direct,
            shared_schema=shared_schema,
            create_missing=create_missing,
            switch=Switch(switch),
            pooler=pooler,
            citus=citus,
            role_password=role_password,
        )

    @cached_property
    def kind(self) -> str:
        """``postgresql``, ``mysql`` (also for MariaDB), ``sqlite``, ``oracle`` or ``mssql``."""
        backend = self.url.get_backend_name()
        return "mysql" if backend == "mariadb" else backend

    @property
    def address(self) -> str:
        """Where it is, without user and password: for comparison and for people."""
        if self.kind == "sqlite":
            return str(self.root)
        return f"{self.url.host or 'localhost'}:{self.url.port or 'default'}"

    @cached_property
    def root(self) -> Path:
        """The folder that holds the tenants' files (SQLite only), absolute.

        Resolved once: a process that changes its folder, or a link that is moved, does not take
        tenants elsewhere half-way.
        """
        return Path(os.path.realpath(self.url.database or "."))

    def url_with_secrets(self, url: URL) -> URL:
        """*url* with this server's secrets filled in, for the driver and nobody else."""
        role_password = self.role_password
        if role_password is not None and url.username != self.url.username:
            role = str(url.username)
            url = url.set(password=self._read(lambda: role_password(role)))
        elif self.password is not None:
            url = url.set(password=self._read(self.password.reveal))
        if self.secret_query:
            url = url.update_query_dict(
                {key: self._read(secret.reveal) for key, secret in self.secret_query.items()}
            )
        return url

    def _read(self, reveal: Callable[[], str]) -> str:
        """What *reveal* gives. Its own errors may repeat a secret, so they go no further."""
        try:
            return reveal()
        except TenantryError:
            raise
        except Exception as error:
            kind = type(error).__name__
        raise ConfigurationError(
            f"the password of server {self.name!r} could not be read ({kind}); "
            "try its source by itself"
        )

    def __repr__(self) -> str:
        return f"Server({self.name!r}, {self.url.drivername}, {self.address})"


def _parsed(name: str, what: str, url: str | URL) -> URL:
    try:
        return make_url(url)
    except Exception:  # the driver's message would repeat the URL and its password
        raise ConfigurationError(
            f"the {what} of server {name!r} is not a database URL; "
            "it looks like postgresql+psycopg://user@host:5432/database"
        ) from None


def is_pooled(connection: Any) -> bool:
    """Whether a pooler answers on a new *connection* of psycopg or psycopg2, which it leaves idle.

    A pooler invents the server's process that it names to a client when it connects.
    """
    cursor = connection.cursor()
    try:
        cursor.execute("SELECT pg_catalog.pg_backend_pid()")
        process: int = cursor.fetchone()[0]
    finally:
        cursor.close()
    connection.rollback()
    named: int = connection.info.backend_pid
    return process != named
