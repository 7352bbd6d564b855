"""What a database server can do, as statements and settings. Nothing here runs anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, ClassVar

from sqlalchemy.engine import URL

from ..errors import ConfigurationError, MissingDependencyError, UnsupportedError
from ..naming import shown
from ..servers import Server
from ..tenant import Placement

__all__ = ["Backend", "Pointing"]

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Pointing:
    """What points a connection at a tenant, each time it is handed out.

    *attributes* are set on the driver's connection, which sends them along with its next call;
    *statements* are run at once and cost a round trip each.
    """

    attributes: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    statements: tuple[str, ...] = ()


class Backend:
    """Defaults and refusals; one subclass per server kind."""

    #: As in :attr:`Server.kind <tenantry.Server.kind>`.
    kind: ClassVar[str]
    #: Drivers for threads, best first: SQLAlchemy's name -> (module, extra of tenantry).
    sync_drivers: ClassVar[Mapping[str, tuple[str, str]]]
    #: Drivers for asyncio, best first.
    async_drivers: ClassVar[Mapping[str, tuple[str, str]]]
    #: Whether an open connection can be pointed at another database of its server.
    switches_database: ClassVar[bool] = False
    #: Whether every server of this kind is alike to SQLAlchemy (the server is a library).
    same_everywhere: ClassVar[bool] = False
    #: Whether a schema is a file that is attached to each connection.
    attaches_schemas: ClassVar[bool] = False
    #: Whether unqualified names follow a search path.
    has_path: ClassVar[bool] = False
    #: Whether the server itself can keep rows apart.
    has_row_security: ClassVar[bool] = False
    #: Whether schemas and tables are spread over machines when they are told to.
    has_distribution: ClassVar[bool] = False
    #: The schema of tables that name none.
    usual_schema: ClassVar[str] = ""
    #: The longest identifier, in bytes.
    max_name_bytes: ClassVar[int] = 63
    #: A query for the schema in which a connection finds unqualified names; ``None``: it is
    #: verified in another way, or there is none.
    current_schema: ClassVar[str | None] = None
    #: Whether a translate map names the tenant's schema whatever the switch is, because
    #: SQLAlchemy's dialect remembers the schema of its first connection as everybody's.
    always_translates: ClassVar[bool] = False
    #: Whether the reset begins a transaction and leaves the isolation level as it is.
    reset_is_partial: ClassVar[bool] = False

    def driver(self, server: Server, *, is_async: bool) -> str:
        """The driver to use for *server*: the one its URL names, or the best that is installed.

        Raises:
            MissingDependencyError: None is installed; the message has the install command.
            UnsupportedError: The URL names a driver that cannot work this way.
        """
        known = self.async_drivers if is_async else self.sync_drivers
        named = server.async_driver if is_async else None
        if named is None and "+" in server.url.drivername:
            named = server.url.drivername.split("+", 1)[1]
            if named not in known and named in {**self.sync_drivers, **self.async_drivers}:
                named = None  # a driver of the other world: take this world's best one
        if named is not None and named not in known:
            raise UnsupportedError(
                f"driver {shown(named)} of server {server.name!r} is not one of "
                f"{', '.join(known)} for {'asyncio' if is_async else 'threads'}"
            )
        candidates = [named] if named is not None else list(known)
        for candidate in candidates:
            if find_spec(known[candidate][0]) is not None:
                return candidate
        extra = known[candidates[0]][1]
        raise MissingDependencyError(
            f"server {server.name!r} needs a driver for {self.kind}"
            f"{' and asyncio' if is_async else ''}; run `pip install 'tenantry[{extra}]'`"
        )

    def url(self, server: Server, database: str | None, driver: str) -> URL:
        """Where to connect for *database* (``None``: the server's own), without any secret."""
        return server.url.set(
            drivername=f"{self.dialect_name(server)}+{driver}",
            database=database if database is not None else server.url.database,
        )

    def schema_url(self, server: Server, database: str | None, driver: str) -> URL:
        """Where to connect for a schema in *database*, without any secret."""
        return self.url(server, database, driver)

    def schema_file(self, server: Server, placement: Placement) -> str:
        """The file that is attached under the placement's schema."""
        raise UnsupportedError(f"{self.kind} attaches no files")

    def dialect_name(self, server: Server) -> str:
        """The dialect part of the URL."""
        return server.url.get_backend_name()

    def check_database_name(self, server: Server, database: str) -> None:
        """Refuse a name that this server would cut or understand differently.

        Raises:
            ConfigurationError: It would.
        """
        if not database or "\0" in database or len(database.encode()) > self.max_name_bytes:
            raise ConfigurationError(
                f"{shown(database)} cannot name a database on server {server.name!r}; "
                f"use 1 to {self.max_name_bytes} bytes without NUL"
            )

    def check_schema_name(self, server: Server, schema: str) -> None:
        """Refuse a name that this server would cut or understand differently.

        Raises:
            ConfigurationError: It would.
        """
        if not schema or "\0" in schema or len(schema.encode()) > self.max_name_bytes:
            raise ConfigurationError(
                f"{shown(schema)} cannot name a schema on server {server.name!r}; "
                f"use 1 to {self.max_name_bytes} bytes without NUL"
            )

    def stored(self, name: str) -> str:
        """*name* as the server's catalogue keeps it."""
        return name

    def quote(self, name: str) -> str:
        """*name* as an identifier in this server's SQL."""
        return '"' + name.replace('"', '""') + '"'

    # What isolation is made of -------------------------------------------------------------

    def empty_path(self) -> Mapping[str, str]:
        """The settings at connect with which no unqualified name is found."""
        return {}

    def path(self, schema: str, shared_schema: str | None) -> str:
        """The search path of a schema, as a list of quoted names."""
        raise UnsupportedError(f"{self.kind} has no search path")

    def arm(self, *, path: str, session: bool, tenant_key: str | None = None) -> str:
        """Statements that set the path and the tenant of the row policies.

        They hold for a transaction, or for a *session*.
        """
        raise UnsupportedError(f"{self.kind} cannot be armed")

    def schema_pointing(self, schema: str) -> Pointing | None:
        """What makes unqualified names be found in *schema*; ``None``: nothing can."""
        return None

    def row_pointing(self, tenant_key: str) -> Pointing | None:
        """What tells the server whose rows a session works with; ``None``: nothing does."""
        return None

    # What the guard runs -------------------------------------------------------------------

    def reset_statement(self, driver: str | None = None) -> str | None:
        """What takes every trace of raw SQL off a connection of *driver*; ``None``: close it."""
        return None

    def read_only_statements(self) -> Sequence[str]:
        """What makes the server refuse writes on a connection until it is reset or closed."""
        raise UnsupportedError(f"read_only tenants are not supported on {self.kind}")

    def before_connect(self, server: Server, database: str | None) -> None:
        """Refuse to connect where that would create what is missing.

        Raises:
            PlacementMissingError: The tenant's place does not exist.
        """

    def add_settings(
        self, parameters: dict[str, Any], driver: str, settings: Mapping[str, str], pooled: bool
    ) -> None:
        """Put server settings into the driver's connect *parameters*, in its own way.

        *pooled*: a transaction pooler stands between, which takes no settings and mixes up
        prepared statements.
        """

    # What errors mean -----------------------------------------------------------------------

    def is_missing_database(self, error: BaseException) -> bool:
        """Whether *error* of a connection attempt says that the database does not exist."""
        return False

    def is_missing_table(self, error: BaseException) -> bool:
        """Whether *error* of a statement says that a table, schema or database is missing."""
        return False

    def place_exists(self, name: str | None) -> str | None:
        """A query that gives a row if the schema *name* (a database, where that is the same)
        exists; ``None`` if there is nothing to ask.
        """
        return None

    def is_read_only_refusal(self, error: BaseException) -> bool:
        """Whether *error* says that a write met a read-only connection."""
        return False

    def is_stale_plan(self, error: BaseException) -> bool:
        """Whether *error* may say that a prepared statement no longer fits its tables."""
        return False

    # What provisioning runs -------------------------------------------------------------------

    def create_database(self, database: str) -> Sequence[str]:
        """Statements (outside a transaction) that create an empty database."""
        raise UnsupportedError(f"databases cannot be created on {self.kind}")

    def drop_database(self, database: str) -> Sequence[str]:
        """Statements (outside a transaction) that drop a database and all connections to it."""
        raise UnsupportedError(f"databases cannot be dropped on {self.kind}")

    def database_exists(self, database: str) -> tuple[str, Mapping[str, Any]]:
        """A query, with parameters, that gives a row if the database exists."""
        raise UnsupportedError(f"databases cannot be listed on {self.kind}")

    def create_schema(self, schema: str, *, owner: str | None = None) -> Sequence[str]:
        """Statements that create an empty schema."""
        raise UnsupportedError(f"schemas are databases or do not exist on {self.kind}")

    def drop_schema(self, schema: str) -> Sequence[str]:
        """Statements that drop a schema."""
        raise UnsupportedError(f"schemas are databases or do not exist on {self.kind}")

    def schema_exists(self, schema: str) -> tuple[str, Mapping[str, Any]]:
        """A query, with parameters, that gives a row if the schema exists."""
        raise UnsupportedError(f"schemas are databases or do not exist on {self.kind}")

    #: A query that gives the name of the database a connection is in.
    current_database: ClassVar[str | None] = None


def sqlstate(error: BaseException) -> str | None:
    """The five-character SQLSTATE of a driver's error, wherever the driver keeps it."""
    for candidate in (error, getattr(error, "orig", None), error.__cause__):
        for attribute in ("sqlstate", "pgcode"):
            value = getattr(candidate, attribute, None)
            if isinstance(value, str):
                return value
    return None
