"""Where a running server is reached, and by whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy
from sqlalchemy.engine import URL  # here under SQLAlchemy 1.4 too


@dataclass(frozen=True)
class ServerAddress:
    """A running server and the account that may do everything on it.

    ``admin_driver`` is the SQLAlchemy driver name that :meth:`execute` uses; ``database`` the
    one it connects to unless told otherwise; ``version`` what the server says of itself.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    version: str
    admin_driver: str

    def url(self, drivername: str | None = None, database: str | None = None) -> URL:
        """The address of *database* (``None``: the server's first one) for *drivername*.

        ``None`` as *drivername* is the admin driver. The password is in it.
        """
        return URL.create(
            drivername or self.admin_driver,
            username=self.user,
            password=self.password,
            host=self.host,
            port=self.port,
            database=self.database if database is None else database,
        )

    def execute(self, sql: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run one statement as the admin, each in a connection and a transaction of its own.

        Outside any transaction block, so ``CREATE DATABASE`` works; a percent sign is only a
        percent sign. Returns the rows, if the statement has any.
        """
        engine = sqlalchemy.create_engine(
            self.url(database=database),
            poolclass=sqlalchemy.NullPool,
            isolation_level="AUTOCOMMIT",
            execution_options={"no_parameters": True},
        )
        with engine.connect() as connection:
            result = connection.exec_driver_sql(sql)
            return [tuple(row) for row in result] if result.returns_rows else []
