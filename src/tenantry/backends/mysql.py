"""MySQL and MariaDB: PyMySQL and mysqlclient; aiomysql and asyncmy. A schema is a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .base import Backend

__all__ = ["MySQL"]

_UNKNOWN_DATABASE = 1049
_READ_ONLY = (1290, 1792)


class MySQL(Backend):
    """An own database; connections are shared per server and pointed by COM_INIT_DB."""

    kind = "mysql"
    sync_drivers = {"pymysql": ("pymysql", "pymysql"), "mysqldb": ("MySQLdb", "mysqlclient")}
    async_drivers = {"aiomysql": ("aiomysql", "aiomysql"), "asyncmy": ("asyncmy", "asyncmy")}
    switches_database = True
    max_name_bytes = 64
    current_database = "SELECT DATABASE()"

    def quote(self, name: str) -> str:
        return "`" + name.replace("`", "``") + "`"

    def read_only_statements(self) -> Sequence[str]:
        return ("SET SESSION TRANSACTION READ ONLY",)

    def is_missing_database(self, error: BaseException) -> bool:
        return _number(error) == _UNKNOWN_DATABASE

    def is_missing_table(self, error: BaseException) -> bool:
        return _number(error) in (1046, 1049, 1146)  # no database, unknown database, no table

    def place_exists(self, name: str | None) -> str | None:
        if name is None:
            return None
        quoted = name.replace("\\", "\\\\").replace("'", "''")
        return f"SELECT 1 FROM information_schema.schemata WHERE schema_name = '{quoted}'"  # noqa: S608

    def is_read_only_refusal(self, error: BaseException) -> bool:
        return _number(error) in _READ_ONLY

    def create_database(self, database: str) -> Sequence[str]:
        return (f"CREATE DATABASE {self.quote(database)}",)

    def drop_database(self, database: str) -> Sequence[str]:
        return (f"DROP DATABASE IF EXISTS {self.quote(database)}",)

    def database_exists(self, database: str) -> tuple[str, Mapping[str, Any]]:
        return (
            "SELECT 1 FROM information_schema.schemata WHERE schema_name = :name",
            {"name": database},
        )


def _number(error: BaseException) -> int | None:
    args = getattr(getattr(error, "orig", None), "args", None) or error.args
    return args[0] if args and isinstance(args[0], int) else None
