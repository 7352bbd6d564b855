"""The control database of a table directory: an engine of its own, and the border to its errors.

What crosses the border is ours and carries no frames: a driver's frames hold the password.
Uses only what SQLAlchemy 1.4 and 2 have in common.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from ..errors import (
    ConfigurationError,
    DirectoryUnavailableError,
    MissingDependencyError,
    TenantryError,
    bare_errors,
    without_frames,
)
from ..servers import Server, is_pooled

__all__ = ["ControlDatabase", "Where", "prepare_nothing_behind_a_pooler"]

T = TypeVar("T")
Where = str | URL | Server | Engine
_EXTRAS = {"MySQLdb": "mysqlclient"}
_OWN_FILE = "tenantry.db"
# SQLAlchemy 1.4 takes a connection back to its database's level, not to that of its engine.
_LEVEL_STAYS = not sqlalchemy.__version__.startswith("1.")


class ControlDatabase:
    """Runs reads and writes; a connection that was cut meanwhile is replaced once, quietly.

    Raises:
        ConfigurationError: *where* is no database that a synchronous engine can keep.
        MissingDependencyError: Its driver is not installed.
    """

    def __init__(self, where: Where, *, database: str | None = None) -> None:
        self._ours = not isinstance(where, Engine)
        self.engine = where if isinstance(where, Engine) else _engine(where, database)
        if self.engine.dialect.is_async:
            raise ConfigurationError(
                "the tenant directory needs a synchronous driver, postgresql+psycopg for instance; "
                "asynchronous code calls it in a thread"
            )
        if not self._ours and _commits_each_statement(self.engine):
            raise ConfigurationError(
                "the tenant directory changes tables in transactions, and this engine has none "
                "(isolation_level AUTOCOMMIT); give one without that, "
                'engine.execution_options(isolation_level="READ COMMITTED") for instance'
            )
        # Without BEGIN and ROLLBACK around it a read is one round trip; our own connections stay so
        # for good, since psycopg2 needs another to leave autocommit. On MySQL switching would cost
        # more than it saves.
        self._reader = self._writer = self.engine
        if self.engine.dialect.name == "postgresql":
            self._reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")
            if self._ours and _LEVEL_STAYS:
                self._reader = self.engine
                self._writer = self.engine.execution_options(isolation_level="READ COMMITTED")

        # SQLite has its writers poll for the file, and one may never get it. Those of this process
        # queue up instead.
        file = self.engine.dialect.name == "sqlite"
        self._write_lock = threading.Lock() if file else None
        self._first = threading.Lock()

    def read(self, body: Callable[[Connection], T]) -> T:
        """What *body* reads.

        Raises:
            DirectoryUnavailableError: The database does not answer, or has no such tables.
        """
        return self._run(self._reader.connect, body)

    @property
    def commits_alone(self) -> bool:
        """Whether a statement can be a transaction of its own, so that it is one round trip.

        Not where an engine that was given does something at BEGIN, such as SET LOCAL.
        """
        return self.engine.dialect.name == "postgresql" and not self.engine.dispatch.begin

    def at_once(self, body: Callable[[Connection], T]) -> T | None:
        """What *body* did by one statement that commits itself, if :attr:`commits_alone`.

        ``None``: perhaps not done, for a reason that :meth:`write` would give. A connection may be
        lost before the answer comes, so *body* must be harmless when it comes again.

        Raises:
            DirectoryUnavailableError: There is no connection to be had.
        """
        # Of several at once only one can be done; the others of this process need not try.
        if not self._first.acquire(blocking=False):
            return None
        connected = False

        def once(connection: Connection) -> T:
            nonlocal connected
            connected = True
            return body(connection)

        try:
            return self.read(once)
        except DirectoryUnavailableError:
            if not connected:
                raise
        finally:
            self._first.release()
        return None

    def write(self, body: Callable[[Connection], T]) -> T:
        """Run *body* in one transaction; an error undoes all of it.

        Raises:
            DirectoryUnavailableError: The database does not answer, or has no such tables. When
                it was lost during the commit itself, the change may have been made.
        """
        if self._write_lock is None:
            return self._run(self._writer.begin, body)
        with self._write_lock:
            return self._run(self._writer.begin, body)

    def close(self) -> None:
        """Close the connections, if the engine is ours."""
        if self._ours:
            self.engine.dispose()

    def after_fork(self) -> None:
        """Leave the parent's connections alone; the child opens its own."""
        self.engine.dispose(close=False)
        self._first = threading.Lock()
        if self._write_lock is not None:
            self._write_lock = threading.Lock()

    def _run(
        self,
        connect: Callable[[], AbstractContextManager[Connection]],
        body: Callable[[Connection], T],
    ) -> T:
        problem: TenantryError | None = None
        for again in (True, False):
            connected = finished = False
            try:
                with connect() as connection:
                    connected = True
                    result = body(connection)
                    finished = True
                return result
            except TenantryError as error:
                problem, again = without_frames(error), False
            except SQLAlchemyError as error:
                # After the body comes the commit; repeating that could do it twice.
                again = again and not finished and getattr(error, "connection_invalidated", False)
                problem = self._unavailable(error)
            except Exception as error:
                if connected:
                    raise
                # Some drivers let errors of other kinds out while they connect.
                problem, again = self._unavailable(error), False
            if not again:
                break
        raise problem or DirectoryUnavailableError

    def _unavailable(self, error: Exception) -> DirectoryUnavailableError:
        problem = DirectoryUnavailableError(
            f"the tenant directory at {_address(self.engine.url)} cannot be used "
            f"({type(error).__name__}); check the control database, and that create_tables() "
            "made the tables"
        )
        problem.__cause__ = _bare(error)
        return problem

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {_address(self.engine.url)}>"


def _commits_each_statement(engine: Engine) -> bool:
    """Whether somebody made *engine* so; ``create_engine`` keeps it in the dialect."""
    chosen = engine.get_execution_options().get("isolation_level")
    for name in ("_on_connect_isolation_level", "isolation_level"):  # SQLAlchemy 2; 1.4
        chosen = chosen or getattr(engine.dialect, name, None)
    return chosen == "AUTOCOMMIT"


def _bare(error: Exception) -> BaseException:
    """The driver's error with its words and nothing more.

    Psycopg hangs the failed attempt's settings on it, password included; and frames hold it too.
    """
    cause = getattr(error, "orig", None)
    cause = cause if isinstance(cause, BaseException) else error
    try:
        return type(cause)(*cause.args)
    except Exception:  # one that cannot be made from its own arguments
        return OSError(f"{type(cause).__name__}")


def _address(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return f"sqlite {url.database}"
    port = f":{url.port}" if url.port else ""
    return f"{url.get_backend_name()} {url.host or 'localhost'}{port}"


@bare_errors
def _engine(where: str | URL | Server, database: str | None) -> Engine:
    if isinstance(where, Server):
        server = where
        url = server.url.set(database=database) if database else server.url
        if server.kind == "sqlite":
            url = server.url.set(database=str(server.root / (database or _OWN_FILE)))
    else:
        server = Server.from_url("control", _file_named(where))
        url = server.url.set(database=database) if database else server.url
    options: dict[str, Any] = {"poolclass": NullPool}
    connect_args = dict(server.connect_args)
    if server.kind == "sqlite":
        connect_args.setdefault("timeout", 30)
    else:
        options = {"pool_size": 3, "max_overflow": 5, "pool_timeout": 10, "pool_recycle": 1800}
        if server.kind == "postgresql" and _LEVEL_STAYS:
            options["isolation_level"] = "AUTOCOMMIT"  # its writers begin transactions
        if server.kind in ("postgresql", "mysql") and "connect_timeout" not in url.query:
            connect_args.setdefault("connect_timeout", 10)
    try:
        engine = create_engine(
            url, future=True, hide_parameters=True, connect_args=connect_args, **options
        )
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "", error.name)
        raise MissingDependencyError(
            f"the driver {error.name} of the tenant directory is not installed; run "
            f"`pip install 'tenantry[{extra}]'`"
        ) from None
    except NoSuchModuleError:
        raise ConfigurationError(
            f"SQLAlchemy knows no driver {url.drivername!r} for the tenant directory"
        ) from None
    prepare_nothing_behind_a_pooler(engine, known=server.pooler)
    if server.password is not None or server.secret_query:
        _fill_secrets(engine, server, url, connect_args)
    return engine


def prepare_nothing_behind_a_pooler(engine: Engine, *, known: bool | None = None) -> None:
    """Have each new connection of *engine* ask whether a pooler answers, unless one is *known* to.

    psycopg prepares what it meets for the sixth time. A transaction pooler may send that to a
    process of the server that does not know it, or has another statement by its name.
    """
    if engine.dialect.driver != "psycopg":
        return

    @event.listens_for(engine, "connect")
    def look(connection: Any, _record: Any) -> None:
        if known or is_pooled(connection):
            connection.prepare_threshold = None


def _fill_secrets(engine: Engine, server: Server, url: URL, connect_args: dict[str, Any]) -> None:
    """Read the secrets when a connection is opened, so that a rotated one is used at once."""

    @event.listens_for(engine, "do_connect")
    def fill(dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> None:
        _, filled = dialect.create_connect_args(server.url_with_secrets(url))
        cparams.update(filled)
        cparams.update(connect_args)


def _file_named(where: str | URL) -> str | URL:
    """For SQLite the URL with an absolute file, so that a change of folder cannot move it."""
    try:
        url = make_url(where)
    except Exception:  # Server.from_url says it without the URL
        return where
    if url.get_backend_name() != "sqlite":
        return url
    if url.database in (None, "", ":memory:") or url.query.get("mode") == "memory":
        raise ConfigurationError(
            "a tenant directory in memory is one per connection; name a file, a temporary one "
            "for tests"
        )
    if not str(url.database).startswith("file:"):
        url = url.set(database=str(Path(str(url.database)).absolute()))
    return url
