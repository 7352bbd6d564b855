"""SQLite: one file per tenant below the server's root folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

from ..errors import ConfigurationError, PlacementMissingError
from ..naming import shown
from ..servers import Server
from ..tenant import Placement
from .base import Backend

__all__ = ["SQLite"]


class SQLite(Backend):
    """An own file."""

    kind = "sqlite"
    sync_drivers = {"pysqlite": ("sqlite3", "")}
    async_drivers = {"aiosqlite": ("aiosqlite", "aiosqlite")}
    max_name_bytes = 255
    same_everywhere = True
    attaches_schemas = True

    def schema_url(self, server: Server, database: str | None, driver: str) -> URL:
        # The main database stays empty and in memory: an unqualified name finds nothing.
        return server.url.set(drivername=f"sqlite+{driver}", database=":memory:")

    def schema_file(self, server: Server, placement: Placement) -> str:
        return str(self.file(server, placement.database or f"{placement.schema}.db"))

    def url(self, server: Server, database: str | None, driver: str) -> URL:
        return server.url.set(
            drivername=f"sqlite+{driver}", database=str(self.file(server, database))
        )

    def file(self, server: Server, database: str | None) -> Path:
        """The tenant's file, absolute and below the root, symbolic links followed.

        Raises:
            ConfigurationError: The name is empty or leads out of the root.
        """
        if not database or "\0" in database:
            raise ConfigurationError(
                f"a tenant on the SQLite server {server.name!r} needs a file name; "
                "set database=... in its placement"
            )
        file = server.root / database
        # The root is resolved, so of a plain name the last part alone may be a link.
        if database == ".." or Path(database).name != database or file.is_symlink():
            file = Path(os.path.realpath(file))
        # Of a Path, parents take four times as long.
        if not str(file).startswith(str(server.root).rstrip(os.sep) + os.sep):
            raise ConfigurationError(
                f"the file {shown(database)} lies outside the root of server {server.name!r}; "
                "name a file below it"
            )
        return file

    def add_settings(
        self, parameters: dict[str, Any], driver: str, settings: Mapping[str, str], pooled: bool
    ) -> None:
        # Connections go from thread to thread, one at a time, also those in memory with a file
        # attached; SQLAlchemy allows that for files only.
        parameters["check_same_thread"] = False

    def before_connect(self, server: Server, database: str | None) -> None:
        if not server.create_missing and not Path(database or "").exists():
            raise PlacementMissingError("the tenant's SQLite file does not exist")

    def check_database_name(self, server: Server, database: str) -> None:
        self.file(server, database)

    def read_only_statements(self) -> Sequence[str]:
        return ("PRAGMA query_only = ON",)

    def is_read_only_refusal(self, error: BaseException) -> bool:
        return "attempt to write a readonly database" in str(error)
