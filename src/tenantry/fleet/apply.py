"""Applies the steps of a plan to one place: each revision whole, with its version row, or not.

PostgreSQL and SQLite roll DDL back, so a step is one transaction there: lock, guard, statements,
version row. MySQL and MariaDB commit around every DDL statement, and some statements of
PostgreSQL (``CREATE INDEX CONCURRENTLY``) run outside any transaction. For those a row in the
place itself says which statement is the next; after a crash exactly that one is in doubt, and
only for it "exists already" means that it was done. A live revision is replayed.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from ..backends import SQLite
from ..backends.base import sqlstate
from ..backends.versions import begin_message, guard, read_heads, says_moved_on
from ..errors import MigrationError
from .access import Access, Place, missing
from .locks import holding, lock_name
from .plan import Plan, Step
from .replay import Replay
from .runner import describe
from .statements import run, send
from .status import heads_in
from .steps import (
    Position,
    alone,
    error_number,
    interrupted_step,
    label,
    mark,
    note,
    position,
    refusal,
    refuse,
    unmark,
)

if TYPE_CHECKING:
    from .migrate import Scripts

__all__ = ["LockedError", "MovedOnError", "apply"]

_LOCK_STATES = ("55P03", "40P01")  # lock_not_available, deadlock_detected
_LOCK_NUMBERS = (1205, 1213)  # ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK
_BEGINNING = Position(-1, in_doubt=False)
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
        replay = Replay(connection, place, step, sees_all=not scripts.goes_round(step))
        try:
            with replay.running():
                scripts.run_online(connection, step, ended=replay.end)
        except Exception as error:
            if connection.in_transaction():
                connection.rollback()
            if isinstance(error, MigrationError):
                raise
            raise translated(error, place, step.revision) from error


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
        at = position(connection, place, steps[0])
        if at is None:
            mark(connection, place, steps[0])
        at = at or _BEGINNING
        for index, step in enumerate(steps):
            following = steps[index + 1] if index + 1 < len(steps) else None
            try:
                if place.server.kind == "postgresql":
                    _segments(connection, place, step, at)
                else:
                    _statements(connection, place, step, at, following)
            except Exception as error:
                raise translated(error, place, step.revision) from error
            at = _BEGINNING
        unmark(connection, place)


def _segments(connection: Connection, place: Place, step: Step, at: Position) -> None:
    """PostgreSQL: transactions whole, what runs outside of them one by one."""
    number = 0
    for segment in step.segments or ():
        if segment.transactional:
            if number >= at.number:
                done = note(place, number + 1)
                message = "".join(f"{each};\n" for each in (*segment.statements, done))
                send(connection, f"BEGIN;\n{message}COMMIT")
            number += 1
            continue
        for statement in segment.statements:
            if number >= at.number:
                _one(connection, place, statement, number, at)
                run(connection, note(place, number + 1))
            number += 1


def _statements(
    connection: Connection, place: Place, step: Step, at: Position, following: Step | None
) -> None:
    """MySQL: DDL one by one; rows, the version row among them, with the note in a transaction."""
    statements = [each for segment in step.segments or () for each in segment.statements]
    for number, statement in enumerate(statements):
        if number < at.number:
            continue
        is_last = number + 1 == len(statements)
        done = note(place, number + 1)
        if is_last and following is not None:
            done = note(place, 0, following)
        if _DML.match(statement):
            _together(connection, statement, done)
            continue
        _one(connection, place, statement, number, at)
        # Before rows no note is needed: done twice, the DDL says so, and the rows' note follows.
        if is_last or not _DML.match(statements[number + 1]):
            run(connection, done)


def _one(connection: Connection, place: Place, statement: str, number: int, at: Position) -> None:
    """A statement that commits itself."""
    in_doubt = at.in_doubt and number == at.number
    if number == at.number and not in_doubt:
        run(connection, note(place, number))  # it was refused: from here on it is in doubt
    try:
        alone(connection, statement, lambda: run(connection, statement), in_doubt=in_doubt)
    except Exception as error:
        if refusal(error):
            refuse(connection, place, number)
        raise


def _together(connection: Connection, *statements: str) -> None:
    run(connection, "BEGIN")
    try:
        for statement in statements:
            run(connection, statement)
        run(connection, "COMMIT")
    except BaseException:
        with contextlib.suppress(Exception):
            run(connection, "ROLLBACK")
        raise


def check_interrupted(
    access: Access, place: Place, plan: Plan, table: str, lock_timeout: float, *, online: bool
) -> None:
    """Refuse to go another way than on with a revision that was interrupted half-way.

    Under the lock, for without it the revision may be somebody's who is at it.

    Raises:
        LockedError: Another migrator is at work in the place.
        MovedOnError: The place does not stand where the plan begins.
        MigrationError: The plan does not begin with that revision, or the revision was begun
            live and shall go on as plain statements.
    """
    with (
        holding(access, place, "migrate", wait_seconds=lock_timeout, inside=True) as got,
        access.enter(place) as connection,
    ):
        if not got:
            raise LockedError(tenant_id=place.name)
        if heads_in(connection, place, table) != plan.before:
            raise MovedOnError(tenant_id=place.name)
        begun = interrupted_step(connection, place)
        up, revision = begun.label[:1] == "+", begun.label[1:]
        if not revision or up == (revision in plan.before):
            unmark(connection, place)  # it was the last thing to do
            connection.commit()
        elif not plan.steps or label(plan.steps[0]) != begun.label:
            raise MigrationError(
                f"tenant {place.name!r} stands within revision {revision}, which was interrupted; "
                f"finish it first: `tenantry migrate --tenant {place.name} --to "
                f"{revision if up else revision + '-1'}`",
                tenant_id=place.name,
            )
        elif begun.is_live and not (online or plan.steps[0].segments is None):
            raise MigrationError(
                f"revision {revision} of tenant {place.name!r} was begun live and interrupted; "
                "finish it as it was begun, with --online",
                tenant_id=place.name,
            )


def _set_lock_timeout(connection: Connection, place: Place, seconds: float) -> None:
    if place.server.kind == "postgresql":
        run(connection, f"SET SESSION lock_timeout TO '{round(seconds * 1000)}ms'")
    elif place.server.kind == "mysql":
        whole = max(1, round(seconds))
        run(
            connection,
            f"SET SESSION lock_wait_timeout = {whole}, innodb_lock_wait_timeout = {whole}",
        )
    if connection.in_transaction():
        connection.commit()


def translated(error: BaseException, place: Place, revision: str) -> MigrationError:
    """What an error of a database means for a migration."""
    state = sqlstate(error)
    text = str(error)
    if (
        state in _LOCK_STATES
        or error_number(error) in _LOCK_NUMBERS
        or "database is locked" in text
    ):
        return LockedError(tenant_id=place.name)
    what = f"revision {revision}" if revision else "a revision"
    return MigrationError(
        f"{what} failed on tenant {place.name!r} and was rolled back: {describe(error)}; "
        "repair the cause and run the same command again",
        tenant_id=place.name,
    )
