"""SQLite: one file per tenant below the server's root folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.engine import URL

from ..errors import ConfigurationError, PlacementMissingError
from ..naming import shown
from ..servers import Server
from .base import Backend

__all__ = ["SQLite"]


class SQLite(Backend):
    """An own file."""

    kind = "sqlite"
    sync_drivers = {"pysqlite": ("sqlite3", "")}
    async_drivers = {"aiosqlite": ("aiosqlite", "aiosqlite")}
    max_name_bytes = 255
    same_everywhere = True

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
        root = server.root
        file = (root / database).resolve()
        if root not in file.parents:
            raise ConfigurationError(
                f"the file {shown(database)} lies outside the root of server {server.name!r}; "
                "name a file below it"
            )
        return file

    def before_connect(self, server: Server, url: URL) -> None:
        if not server.create_missing and not Path(url.database or "").exists():
            raise PlacementMissingError("the tenant's SQLite file does not exist")

    def check_database_name(self, server: Server, database: str) -> None:
        self.file(server, database)

    def read_only_statements(self) -> Sequence[str]:
        return ("PRAGMA query_only = ON",)

    def is_read_only_refusal(self, error: BaseException) -> bool:
        return "attempt to write a readonly database" in str(error)
