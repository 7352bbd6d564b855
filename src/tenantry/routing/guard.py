"""Points, arms, verifies and cleans connections; throws away those in doubt.

The only place where statements from ``backends`` and ``isolation`` meet a connection. It
works on the driver's connection through SQLAlchemy's adapter, so that threads and tasks share
one body (the asynchronous drivers wait through SQLAlchemy's greenlet).

An *armed* connection is in the driver's autocommit mode, and BEGIN is ours: it carries the
tenant's settings, for the transaction alone, in the same message and at no further round
trip. It holds through savepoints, and ends with the transaction whatever ends it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy.util import LRUCache

from ..errors import (
    CallerError,
    ConfigurationError,
    PlacementMissingError,
    UnsupportedError,
)
from ..naming import shown
from .missing import missing_place
from .send import send, send_async
from .statements import ends_transaction, keeps_session_state

if TYPE_CHECKING:
    from ..backends import Pointing
    from ..isolation import Target
    from .pool import BucketRecord

__all__ = [
    "Reopen",
    "begin",
    "clean",
    "end",
    "end_twophase",
    "forget_prepared",
    "lend_bare",
    "point",
    "prepare_new",
    "refuse_statement",
    "sever",
    "use_prepared_of_tenant",
]

_PREPARED_STATEMENTS = 100  # per tenant and connection, as SQLAlchemy's asyncpg dialect has it
_PREPARED_TENANTS = 8

_WHO = """\
SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('search_path'),
  pg_catalog.current_schema()::text"""
_BOUND_BY_POLICIES = """\
SELECT EXISTS (
  SELECT FROM pg_catalog.pg_roles r
  WHERE (r.rolsuper OR r.rolbypassrls) AND pg_catalog.pg_has_role(r.oid, 'MEMBER'))::int, EXISTS (
  SELECT FROM pg_catalog.pg_class c
  WHERE c.relrowsecurity AND pg_catalog.pg_has_role(c.relowner, 'MEMBER'))::int"""


# After so many seconds a server may have closed an idle connection (MariaDB's wait_timeout is
# whole seconds), so it is pointed anew even at the place where it points: nothing was sent yet,
# and it can be opened once more.
_IDLE_IN_DOUBT = 1.0


class Reopen(Exception):
    """The connection must be opened anew with other settings; never leaves ``routing``."""


# A new connection ---------------------------------------------------------------------------


def prepare_new(record: BucketRecord) -> None:
    """Make a fresh connection fit for its bucket, and verify what the bucket relies on.

    Costs a round trip on connections that tenants share and on the first one to a server.

    Raises:
        ConfigurationError: The login's own path is not empty, or row policies do not bind it.
        PlacementMissingError: The connection is not in the schema that it must be in.
    """
    target = record.target
    if target.attach is not None:
        assert target.translate is not None
        name = target.backend.quote(target.translate)
        file = target.attach.replace("'", "''")
        _execute(record, f"ATTACH DATABASE '{file}' AS {name}")
    if target.backend.kind != "postgresql":
        if target.expect_schema is not None and target.backend.current_schema is not None:
            _check_schema(record, *_ask(record, target.backend.current_schema))
        return
    pooled, name = record.pool.pooled, target.server.name
    known = pooled.get(name, target.server.pooler)
    shared_by_tenants = target.arm is not None or target.translate is not None
    if shared_by_tenants or target.expect_schema is not None or known is None:
        _autocommit(record, True)
        pid, path, schema = _ask(record, _WHO)
        pooled[name] = target.server.pooler or int(pid) != _own_pid(record)
        if pooled[name] and not known:
            raise Reopen
        if shared_by_tenants and path.strip('" ') not in ("", "pg_catalog"):
            raise ConfigurationError(
                f"the login of server {name!r} finds tables without a tenant: its "
                "search_path must be empty where a pooler keeps it from being set at connect; "
                "run ALTER ROLE ... SET search_path = ''"
            )
        if target.expect_schema is not None:
            _check_schema(record, schema)
        if target.rows:
            _check_bound_by_policies(record, target)
    pooler = pooled.setdefault(name, bool(known))
    record.armed = target.arm is not None or pooler
    _autocommit(record, record.armed)
    record.prepared = None
    if target.by_path or pooler:
        if record.driver == "psycopg":
            record.prepared = _prepared_by_tenant(record, pooled=pooler)
        elif record.driver == "asyncpg":
            record.prepared = LRUCache(_PREPARED_TENANTS)


def _check_schema(record: BucketRecord, schema: str | None) -> None:
    target = record.target
    assert target.expect_schema is not None
    if schema != target.backend.stored(target.expect_schema):
        raise PlacementMissingError(
            f"the login of tenant {target.owner!r} is not in schema "
            f"{shown(target.expect_schema)}; `tenantry doctor` compares the directory with "
            "the servers",
            tenant_id=target.tenant_id,
        )


def _check_bound_by_policies(record: BucketRecord, target: Target) -> None:
    key = (target.server.name, target.url.database)
    if key in record.pool.policies_checked:
        return
    above, owner = map(int, _ask(record, _BOUND_BY_POLICIES))
    if above or owner:
        why = "is a superuser or has BYPASSRLS" if above else "owns tables with row policies"
        why += ", itself or by a role it may set"
        raise ConfigurationError(
            f"the login of server {target.server.name!r} {why}, so row-level security does not "
            "keep tenants apart; use a login that owns nothing (`tenantry doctor` shows the roles)"
        )
    record.pool.policies_checked.add(key)


def _own_pid(record: BucketRecord) -> int:
    """The backend's process as the driver knows it; a pooler in between invents one."""
    raw: Any = record.driver_connection
    pid: int = raw.get_server_pid() if record.driver == "asyncpg" else raw.info.backend_pid
    return pid


# Each checkout ------------------------------------------------------------------------------


def point(record: BucketRecord) -> None:
    """Make the connection what its target says, before its first statement."""
    target = record.target
    if target.switch_to is not None and (
        record.database != target.switch_to
        or time.monotonic() - record.returned_at > _IDLE_IN_DOUBT
    ):
        record.database = None  # in doubt until the server has answered
        try:
            _select_database(record, target.switch_to)
        except record.pool.driver_error as error:
            if target.backend.is_missing_database(error):
                raise missing_place(target) from error
            raise
        record.database = target.switch_to
    if target.pointing is not None:
        _point_at_tenant(record, target.pointing)
    if target.read_only:
        record.dirty = True
        for statement in target.backend.read_only_statements():
            _run_alone(record, statement)


def _point_at_tenant(record: BucketRecord, pointing: Pointing) -> None:
    for name, value in pointing.attributes.items():
        setattr(record.driver_connection, name, value)
    for statement in pointing.statements:
        # Where it can be taken off on return it is; elsewhere the next checkout sets its own.
        if record.target.backend.reset_is_partial:
            record.dirty = True
        _run_alone(record, statement)


def lend_bare(record: BucketRecord) -> None:
    """Arm the session itself, for somebody who wants the driver's connection.

    Raises:
        UnsupportedError: Behind a transaction pooler a session cannot be armed.
        PlacementMissingError: The tenant's schema does not exist.
    """
    record.lent += 1
    if record.armed:
        _refuse_pooled(record, "raw_connection()")
        _arm_session(record)
        record.armed = False
        _autocommit(record, False)


def _refuse_pooled(record: BucketRecord, what: str) -> None:
    target = record.target
    if record.pool.pooled.get(target.server.name):
        raise UnsupportedError(
            f"{what} needs a session of its own, and server {target.server.name!r} is behind a "
            "transaction pooler; use a transaction, or a server entry that goes past the pooler",
            tenant_id=target.tenant_id,
        )


def _arm_session(record: BucketRecord) -> None:
    target = record.target
    if target.arm_session is None or record.session_armed:
        return
    record.dirty = True
    _execute(record, target.arm_session)
    if _ask(record, _WHO)[2] is None:
        raise PlacementMissingError(
            f"the schema of tenant {target.owner!r} does not exist on server "
            f"{target.server.name!r}; `tenantry doctor` compares the directory with the servers",
            tenant_id=target.tenant_id,
        )
    record.session_armed = True


# Each transaction of an armed connection ------------------------------------------------------


def begin(record: BucketRecord) -> None:
    """BEGIN and the tenant's settings, in one message."""
    target = record.target
    if record.isolation_level == "AUTOCOMMIT":
        if target.arm_session is not None:
            _refuse_pooled(record, "AUTOCOMMIT")
        _arm_session(record)
        return
    words = ["BEGIN"]
    if record.isolation_level is not None:
        words.append(f"ISOLATION LEVEL {record.isolation_level}")
    if record.read_only_transaction or target.read_only:
        words.append("READ ONLY")
    if record.deferrable_transaction:
        words.append("DEFERRABLE")
    message = " ".join(words)
    if target.arm is not None:
        message += "; " + target.arm
    record.in_transaction = True
    if record.driver != "psycopg":
        _execute(record, message)
    elif record.is_async:
        connection: Any = record.dbapi_connection
        connection.run_async(lambda raw: send_async(raw, message))
    else:
        send(record.dbapi_connection, message)


def end(record: BucketRecord, verb: str) -> None:
    """COMMIT or ROLLBACK; behind a pooler what raw SQL left is taken off in the same message.

    After it, the backend belongs to somebody else.
    """
    if not record.in_transaction:
        return
    if record.dirty and record.pool.pooled.get(record.target.server.name):
        _execute(record, f"{verb}; {record.target.backend.reset_statement()}")
        record.dirty = False
    elif record.driver == "psycopg" and verb in ("COMMIT", "ROLLBACK"):
        # The driver's own verbs: it forgets statements that a rollback may have undone.
        connection: Any = record.dbapi_connection
        connection.commit() if verb == "COMMIT" else connection.rollback()
    else:
        _execute(record, verb)
    if record.driver == "asyncpg":
        raw: Any = record.driver_connection
        raw._top_xact = None
    record.in_transaction = False


def tell_asyncpg(record: BucketRecord) -> None:
    """Have asyncpg take the transaction that is open for one of its own."""
    connection: Any = record.driver_connection
    if record.in_transaction and connection._top_xact is None:
        connection._top_xact = connection.transaction()


def end_twophase(record: BucketRecord, verb: str, xid: str, is_prepared: bool) -> None:
    """The second phase (or the end of a first one that was never prepared)."""
    if is_prepared:
        end(record, "ROLLBACK")
        _execute(record, f"{verb} PREPARED '{xid}'")
    else:
        end(record, verb)


def refuse_statement(record: BucketRecord, statement: str) -> None:
    """Refuse text that would take the tenant's settings off, or leave them to a stranger.

    Raises:
        CallerError: It ends the transaction that carries the tenant's settings.
        UnsupportedError: Behind a pooler it would change somebody else's session.
    """
    target = record.target
    if ends_transaction(statement):
        raise CallerError(
            "SQL text must not begin or end the transaction that carries the tenant's settings; "
            "use commit() and rollback() of the session or connection",
            tenant_id=target.tenant_id,
        )
    if record.pool.pooled.get(target.server.name) and keeps_session_state(statement):
        raise UnsupportedError(
            f"server {target.server.name!r} is behind a transaction pooler, and this statement "
            "changes the session for whoever comes next; use SET LOCAL or a transaction-level "
            "lock, or a server entry that goes past the pooler",
            tenant_id=target.tenant_id,
        )


# Statements that the driver prepares -----------------------------------------------------------


def use_prepared_of_tenant(record: BucketRecord) -> None:
    """Statements prepared under this tenant's path, and no others."""
    tenant = record.target.tenant
    stamp = tenant.stamp if tenant is not None else ""
    prepared: Any = record.prepared
    if record.driver == "psycopg":
        prepared.tenant = stamp
        return
    connection: Any = record.dbapi_connection
    if connection._prepared_statement_cache is None:
        return
    try:
        cache = prepared[stamp]
    except KeyError:
        cache = prepared[stamp] = LRUCache(_PREPARED_STATEMENTS)
    connection._prepared_statement_cache = cache


def _prepared_by_tenant(record: BucketRecord, *, pooled: bool) -> Any:
    """psycopg's own book of what it has prepared, with the tenant in it; ``None``: nothing is.

    A transaction pooler may send a prepared statement to a backend that does not know it.
    """
    raw: Any = record.driver_connection
    book: Any = getattr(raw, "_prepared", None)
    if pooled or not hasattr(book, "key"):
        raw.prepare_threshold = None
        return None
    by_tenant: Any = _book_by_tenant(book.__class__)()
    by_tenant.prepare_threshold = book.prepare_threshold
    by_tenant.prepared_max = book.prepared_max * _PREPARED_TENANTS
    raw._prepared = by_tenant
    return by_tenant


@cache
def _book_by_tenant(base: type) -> Any:
    def key(self: Any, query: Any) -> tuple[Any, ...]:
        return (*super(book, self).key(query), self.tenant)

    book: Any = type(f"{base.__name__}ByTenant", (base,), {"tenant": "", "key": key})
    return book


def forget_prepared(record: BucketRecord) -> None:
    """Have psycopg prepare anew after a table has changed.

    By itself it does so after a rollback, but seldom after one to a savepoint and never without
    a transaction, where the statement would fail for as long as the connection lives. SQLAlchemy
    does the same for asyncpg.
    """
    book: Any = getattr(record.driver_connection, "_prepared", None)
    if record.driver == "psycopg" and hasattr(book, "clear"):
        book.clear()  # the server is told with the next statement that succeeds


# Each return --------------------------------------------------------------------------------


def clean(record: BucketRecord) -> None:
    """Take off what the work before may have left; close the connection if that cannot be."""
    dirty = record.dirty or record.lent > 0
    connection = record.dbapi_connection
    assert connection is not None
    if record.armed:
        end(record, "ROLLBACK")
        dirty = record.dirty or record.lent > 0
    elif record.in_transaction or dirty:
        connection.rollback()
        record.in_transaction = False
    pooled = bool(record.pool.pooled.get(record.target.server.name))
    if dirty and not pooled:
        statement = record.target.backend.reset_statement(record.driver)
        if statement is None:
            record.close()
            return
        _run_alone(record, statement)
        if record.target.backend.reset_is_partial:
            connection.rollback()
            record.pool._dialect.reset_isolation_level(connection)  # type: ignore[union-attr]
        record.dirty = False
    if record.target.arm is not None or pooled:
        if not _is_idle(record):
            record.close()
            return
        if not record.armed:
            record.armed = True
            _autocommit(record, True)


def sever(record: BucketRecord) -> None:
    """Cut a connection whose event loop does not run (any more): nothing can be awaited."""
    connection: Any = record.dbapi_connection
    record.dbapi_connection = None
    if connection is None:
        return
    raw = connection.driver_connection
    with contextlib.suppress(Exception):  # whatever it is, nobody will use it again
        if hasattr(raw, "pgconn"):  # psycopg
            raw.pgconn.finish()
        elif hasattr(raw, "_tx"):  # aiosqlite
            # Where no event loop is: of one that runs it makes a future, which may come too late.
            stop = threading.Thread(target=getattr(raw, "stop", None) or raw._stop_running)
            stop.start()
            stop.join()
        elif hasattr(raw, "_transport"):  # asyncpg
            raw._transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        else:  # aiomysql, asyncmy
            writer, raw._writer = raw._writer, None
            writer.transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def _is_idle(record: BucketRecord) -> bool:
    """Whether the driver knows of no transaction; asks nobody."""
    raw: Any = record.driver_connection
    if record.driver == "asyncpg":
        return not raw.is_closed() and not raw.is_in_transaction()
    status = raw.pgconn if record.driver == "psycopg" else raw.info
    return int(status.transaction_status) == 0


# Statements of ours ---------------------------------------------------------------------------


def _select_database(record: BucketRecord, database: str) -> None:
    """COM_INIT_DB: one round trip, not part of any transaction."""
    connection: Any = record.dbapi_connection
    if record.is_async:
        connection.run_async(lambda raw: raw.select_db(database))
    else:
        connection.select_db(database)


def _run_alone(record: BucketRecord, statement: str) -> None:
    """Run *statement* (or several) outside any transaction, in one round trip."""
    if record.driver in ("psycopg", "psycopg2"):
        connection: Any = record.dbapi_connection
        before = connection.autocommit
        _autocommit(record, True)
        _execute(record, statement)
        _autocommit(record, before)
    else:
        _execute(record, statement)


def _autocommit(record: BucketRecord, value: bool) -> None:
    connection: Any = record.dbapi_connection
    if connection.autocommit != value:
        connection.autocommit = value


def _execute(record: BucketRecord, statement: str) -> None:
    connection: Any = record.dbapi_connection
    if record.driver == "asyncpg":
        _await_asyncpg(connection, lambda raw: raw.execute(statement))
    elif record.driver == "psycopg":
        # Never prepared: several statements cannot be, and a reset would deallocate itself.
        if record.is_async:
            connection.run_async(lambda raw: raw.execute(statement, prepare=False))
        else:
            connection.execute(statement, prepare=False)
    else:
        cursor = connection.cursor()
        try:
            cursor.execute(statement)
        finally:
            cursor.close()


def _await_asyncpg(connection: Any, call: Callable[[Any], Awaitable[object]]) -> None:
    """Its errors as SQLAlchemy makes them of asyncpg's: PEP 249's, which everybody expects."""
    try:
        connection.run_async(call)
    except Exception as error:
        connection._handle_exception(error)


def _ask(record: BucketRecord, query: str) -> tuple[Any, ...]:
    """The only row of a query, in one round trip and, in autocommit, a transaction of its own."""
    connection: Any = record.dbapi_connection
    if record.driver == "asyncpg":
        return _ask_by_copy(connection, query)
    if record.driver == "psycopg" and record.is_async:

        async def fetch(raw: Any) -> Any:
            return await (await raw.execute(query, prepare=False)).fetchone()

        return tuple(connection.run_async(fetch))
    if record.driver == "psycopg":
        return tuple(connection.execute(query, prepare=False).fetchone())
    cursor = connection.cursor()
    try:
        cursor.execute(query)
        return tuple(cursor.fetchone())
    finally:
        cursor.close()


def _ask_by_copy(connection: Any, query: str) -> tuple[Any, ...]:
    """asyncpg reads rows through prepared statements, which a pooler may send elsewhere.

    COPY is one message and needs none.
    """
    received = bytearray()

    async def keep(data: bytes) -> None:
        received.extend(data)

    _await_asyncpg(connection, lambda raw: raw.copy_from_query(query, output=keep))
    fields = received.decode().rstrip("\n").split("\t")
    return tuple(None if field == "\\N" else field for field in fields)
