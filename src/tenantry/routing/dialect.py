"""SQLAlchemy's dialects, watched: what runs, under whom, and whether a transaction is open.

A routed engine keeps SQLAlchemy's own dialect object; only its class becomes a subclass made
here, so that caches, types and SQL stay exactly what they were. (Python lets an object take
a class with one more method, not one with one more base: hence classes made by functions.)
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.engine.interfaces import Dialect

from ..context import now
from . import guard
from .pool import BucketRecord, record_of
from .statements import leaves_nothing

__all__ = ["reflecting", "routed_dialect_class"]

_classes: dict[type[Dialect], type[Dialect]] = {}
#: Whether SQLAlchemy reads the catalogue: it asks in text, and of nobody's rows.
reflecting: ContextVar[bool] = ContextVar("tenantry_reflecting", default=False)
_database_of_reflection: ContextVar[str | None] = ContextVar("tenantry_database", default=None)


def routed_dialect_class(base: type[Dialect]) -> type[Dialect]:
    """The watched subclass of a dialect class."""
    found = _classes.get(base)
    if found is None:
        found = _watched(base)
        if base.name in ("mysql", "mariadb"):
            found = _with_switched_reflection(found)
        elif base.name == "postgresql":
            found = _with_own_transactions(found)
        if base.name not in ("mysql", "mariadb"):
            found = _with_translated_reflection(found)
        _classes[base] = found
    return found


def _watched(base: Any) -> Any:
    """Notes transactions, and statements that may leave something; checks the tenant."""
    begins = base.do_begin is not DefaultDialect.do_begin  # which does nothing
    commit, execute = base.do_commit, base.do_execute  # every transaction calls them

    class Routed(base):  # type: ignore[misc]  # the base is known at run time only
        # SQLAlchemy copies this mark of each dialect class, it is not inherited.
        supports_statement_cache = base.supports_statement_cache

        def do_begin(self, dbapi_connection: Any) -> None:
            record = dbapi_connection._connection_record
            if type(record) is BucketRecord:
                record.lent -= 1  # SQLAlchemy itself asked the connection for its proxy
                if now() is not record.target.tenant:
                    record.check_current()
                if record.armed:
                    guard.begin(record)
                    return
                record.in_transaction = True
            if begins:
                super().do_begin(dbapi_connection)

        def do_commit(self, dbapi_connection: Any) -> None:
            record = dbapi_connection._connection_record
            if not isinstance(record, BucketRecord):
                super().do_commit(dbapi_connection)
                return
            if record.armed:
                record.lent -= 1
                guard.end(record, "COMMIT")
                return
            commit(self, dbapi_connection)
            record.lent -= 1
            record.in_transaction = False

        def do_rollback(self, dbapi_connection: Any) -> None:
            record = dbapi_connection._connection_record
            if not isinstance(record, BucketRecord):
                super().do_rollback(dbapi_connection)
                return
            if record.armed:
                record.lent -= 1
                guard.end(record, "ROLLBACK")
                return
            super().do_rollback(dbapi_connection)
            record.lent -= 1
            record.in_transaction = False

        def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
            # asyncpg says the latter of a connection that the server has ended, as long as it
            # has not read the end itself; whatever else it may mean, it is in doubt.
            return bool(super().is_disconnect(e, connection, cursor)) or (
                "another operation" in str(e) and "is in progress" in str(e)
            )

        def do_execute(
            self, cursor: Any, statement: str, parameters: Any, context: Any = None
        ) -> None:
            if context is not None:
                _before_statement(context, statement)
            execute(self, cursor, statement, parameters, context)

        def do_executemany(
            self, cursor: Any, statement: str, parameters: Any, context: Any = None
        ) -> None:
            if context is not None:
                _before_statement(context, statement)
            super().do_executemany(cursor, statement, parameters, context)

        def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
            if context is not None:
                _before_statement(context, statement)
            super().do_execute_no_params(cursor, statement, context)

    for name in (*_REFLECTION, *_REFLECTION_OF_MANY, "get_schema_names", "has_schema"):
        if hasattr(base, name):
            setattr(Routed, name, _reflects(Routed, name))
    Routed.__name__ = Routed.__qualname__ = f"Routed{base.__name__}"
    return Routed


def _reflects(owner: type, name: str) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        token = reflecting.set(True)
        try:
            return getattr(super(owner, self), name)(*args, **kwargs)
        finally:
            reflecting.reset(token)

    method.__name__ = name
    return method


def _before_statement(context: Any, statement: str) -> None:
    record = context._dbapi_connection._connection_record
    if type(record) is BucketRecord:
        if now() is not record.target.tenant:
            record.check_current()
        if getattr(context.compiled, "_tenantry_leaves_nothing", False) and (
            statement is getattr(context, "statement", None)
        ):
            return  # found before, by what follows
        if not leaves_nothing(context, statement):
            record.dirty = True
            if record.armed:
                guard.refuse_statement(record, statement)


def _with_own_transactions(base: Any) -> Any:
    """PostgreSQL: on an armed connection the options of a transaction go into our BEGIN."""

    class Armed(base):  # type: ignore[misc]  # the base is known at run time only
        supports_statement_cache = base.supports_statement_cache

        def set_isolation_level(self, dbapi_connection: Any, level: str) -> None:
            record = record_of(dbapi_connection)
            if record is None:
                super().set_isolation_level(dbapi_connection, level)
            else:
                record.isolation_level = level

        def reset_isolation_level(self, dbapi_connection: Any) -> None:
            record = record_of(dbapi_connection)
            if record is None:
                super().reset_isolation_level(dbapi_connection)
            else:
                record.isolation_level = None

        def set_readonly(self, connection: Any, value: bool) -> None:
            record = record_of(connection)
            if record is None:
                super().set_readonly(connection, value)
            else:
                record.read_only_transaction = value

        def get_readonly(self, connection: Any) -> bool:
            record = record_of(connection)
            if record is None:
                return bool(super().get_readonly(connection))
            return record.read_only_transaction

        def set_deferrable(self, connection: Any, value: bool) -> None:
            record = record_of(connection)
            if record is None:
                super().set_deferrable(connection, value)
            else:
                record.deferrable_transaction = value

        def get_deferrable(self, connection: Any) -> bool:
            record = record_of(connection)
            if record is None:
                return bool(super().get_deferrable(connection))
            return record.deferrable_transaction

        # Two-phase: the drivers' own calls refuse autocommit mode, so the SQL is sent instead.

        def do_begin_twophase(self, connection: Any, xid: str) -> None:
            if _armed(connection):
                self.do_begin(connection.connection)
            else:
                super().do_begin_twophase(connection, xid)

        def do_prepare_twophase(self, connection: Any, xid: str) -> None:
            record = _armed(connection)
            if record is None:
                super().do_prepare_twophase(connection, xid)
            else:
                guard.end(record, f"PREPARE TRANSACTION '{_plain(xid)}'")

        def do_rollback_twophase(
            self, connection: Any, xid: str, is_prepared: bool = True, recover: bool = False
        ) -> None:
            record = _armed(connection)
            if record is None:
                super().do_rollback_twophase(connection, xid, is_prepared, recover)
            else:
                guard.end_twophase(record, "ROLLBACK", _plain(xid), is_prepared)

        def do_commit_twophase(
            self, connection: Any, xid: str, is_prepared: bool = True, recover: bool = False
        ) -> None:
            record = _armed(connection)
            if record is None:
                super().do_commit_twophase(connection, xid, is_prepared, recover)
            else:
                guard.end_twophase(record, "COMMIT", _plain(xid), is_prepared)

    if base.driver == "psycopg2":
        Armed.execution_ctx_cls = _with_held_cursors(base.execution_ctx_cls)
    elif base.driver == "asyncpg":
        Armed.execution_ctx_cls = _with_known_transactions(base.execution_ctx_cls)
    Armed.__name__ = Armed.__qualname__ = base.__name__
    return Armed


def _with_held_cursors(base: Any) -> Any:
    """psycopg2 gives a server-side cursor in autocommit mode only if it is WITH HOLD.

    Such a cursor may outlive its transaction, so the connection is cleaned when it comes back.
    """

    class Context(base):  # type: ignore[misc]  # the base is known at run time only
        def create_server_side_cursor(self) -> Any:
            cursor = super().create_server_side_cursor()
            record = self._dbapi_connection._connection_record
            if isinstance(record, BucketRecord) and record.armed:
                cursor.withhold = True
                record.dirty = True
            return cursor

    return Context


def _with_known_transactions(base: Any) -> Any:
    """asyncpg before 0.32 gives a cursor only in a transaction that it began itself."""

    class Context(base):  # type: ignore[misc]  # the base is known at run time only
        def create_server_side_cursor(self) -> Any:
            record = self._dbapi_connection._connection_record
            if isinstance(record, BucketRecord) and record.armed:
                guard.tell_asyncpg(record)
            return super().create_server_side_cursor()

    return Context


def _armed(connection: Any) -> BucketRecord | None:
    record = connection._dbapi_connection._connection_record
    return record if isinstance(record, BucketRecord) and record.armed else None


def _plain(xid: str) -> str:
    """A transaction id as SQLAlchemy makes them, or as the caller gave it; quoted."""
    return xid.replace("'", "''")


def _with_switched_reflection(base: Any) -> Any:
    """MySQL's dialect remembers the database of its first connection as the default one.

    With connections that are switched between databases that name is wrong, and reflection
    would read another tenant's tables; here it is the database of the connection in use.
    """

    class Switched(base):  # type: ignore[misc]  # the base is known at run time only
        supports_statement_cache = base.supports_statement_cache

        @property
        def default_schema_name(self) -> str | None:
            return _database_of_reflection.get()

        @default_schema_name.setter
        def default_schema_name(self, value: str | None) -> None:
            """SQLAlchemy sets it at its first connection; there is nothing to remember."""

    for name in _REFLECTION:
        if hasattr(base, name):
            setattr(Switched, name, _in_its_database(Switched, name))
    Switched.__name__ = Switched.__qualname__ = base.__name__
    return Switched


def _with_translated_reflection(base: Any) -> Any:
    """SQLAlchemy's translate map does not reach reflection; here it does.

    Where tables are qualified by the map, "no schema" means the tenant's.
    """

    class Translated(base):  # type: ignore[misc]  # the base is known at run time only
        supports_statement_cache = base.supports_statement_cache

    for name in (*_REFLECTION, *_REFLECTION_OF_MANY):
        if hasattr(base, name):
            setattr(Translated, name, _in_its_schema(Translated, name))
    Translated.__name__ = Translated.__qualname__ = base.__name__
    return Translated


# Names in SQLAlchemy's Dialect, and where the argument `schema` stands after the connection.
_REFLECTION = {
    "has_table": 1,
    "has_sequence": 1,
    "has_index": 2,
    "get_sequence_names": 0,
    "get_table_names": 0,
    "get_view_names": 0,
    "get_materialized_view_names": 0,
    "get_foreign_keys": 1,
    "get_table_options": 1,
    "get_columns": 1,
    "get_indexes": 1,
    "get_pk_constraint": 1,
    "get_unique_constraints": 1,
    "get_check_constraints": 1,
    "get_view_definition": 1,
    "get_table_comment": 1,
    "get_enums": 0,
    "get_domains": 0,
}
_REFLECTION_OF_MANY = (
    "get_multi_columns",
    "get_multi_foreign_keys",
    "get_multi_indexes",
    "get_multi_pk_constraint",
    "get_multi_unique_constraints",
    "get_multi_check_constraints",
    "get_multi_table_comment",
    "get_multi_table_options",
)


def _target_of(connection: Any) -> BucketRecord | None:
    record = connection._dbapi_connection._connection_record
    return record if isinstance(record, BucketRecord) else None


def _in_its_schema(owner: type, name: str) -> Any:
    position = _REFLECTION.get(name)

    def method(self: Any, connection: Any, *args: Any, **kwargs: Any) -> Any:
        record = _target_of(connection)
        schema = record.target.translate if record is not None else None
        asked = schema
        if schema is not None:
            if position is not None and len(args) > position:
                asked = args[position]
                args = (*args[:position], asked or schema, *args[position + 1 :])
            else:
                asked = kwargs.get("schema")
                kwargs["schema"] = asked or schema
        found = getattr(super(owner, self), name)(connection, *args, **kwargs)
        if schema is None:
            return found
        return _as_asked(found, name, schema, asked)

    method.__name__ = name
    return method


def _as_asked(found: Any, name: str, schema: str, asked: str | None) -> Any:
    """Answers in the caller's words: without a schema if it named none, and related tables of
    the tenant's own schema without it in any case, for so the models have them.
    """
    if name == "get_foreign_keys":
        return [
            {**key, "referred_schema": None} if key["referred_schema"] == schema else key
            for key in found
        ]
    if name.startswith("get_multi"):
        inner = "get_foreign_keys" if name == "get_multi_foreign_keys" else "rows"
        return [
            (
                (asked if place == schema else place, table),
                _as_asked(rows, inner, schema, asked),
            )
            for (place, table), rows in found
        ]
    return found


def _in_its_database(owner: type, name: str) -> Any:
    def method(self: Any, connection: Any, *args: Any, **kwargs: Any) -> Any:
        record = _target_of(connection)
        database = record.database if record is not None else None
        token = _database_of_reflection.set(database)
        try:
            return getattr(super(owner, self), name)(connection, *args, **kwargs)
        finally:
            _database_of_reflection.reset(token)

    method.__name__ = name
    return method
