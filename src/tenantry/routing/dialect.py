"""SQLAlchemy's dialects, watched: what runs, under whom, and whether a transaction is open.

A routed engine keeps SQLAlchemy's own dialect object; only its class becomes a subclass made
here, so that caches, types and SQL stay exactly what they were. (Python lets an object take
a class with one more method, not one with one more base: hence classes made by functions.)
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from sqlalchemy.engine.interfaces import Dialect

from . import guard
from .pool import BucketRecord

__all__ = ["routed_dialect_class"]

_classes: dict[type[Dialect], type[Dialect]] = {}
_database_of_reflection: ContextVar[str | None] = ContextVar("tenantry_database", default=None)


def routed_dialect_class(base: type[Dialect]) -> type[Dialect]:
    """The watched subclass of a dialect class."""
    found = _classes.get(base)
    if found is None:
        found = _watched(base)
        if base.name in ("mysql", "mariadb"):
            found = _with_switched_reflection(found)
        _classes[base] = found
    return found


def _watched(base: Any) -> Any:
    """Notes transactions, and statements that may leave something; checks the tenant."""

    class Routed(base):  # type: ignore[misc]  # the base is known at run time only
        # SQLAlchemy copies this mark of each dialect class, it is not inherited.
        supports_statement_cache = base.supports_statement_cache

        def do_begin(self, dbapi_connection: Any) -> None:
            record = dbapi_connection._connection_record
            if isinstance(record, BucketRecord):
                record.lent -= 1  # SQLAlchemy itself asked the connection for its proxy
                record.check_current()
                record.in_transaction = True
            super().do_begin(dbapi_connection)

        def do_commit(self, dbapi_connection: Any) -> None:
            super().do_commit(dbapi_connection)
            _ended(dbapi_connection)

        def do_rollback(self, dbapi_connection: Any) -> None:
            super().do_rollback(dbapi_connection)
            _ended(dbapi_connection)

        def do_execute(
            self, cursor: Any, statement: str, parameters: Any, context: Any = None
        ) -> None:
            if context is not None:
                _before_statement(context, statement)
            super().do_execute(cursor, statement, parameters, context)

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

    Routed.__name__ = Routed.__qualname__ = f"Routed{base.__name__}"
    return Routed


def _ended(dbapi_connection: Any) -> None:
    record = dbapi_connection._connection_record
    if isinstance(record, BucketRecord):
        record.lent -= 1
        record.in_transaction = False


def _before_statement(context: Any, statement: str) -> None:
    record = context._dbapi_connection._connection_record
    if isinstance(record, BucketRecord):
        record.check_current()
        if not record.dirty and not guard.leaves_nothing(context, statement):
            record.dirty = True


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
        setattr(Switched, name, _in_its_database(Switched, name))
    Switched.__name__ = Switched.__qualname__ = base.__name__
    return Switched


_REFLECTION = (
    "has_table",
    "has_sequence",
    "get_sequence_names",
    "get_table_names",
    "get_view_names",
    "get_foreign_keys",
    "get_table_options",
    "get_columns",
    "get_indexes",
    "get_pk_constraint",
    "get_unique_constraints",
    "get_check_constraints",
    "get_view_definition",
    "get_table_comment",
)


def _in_its_database(owner: type, name: str) -> Any:
    def method(self: Any, connection: Any, *args: Any, **kwargs: Any) -> Any:
        record = connection._dbapi_connection._connection_record
        database = record.database if isinstance(record, BucketRecord) else None
        token = _database_of_reflection.set(database)
        try:
            return getattr(super(owner, self), name)(connection, *args, **kwargs)
        finally:
            _database_of_reflection.reset(token)

    method.__name__ = name
    return method
