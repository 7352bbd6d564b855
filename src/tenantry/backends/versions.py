"""Statements about the version tables of tenants, and around each step of a migration."""

# ruff: noqa: S608 - names come from the scripts and the directory, and are quoted here

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from .base import Backend

__all__ = [
    "CLOCK_DONE",
    "FLUSH",
    "MOVED_ON",
    "READ_CLOCK",
    "STEPS_TABLE",
    "arrived",
    "begin_message",
    "guard",
    "guard_of_file",
    "heads_of_databases",
    "heads_of_schemas",
    "read_heads",
    "says_moved_on",
    "schemas_with",
    "start_clock",
]

#: What the guard says of a tenant that stands elsewhere than expected: by an SQLSTATE of its own,
#: or in the words of a number that is none.
MOVED_ON = "TN001"
_ELSEWHERE = "tenantry: the tenant is not at "
_LEFT = "tenantry: the revision left its tenant, who is not at "

#: How far a revision has come that cannot be one transaction; exists for as long as one has not.
STEPS_TABLE = "tenantry_steps"

# By concat(), for || with a number is a function in SQL (textanycat), which is read each time.
_CLOCK = """\
SELECT pg_catalog.set_config('tenantry.clock', pg_catalog.concat({before}, ' ',
  pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())), false);
"""

#: PostgreSQL: adds to what :func:`start_clock` began that one more step is done, and when.
CLOCK_DONE = _CLOCK.format(before="pg_catalog.current_setting('tenantry.clock')")
READ_CLOCK = "SELECT pg_catalog.current_setting('tenantry.clock', true)"

#: PostgreSQL: what was committed before without waiting for the disk is there when this ends, for
#: it writes to the same log (xact.c, RecordTransactionCommit).
FLUSH = "SELECT pg_catalog.pg_logical_emit_message(true, 'tenantry', '')"


def literal(value: str) -> str:
    """*value* as a string in SQL; revision ids and recorded names only."""
    if "\0" in value or "\\" in value:
        raise ValueError("neither a NUL nor a backslash can stand here")
    return "'" + value.replace("'", "''") + "'"


def begin_message(
    backend: Backend,
    schema: str | None,
    lock_name: str,
    lock_timeout_seconds: float,
    *,
    waits_for_disk: bool = True,
) -> str:
    """PostgreSQL: what stands before the statements of one step, in one message with them.

    Without *waits_for_disk* a later commit of the same session is to wait for it too, which it
    does, for there is one log.
    """
    parts = ["BEGIN"]
    if not waits_for_disk:
        parts.append("SET LOCAL synchronous_commit TO off")
    if schema is not None:
        parts.append(f"SET LOCAL search_path TO {backend.quote(schema)}, pg_temp")
    parts.append(f"SET LOCAL lock_timeout TO '{round(lock_timeout_seconds * 1000)}ms'")
    parts.append(
        "SELECT pg_catalog.pg_advisory_xact_lock("
        f"pg_catalog.hashtextextended({literal('tenantry:' + lock_name)}, 0))"
    )
    return ";\n".join(parts) + ";\n"


def start_clock(message: str) -> str:
    """PostgreSQL: notes the name of a *message* and the server's time, before its first place.

    It is a setting of the session, which is what it was when a transaction is rolled back. A
    message that is refused whole leaves the one before it.
    """
    return f"BEGIN;\n{_CLOCK.format(before=literal(message))}COMMIT;\n"


def guard(table: str, expected: tuple[str, ...], schema: str | None = None) -> str:
    """PostgreSQL: an error that :func:`says_moved_on`, unless the table holds just *expected*.

    Where a version is expected the table is there, and a plain query does: a block of PL/pgSQL
    is compiled each time, which costs the server more than twice as much. Where none is,
    *schema* has to be there, for on a path without it tables would be temporary ones.
    """
    heads = literal(",".join(sorted(expected)))
    quoted = '"' + table.replace('"', '""') + '"'
    if expected:
        return _stands(quoted, expected, _ELSEWHERE)
    gone = ""
    if schema is not None:
        named = literal('"' + schema.replace('"', '""') + '"')
        gone = f" OR pg_catalog.to_regnamespace({named}) IS NULL"
    return f"""\
DO $tenantry$
DECLARE heads text := '';
BEGIN
  IF pg_catalog.to_regclass({literal(quoted)}) IS NOT NULL THEN
    SELECT coalesce(pg_catalog.string_agg(version_num, ',' ORDER BY version_num COLLATE "C"), '')
      INTO heads FROM {quoted};
  END IF;
  IF heads <> {heads}{gone} THEN
    RAISE EXCEPTION 'the tenant is at revision %', heads USING ERRCODE = '{MOVED_ON}';
  END IF;
END
$tenantry$;
"""


def guard_of_file(backend: Backend, table: str, expected: Sequence[str]) -> str:
    """SQLite: an error unless *table* holds just *expected*, and no revision was interrupted.

    It is the overflow of the one number that has no absolute value (sqlite.org/lang_corefunc.html).
    """
    begun, _ = read_heads(backend, STEPS_TABLE)
    count, names = len(expected), ", ".join(map(literal, expected)) or "NULL"
    return f"""\
SELECT abs(CASE WHEN count(*) = {count}
    AND count(CASE WHEN version_num IN ({names}) THEN 1 END) = {count} AND NOT EXISTS ({begun})
  THEN 0 ELSE -9223372036854775808 END) FROM {backend.quote(table)}"""


def arrived(backend: Backend, table: str, schema: str, expected: tuple[str, ...]) -> str:
    """PostgreSQL: an error unless the version table of *schema* holds just *expected*."""
    return _stands(f"{backend.quote(schema)}.{backend.quote(table)}", expected, _LEFT)


@lru_cache(maxsize=64)
def _stands(table: str, expected: tuple[str, ...], words: str) -> str:
    """PostgreSQL: an error that begins with *words*, unless *table* holds just *expected*.

    As an array: aggregates would cost the server another 20 microseconds for each place. What
    fails is no constant, else it would fail before anybody is asked.
    """
    names = ", ".join(map(literal, sorted(expected)))
    order = ' ORDER BY version_num COLLATE "C"' if len(expected) > 1 else ""
    text = literal(f"{words}{', '.join(sorted(expected)) or 'base'}, by the path ")
    return f"""\
SELECT CASE WHEN ARRAY(SELECT CAST(version_num AS text) FROM {table}{order})
    = CAST(ARRAY[{names}] AS text[])
  THEN 0 ELSE CAST({text} || pg_catalog.current_setting('search_path') AS integer) END;
"""


def says_moved_on(state: str | None, text: str, table: str) -> bool:
    """Whether an error is the guard's, or says that there is no version table any more."""
    if state == "22P02":  # invalid_text_representation
        return _ELSEWHERE in text
    return state == MOVED_ON or (state == "42P01" and f'"{table}"' in text)  # undefined_table


def read_heads(backend: Backend, table: str, schema: str | None = None) -> tuple[str, str]:
    """Two queries: one that gives a row if the version table exists, and one that reads it."""
    name = backend.quote(table)
    if backend.kind == "postgresql":
        if schema is not None:
            name = f"{backend.quote(schema)}.{name}"
        exists = f"SELECT 1 WHERE pg_catalog.to_regclass({literal(name)}) IS NOT NULL"
    elif backend.kind == "sqlite":
        exists = f"SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = {literal(table)}"
    else:
        exists = (
            "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() "
            f"AND table_name = {literal(table)}"
        )
    return exists, f"SELECT version_num FROM {name}"


def schemas_with(table: str) -> str:
    """PostgreSQL: every schema of the database; whether it has *table*, and ``STEPS_TABLE``."""
    return f"""\
SELECT n.nspname, c.oid IS NOT NULL, s.oid IS NOT NULL
  FROM pg_catalog.pg_namespace n
  LEFT JOIN pg_catalog.pg_class c
    ON c.relnamespace = n.oid AND c.relname = {literal(table)} AND c.relkind IN ('r', 'p')
  LEFT JOIN pg_catalog.pg_class s
    ON s.relnamespace = n.oid AND s.relname = {literal(STEPS_TABLE)} AND s.relkind IN ('r', 'p')
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"""


def heads_of_schemas(backend: Backend, table: str, schemas: Sequence[str]) -> str:
    """One query: (schema, revision) for each of *schemas*, all of which have the table."""
    name = backend.quote(table)
    return "\nUNION ALL ".join(
        f"SELECT {literal(schema)} AS place, version_num FROM {backend.quote(schema)}.{name}"
        for schema in schemas
    )


def heads_of_databases(table: str) -> str:
    """MySQL: every database of the server; whether it has *table*, and ``STEPS_TABLE``."""
    return f"""\
SELECT s.schema_name, t.table_name IS NOT NULL, b.table_name IS NOT NULL
  FROM information_schema.schemata s
  LEFT JOIN information_schema.tables t
    ON t.table_schema = s.schema_name AND t.table_name = {literal(table)}
  LEFT JOIN information_schema.tables b
    ON b.table_schema = s.schema_name AND b.table_name = {literal(STEPS_TABLE)}"""
