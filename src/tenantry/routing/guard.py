"""Points, arms, verifies and cleans connections; throws away those in doubt.

The only place where statements from ``backends`` and ``isolation`` meet a connection. It
works on the driver's connection through SQLAlchemy's adapter, so that threads and tasks share
one body (the asynchronous drivers wait through SQLAlchemy's greenlet).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import TextClause
from sqlalchemy.sql.functions import Function, FunctionElement
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import SelectBase

if TYPE_CHECKING:
    from .pool import BucketRecord

__all__ = ["clean", "leaves_nothing", "point", "text_leaves_nothing"]

#: Functions of which it is known that they leave nothing on a session.
_HARMLESS = frozenset(
    """
    abs any array_agg avg bool_and bool_or cast ceil ceiling char_length character_length coalesce
    concat count cume_dist current_database current_date current_schema current_time
    current_timestamp date date_part date_trunc day dense_rank every exists extract first_value
    floor greatest group_concat grouping ifnull iif in instr json_agg json_build_object
    json_extract json_object jsonb_agg jsonb_build_object lag last_value lead least length
    localtime localtimestamp lower lpad ltrim max min mod month now ntile nullif numeric over
    percent_rank power random rank replace round row row_number rpad rtrim session_user sign
    sqrt strftime string_agg substr substring sum sysdate to_char to_date trim trunc typeof
    unnest upper user values varchar version year from and or not on as when then else using
    partition by filter where select union all distinct limit offset between like
    """.split()
)
_STARTS_HARMLESS = re.compile(
    r"\s*(?:select|insert|update|delete|with|values|savepoint|release\s+savepoint|rollback\s+to)\b",
    re.IGNORECASE,
)
_CALL = re.compile(r"([A-Za-z_][\w$.\"`]*)\s*\(")
_RISKY = re.compile(
    r";\s*\S|@\w|--|/\*|\binto\s+(?:temp|temporary|unlogged|outfile|dumpfile|pg_temp)\b",
    re.IGNORECASE,
)


@lru_cache(maxsize=1024)
def text_leaves_nothing(statement: str) -> bool:
    """Whether a piece of SQL text certainly leaves nothing on its session.

    Plain reads and writes that call known functions only. Everything else may have left
    something, which costs a reset; the doubt goes to safety.
    """
    if _STARTS_HARMLESS.match(statement) is None or _RISKY.search(statement) is not None:
        return False
    return all(
        call.group(1).lower() in _HARMLESS or _is_table_of_insert(statement, call.start())
        for call in _CALL.finditer(statement)
    )


def _is_table_of_insert(statement: str, position: int) -> bool:
    """``INSERT INTO t (a, b)``: the name before that parenthesis is a table."""
    return re.search(r"\binto\s+[\"`]?$", statement[:position], re.IGNORECASE) is not None


def leaves_nothing(context: Any, statement: str) -> bool:
    """Whether what *context* executes certainly leaves nothing on its session.

    Answered once per compiled statement and remembered on it.
    """
    compiled = context.compiled
    if compiled is None:
        return text_leaves_nothing(statement)
    known = getattr(compiled, "_tenantry_leaves_nothing", None)
    if known is None:
        known = compiled._tenantry_leaves_nothing = _statement_leaves_nothing(
            compiled.statement, statement
        )
    return bool(known)


def _statement_leaves_nothing(element: Any, statement: str) -> bool:
    if isinstance(element, TextClause) or not isinstance(element, (SelectBase, UpdateBase)):
        return text_leaves_nothing(statement)
    for part in visitors.iterate(element):
        if isinstance(part, TextClause) or getattr(part, "is_literal", False):
            return text_leaves_nothing(statement)
        # SQLAlchemy's own generic functions are all harmless; `func.anything` is a Function.
        if isinstance(part, Function) and part.name.lower() not in _HARMLESS:
            return False
        if isinstance(part, FunctionElement) and not hasattr(part, "name"):
            return False
    return True


def point(record: BucketRecord) -> None:
    """Make the connection what its target says, before its first statement."""
    target = record.target
    if target.switch_to is not None and record.database != target.switch_to:
        record.database = None  # in doubt until the server has answered
        _select_database(record, target.switch_to)
        record.database = target.switch_to
    if target.read_only:
        record.dirty = True
        for statement in target.backend.read_only_statements():
            _run_alone(record, statement)


def clean(record: BucketRecord) -> None:
    """Take off what the work before may have left; close the connection if that cannot be.

    Costs nothing when the transaction was ended and nothing but plain statements ran.
    """
    connection = record.dbapi_connection
    assert connection is not None
    dirty = record.dirty or record.lent > 0
    if record.in_transaction or dirty:
        connection.rollback()
        record.in_transaction = False
    if not dirty:
        return
    statement = record.target.backend.reset_statement()
    if statement is None:
        record.close()
        return
    _run_alone(record, statement)
    record.dirty = False


def _select_database(record: BucketRecord, database: str) -> None:
    """COM_INIT_DB: one round trip, not part of any transaction."""
    connection: Any = record.dbapi_connection
    if record.is_async:
        connection.run_async(lambda raw: raw.select_db(database))
    else:
        connection.select_db(database)


def _run_alone(record: BucketRecord, statement: str) -> None:
    """Run *statement* (or several) outside any transaction, in one round trip."""
    connection: Any = record.dbapi_connection
    driver = record.target.url.get_driver_name()
    if driver == "asyncpg":
        connection.run_async(lambda raw: raw.execute(statement))
    elif driver in ("psycopg", "psycopg2"):
        before = connection.autocommit
        connection.autocommit = True
        _execute(record, statement, driver)
        connection.autocommit = before
    else:
        _execute(record, statement, driver)


def _execute(record: BucketRecord, statement: str, driver: str) -> None:
    connection: Any = record.dbapi_connection
    if driver == "psycopg":
        # Never prepared: several statements cannot be, and this one would deallocate itself.
        if record.is_async:
            connection.run_async(lambda raw: raw.execute(statement, prepare=False))
        else:
            connection.execute(statement, prepare=False)
        return
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
    finally:
        cursor.close()
