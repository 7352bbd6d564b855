"""Applies the steps of a plan to one place: each revision whole, with its version row, or not.

PostgreSQL and SQLite roll DDL back, so a step is one transaction there: lock, guard, statements,
version row. MySQL and MariaDB commit around every DDL statement, and some statements of
PostgreSQL (``CREATE INDEX CONCURRENTLY``) run outside any transaction. For those a row in the
place itself says which statement is the next; after a crash exactly that one is in doubt, and
only for it "exists already" means that it was done.
"""

# ruff: noqa: S608 - names come from the scripts and the directory, quoted; no value is a request's

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from ..backends import SQLite
from ..backends.base import sqlstate
from ..backends.versions import (
    STEPS_TABLE,
    begin_message,
    guard,
    read_heads,
    says_moved_on,
)
from ..errors import MigrationError
from .access import Access, Place, missing
from .locks import holding, lock_name
from .plan import Plan, Step
from .runner import describe
from .status import heads_in

if TYPE_CHECKING:
    from .migrate import Scripts

__all__ = ["LockedError", "MovedOnError", "apply"]

_LOCK_STATES = ("55P03", "40P01")  # lock_not_available, deadlock_detected
_LOCK_NUMBERS = (1205, 1213)  # ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK
# What a statement says that was done before: PostgreSQL's states, MySQL's numbers.
_DONE_STATES = ("42P07", "42701", "42710", "42P16", "42704", "42703", "42P01")
_DONE_NUMBERS = (1007, 1050, 1051, 1060, 1061, 1091, 1826, 1146, 1054)
_CONCURRENTLY = re.compile(
    r"\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?"
    r'("(?:[^"]|"")+"|\w+)',
    re.IGNORECASE,
)
_DML = re.compile(r"\s*(INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)


class LockedError(MigrationError):
    """somebody holds a lock on a table of the tenant; nothing was changed."""


class MovedOnError(MigrationError):
    """another migrator was faster; the tenant stands elsewhere now."""


def apply(
    access: Access,
    place: Place,
    plan: Plan,
    scripts: Scripts,
    *,
    lock_timeout: float = 2.0,
    online: bool = False,
) -> int:
    """Apply the steps of *plan* to *place*; says how many. *lock_timeout* is in seconds.

    With *online* every step runs through Alembic on a live connection.

    Raises:
        LockedError: A table is in use; the steps before stay applied.
        MovedOnError: The place does not stand where the plan begins.
        MigrationError: A step failed, and was rolled back.
    """
    applied = 0
    steps = list(plan.steps)
    while steps:
        batch: list[Step] = []
        while steps and not online and steps[0].segments is not None:
            if not steps[0].is_batch and place.server.kind == "postgresql":
                break
            batch.append(steps.pop(0))
        try:
            if batch:
                _apply_batch(access, place, batch, scripts.version_table, lock_timeout)
                applied += len(batch)
            else:
                step = steps.pop(0)
                if step.segments is None or online:
                    _apply_online(access, place, step, scripts, lock_timeout)
                else:
                    _apply_stepwise(access, place, [step], scripts.version_table, lock_timeout)
                applied += 1
        except (MigrationError, OSError):
            raise
        except Exception as error:
            named = batch[0].revision if len(batch) == 1 else ""
            raise translated(error, place, named) from error
    return applied


def _apply_batch(
    access: Access, place: Place, steps: Sequence[Step], table: str, lock_timeout: float
) -> None:
    if isinstance(place.backend, SQLite):
        _apply_to_file(place, steps, table, lock_timeout)
    elif place.server.kind == "mysql":
        _apply_stepwise(access, place, steps, table, lock_timeout)
    else:
        with access.connect(place.server, place.database, autocommit=True) as connection:
            # All steps in one message, each a transaction of its own in it.
            try:
                send(connection, _message(place, steps, table, lock_timeout))
            except Exception as error:
                if says_moved_on(sqlstate(error), str(error), table):
                    raise MovedOnError(tenant_id=place.name) from error
                failed = _first_left(connection, place, steps, table)
                raise translated(error, place, failed) from error


def _first_left(connection: Connection, place: Place, steps: Sequence[Step], table: str) -> str:
    """The revision at which a message of several ended."""
    with contextlib.suppress(Exception):
        heads = heads_in(connection, place, table)
        for step in steps:
            if step.before == heads:
                return step.revision
    return ""


def _message(place: Place, steps: Sequence[Step], table: str, lock_timeout: float) -> str:
    begin = begin_message(place.backend, place.schema, lock_name(place, "migrate"), lock_timeout)
    parts = []
    for step in steps:
        assert step.segments is not None
        parts.append(begin)
        parts.append(guard(table, step.before))
        parts += [f"{statement};\n" for statement in step.segments[0].statements]
        parts.append("COMMIT;\n")
    return "".join(parts)


def send(connection: Connection, message: str) -> None:
    """Straight to the driver: a message of several statements is nothing SQLAlchemy looks at."""
    driver: Any = connection.connection.driver_connection
    if getattr(driver, "prepare_threshold", None) is not None:
        driver.prepare_threshold = None  # several commands cannot be prepared
    cursor = driver.cursor()
    try:
        cursor.execute(message)
    except BaseException:
        with contextlib.suppress(Exception):
            cursor.execute("ROLLBACK")
        raise
    finally:
        cursor.close()


def _apply_to_file(place: Place, steps: Sequence[Step], table: str, lock_timeout: float) -> None:
    file = place.file()
    if not file.exists():
        raise missing(place)
    connection = sqlite3.connect(file, timeout=lock_timeout, isolation_level=None)
    exists, read = read_heads(place.backend, table)
    try:
        for step in steps:
            assert step.segments is not None
            connection.execute("BEGIN IMMEDIATE")
            try:
                heads: tuple[str, ...] = ()
                if connection.execute(exists).fetchone() is not None:
                    heads = tuple(sorted(str(row[0]) for row in connection.execute(read)))
                if heads != step.before:
                    raise MovedOnError(tenant_id=place.name)
                for segment in step.segments:
                    for statement in segment.statements:
                        connection.execute(statement)
                connection.execute("COMMIT")
            except BaseException as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if isinstance(error, Exception) and not isinstance(error, MigrationError):
                    raise translated(error, place, step.revision) from error
                raise
    finally:
        connection.close()


def _apply_online(
    access: Access, place: Place, step: Step, scripts: Scripts, lock_timeout: float
) -> None:
    """Through Alembic, on a connection of its own; one at a time in a process."""
    from .migrate import ALEMBIC_LOCK

    with (
        ALEMBIC_LOCK,
        holding(access, place, "migrate", wait_seconds=lock_timeout, inside=True) as got,
        access.enter(place, write=True) as connection,
    ):
        if not got:
            raise LockedError(tenant_id=place.name)
        _set_lock_timeout(connection, place, lock_timeout)
        if heads_in(connection, place, scripts.version_table) != step.before:
            raise MovedOnError(tenant_id=place.name)
        in_doubt = place.server.kind == "mysql"
        if in_doubt and _position(connection, place, step) is not None:
            raise MigrationError(
                f"revision {step.revision} of tenant {place.name!r} needs a live connection and "
                "was interrupted on a server that takes no DDL back; look what is done, then "
                f"set the tenant's version row or undo it, and drop table {STEPS_TABLE}",
                tenant_id=place.name,
            )
        if in_doubt:
            _mark(connection, place, step, 0)
        connection.commit()
        try:
            scripts.run_online(connection, step)
        except Exception as error:
            if connection.in_transaction():
                connection.rollback()
            raise translated(error, place, step.revision) from error
        if in_doubt:
            _unmark(connection, place)
            connection.commit()


def _apply_stepwise(
    access: Access, place: Place, steps: Sequence[Step], table: str, lock_timeout: float
) -> None:
    """Statement by statement, with a row in the place that says which is the next."""
    with (
        holding(access, place, "migrate", wait_seconds=lock_timeout, inside=True) as got,
        access.enter(place, autocommit=True) as connection,
    ):
        if not got:
            raise LockedError(tenant_id=place.name)
        _set_lock_timeout(connection, place, lock_timeout)
        if heads_in(connection, place, table) != steps[0].before:
            raise MovedOnError(tenant_id=place.name)
        position = _position(connection, place, steps[0])
        if position is None:
            _mark(connection, place, steps[0], 0)
        for index, step in enumerate(steps):
            following = steps[index + 1] if index + 1 < len(steps) else None
            try:
                if place.server.kind == "postgresql":
                    _segments(connection, place, step, position)
                else:
                    _statements(connection, place, step, position, following)
            except Exception as error:
                raise translated(error, place, step.revision) from error
            position = None
        _unmark(connection, place)


def _segments(connection: Connection, place: Place, step: Step, position: int | None) -> None:
    """PostgreSQL: transactions whole, what runs outside of them one by one."""
    number, first = 0, position or 0
    for segment in step.segments or ():
        if segment.transactional:
            if number >= first:
                note = _note(place, number + 1)
                message = "".join(f"{each};\n" for each in (*segment.statements, note))
                send(connection, f"BEGIN;\n{message}COMMIT")
            number += 1
            continue
        for statement in segment.statements:
            if number >= first:
                _one(connection, statement, in_doubt=number == position)
                _run(connection, _note(place, number + 1))
            number += 1


def _statements(
    connection: Connection, place: Place, step: Step, position: int | None, following: Step | None
) -> None:
    """MySQL: DDL one by one; rows, the version row among them, with the note in a transaction."""
    statements = [each for segment in step.segments or () for each in segment.statements]
    for number, statement in enumerate(statements):
        if number < (position or 0):
            continue
        is_last = number + 1 == len(statements)
        note = _note(place, number + 1)
        if is_last and following is not None:
            note = _note(place, 0, following)
        if _DML.match(statement):
            _together(connection, statement, note)
            continue
        _one(connection, statement, in_doubt=number == position)
        # Before rows no note is needed: done twice, the DDL says so, and the rows' note follows.
        if is_last or not _DML.match(statements[number + 1]):
            _run(connection, note)


def _note(place: Place, position: int, step: Step | None = None) -> str:
    revision = f"revision = '{_label(step)}', " if step is not None else ""
    return f"UPDATE {place.backend.quote(STEPS_TABLE)} SET {revision}position = {position}"


def _together(connection: Connection, *statements: str) -> None:
    _run(connection, "BEGIN")
    try:
        for statement in statements:
            _run(connection, statement)
        _run(connection, "COMMIT")
    except BaseException:
        with contextlib.suppress(Exception):
            _run(connection, "ROLLBACK")
        raise


def _one(connection: Connection, statement: str, *, in_doubt: bool) -> None:
    """A statement that commits itself; *in_doubt*: a crash may have come just after it."""
    index = _CONCURRENTLY.match(statement)
    if index is not None and in_doubt:
        # An interrupted build leaves an index that is of no use and in the way (manual, CREATE
        # INDEX, "Building Indexes Concurrently").
        _drop_invalid(connection, index[1])
    try:
        _run(connection, statement)
    except Exception as error:
        if in_doubt and _says_done(error):
            return
        if index is not None:
            with contextlib.suppress(Exception):
                _drop_invalid(connection, index[1])
        raise


def _drop_invalid(connection: Connection, index: str) -> None:
    name = index.replace("'", "''")
    query = (
        "SELECT 1 FROM pg_catalog.pg_index WHERE NOT indisvalid "
        f"AND indexrelid = pg_catalog.to_regclass('{name}')"
    )
    if _run(connection, query).first() is not None:
        _run(connection, f"DROP INDEX CONCURRENTLY {index}")


def _position(connection: Connection, place: Place, step: Step) -> int | None:
    exists, _ = read_heads(place.backend, STEPS_TABLE, place.schema)
    if _run(connection, exists).first() is None:
        return None
    row = _run(
        connection, f"SELECT revision, position FROM {place.backend.quote(STEPS_TABLE)}"
    ).first()
    if row is None or str(row[0]) != _label(step):
        return None  # left by a step whose version row was written: that one is done
    return int(row[1])


def check_interrupted(
    access: Access, place: Place, plan: Plan, table: str, lock_timeout: float
) -> None:
    """Refuse to go another way than on with a revision that was interrupted half-way.

    Under the lock, for without it the revision may be somebody's who is at it.

    Raises:
        LockedError: Another migrator is at work in the place.
        MovedOnError: The place does not stand where the plan begins.
        MigrationError: The plan does not begin with that revision.
    """
    with (
        holding(access, place, "migrate", wait_seconds=lock_timeout, inside=True) as got,
        access.enter(place) as connection,
    ):
        if not got:
            raise LockedError(tenant_id=place.name)
        if heads_in(connection, place, table) != plan.before:
            raise MovedOnError(tenant_id=place.name)
        exists, _ = read_heads(place.backend, STEPS_TABLE, place.schema)
        if _run(connection, exists).first() is None:
            return
        row = _run(connection, f"SELECT revision FROM {place.backend.quote(STEPS_TABLE)}").first()
        label = str(row[0]) if row is not None else ""
        up, revision = label[:1] == "+", label[1:]
        if not label or up == (revision in plan.before):
            _unmark(connection, place)  # it was the last thing to do
            connection.commit()
        elif not plan.steps or _label(plan.steps[0]) != label:
            raise MigrationError(
                f"tenant {place.name!r} stands within revision {revision}, which was interrupted; "
                f"finish it first: `tenantry migrate --tenant {place.name} --to "
                f"{revision if up else revision + '-1'}`",
                tenant_id=place.name,
            )


def _mark(connection: Connection, place: Place, step: Step, position: int) -> None:
    name = place.backend.quote(STEPS_TABLE)
    _run(connection, f"DROP TABLE IF EXISTS {name}")
    _run(connection, f"CREATE TABLE {name} (revision VARCHAR(255), position INTEGER)")
    _run(connection, f"INSERT INTO {name} VALUES ('{_label(step)}', {position})")


def _unmark(connection: Connection, place: Place) -> None:
    _run(connection, f"DROP TABLE IF EXISTS {place.backend.quote(STEPS_TABLE)}")


def _label(step: Step) -> str:
    return f"{'+' if step.is_upgrade else '-'}{step.revision}".replace("'", "''")


def _set_lock_timeout(connection: Connection, place: Place, seconds: float) -> None:
    if place.server.kind == "postgresql":
        _run(connection, f"SET SESSION lock_timeout TO '{round(seconds * 1000)}ms'")
    elif place.server.kind == "mysql":
        whole = max(1, round(seconds))
        _run(
            connection,
            f"SET SESSION lock_wait_timeout = {whole}, innodb_lock_wait_timeout = {whole}",
        )
    if connection.in_transaction():
        connection.commit()


def _run(connection: Connection, statement: str) -> Any:
    return connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _number(error: BaseException) -> int | None:
    args = getattr(getattr(error, "orig", None) or error, "args", ())
    return args[0] if args and isinstance(args[0], int) else None


def _says_done(error: BaseException) -> bool:
    return sqlstate(error) in _DONE_STATES or _number(error) in _DONE_NUMBERS


def translated(error: BaseException, place: Place, revision: str) -> MigrationError:
    """What an error of a database means for a migration."""
    state = sqlstate(error)
    text = str(error)
    if state in _LOCK_STATES or _number(error) in _LOCK_NUMBERS or "database is locked" in text:
        return LockedError(tenant_id=place.name)
    what = f"revision {revision}" if revision else "a revision"
    return MigrationError(
        f"{what} failed on tenant {place.name!r} and was rolled back: {describe(error)}; "
        "repair the cause and run the same command again",
        tenant_id=place.name,
    )
