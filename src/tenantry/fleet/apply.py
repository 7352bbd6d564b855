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
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy import Connection

from ..backends import SQLite
from ..backends.base import sqlstate
from ..backends.versions import (
    CLOCK_DONE,
    FLUSH,
    READ_CLOCK,
    arrived,
    begin_message,
    guard,
    guard_of_file,
    says_moved_on,
    start_clock,
)
from ..errors import MigrationError, TenantryError
from .access import Access, Place, open_file
from .locks import holding, lock_name
from .plan import Plan, Step
from .replay import Replay
from .runner import describe
from .statements import run, send
from .status import heads_in, heads_in_file
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

__all__ = ["LockedError", "MovedOnError", "apply", "apply_again", "apply_together"]

OnApplied = Callable[[int], None]

_LOCK_STATES = ("55P03", "40P01")  # lock_not_available, deadlock_detected
_LOCK_NUMBERS = (1205, 1213)  # ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK
_BEGINNING = Position(-1, in_doubt=False)
_DML = re.compile(r"\s*(INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)


class LockedError(MigrationError):
    """somebody holds a lock on a table of the tenant; what had to wait for it was not begun."""


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
    file: sqlite3.Connection | None = None,
    on_applied: OnApplied = lambda _: None,
) -> None:
    """Apply the steps of *plan* to *place*. *lock_timeout* is in seconds.

    With *online* every step runs through Alembic on a live connection. *file* is the place's
    own, if that is an SQLite file and open (see :func:`~.access.open_file`). *on_applied* hears
    how many more steps are there to stay, whatever becomes of the next.

    Raises:
        LockedError: A table is in use; the steps before stay applied.
        MovedOnError: The place does not stand where the plan begins.
        MigrationError: A step failed, and was rolled back.
    """
    steps = list(plan.steps)
    while steps:
        batch: list[Step] = []
        while steps and not online and steps[0].segments is not None:
            if not steps[0].is_batch and place.server.kind == "postgresql":
                break
            batch.append(steps.pop(0))
        try:
            if batch:
                table = scripts.version_table
                _apply_batch(access, place, batch, table, lock_timeout, file, on_applied)
            else:
                step = steps.pop(0)
                if step.segments is None or online:
                    _apply_online(access, place, step, scripts, lock_timeout)
                    on_applied(1)
                else:
                    table = scripts.version_table
                    _apply_stepwise(access, place, [step], table, lock_timeout, on_applied)
        except (TenantryError, OSError):
            raise
        except Exception as error:
            named = batch[0].revision if len(batch) == 1 else ""
            raise translated(error, place, named) from error


def _apply_batch(
    access: Access,
    place: Place,
    steps: Sequence[Step],
    table: str,
    lock_timeout: float,
    file: sqlite3.Connection | None,
    on_applied: OnApplied,
) -> None:
    if file is not None:
        _apply_to_file(file, place, steps, table, on_applied)
    elif isinstance(place.backend, SQLite):
        with open_file(place, timeout=lock_timeout) as opened:
            _apply_to_file(opened, place, steps, table, on_applied)
    elif place.server.kind == "mysql":
        _apply_stepwise(access, place, steps, table, lock_timeout, on_applied)
    else:
        seconds, problem = apply_together(access, [place], steps, table, lock_timeout)
        on_applied(len(seconds))
        if problem is not None:
            raise problem


def apply_together(
    access: Access,
    places: Sequence[Place],
    steps: Sequence[Step],
    table: str,
    lock_timeout: float,
) -> tuple[list[float], MigrationError | None]:
    """Apply *steps*, batches all, to PostgreSQL places of one database, one after the other.

    All goes in one message, and each step is a transaction of its own in it. The last of them
    alone waits for the disk, and with it all before. The first error ends the message: the
    places before are done, those behind were not begun. Returns the seconds of each step that is
    there to stay, place by place, and what ended the message at the next one.

    Raises:
        Exception: The connection broke, so nobody knows which of them are done.
    """
    first = places[0]
    own = not all(step.leaves_nothing for step in steps)
    several = len(places) * len(steps) > 1
    name = uuid4().hex
    parts = [start_clock(name)] if several else []
    for place in places:
        for step in steps:
            is_last = place is places[-1] and step is steps[-1]
            parts += _message(place, step, table, lock_timeout, several, is_last)
    parts += [READ_CLOCK] if several else []
    with access.connect(first.server, first.database, autocommit=True, own=own) as connection:
        try:
            clock = send(connection, "".join(parts))
        except Exception as error:  # whatever it is, those before it are done
            try:
                clock = run(connection, READ_CLOCK).scalar() if several else None
                seconds = _seconds(clock, name)
                if seconds:
                    run(connection, FLUSH)
            except Exception:  # the session is gone, and the first error says why
                raise error from None
            connection.invalidate()  # a session in doubt is not kept
            whole, part = divmod(len(seconds), len(steps))
            if whole == len(places):
                return seconds, None  # it was ended behind the last of them
            place = places[whole]
            problem: MigrationError
            if says_moved_on(sqlstate(error), str(error), table):
                problem = MovedOnError(tenant_id=place.name)
            else:
                problem = translated(error, place, steps[part].revision)
            problem.__cause__ = error
            return seconds, problem
        return (_seconds(clock, name) if several else [0.0]), None


def _seconds(clock: str | None, message: str) -> list[float]:
    """How long each step of *message* took that is done, by what :data:`READ_CLOCK` says."""
    name, *times = (clock or "").split() or [""]
    if name != message:
        return []  # it was not even begun
    return [after - before for before, after in pairwise(map(float, times))]


def _message(
    place: Place, step: Step, table: str, lock_timeout: float, several: bool, is_last: bool
) -> Iterator[str]:
    lock = lock_name(place, "migrate")
    yield begin_message(place.backend, place.schema, lock, lock_timeout, waits_for_disk=is_last)
    yield guard(table, step.before, place.schema)
    yield step.batch
    if place.schema is not None and not step.leaves_nothing:
        yield arrived(place.backend, table, place.schema, step.after)
    if several:
        yield CLOCK_DONE
    yield "COMMIT;\n"


def _apply_to_file(
    file: sqlite3.Connection,
    place: Place,
    steps: Sequence[Step],
    table: str,
    on_applied: OnApplied,
) -> None:
    for step in steps:
        assert step.segments is not None
        try:
            file.execute("BEGIN IMMEDIATE")
            if heads_in_file(file, place, table) != step.before:
                raise MovedOnError(tenant_id=place.name)
            for segment in step.segments:
                for statement in segment.statements:
                    file.execute(statement)
            file.execute("COMMIT")
            on_applied(1)
        except BaseException as error:
            if file.in_transaction:
                file.execute("ROLLBACK")
            if isinstance(error, Exception) and not isinstance(error, MigrationError):
                raise translated(error, place, step.revision) from error
            raise


def apply_again(
    file: sqlite3.Connection, place: Place, steps: Sequence[Step], table: str
) -> tuple[int, bool]:
    """Apply *steps*, which another file came through one statement at a time.

    All of a step goes in one call, so the threads of a fleet get in each other's way less. At
    the first that does not come through, for whatever reason, it stops: look where *file* is.
    Says how many came through, and whether somebody else's reading or writing ended it.
    """
    for number, step in enumerate(steps):
        assert step.segments is not None
        parts = ["BEGIN IMMEDIATE", guard_of_file(place.backend, table, step.before)]
        parts += [each for segment in step.segments for each in segment.statements]
        try:
            file.executescript("\n;\n".join([*parts, "COMMIT"]))
        except sqlite3.Error as error:
            if file.in_transaction:
                file.execute("ROLLBACK")
            return number, "database is locked" in str(error)
    return len(steps), False


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
            left = replay.has_notes
            raise translated(error, place, step.revision, rolled_back=not left) from error
        if heads_in(connection, place, scripts.version_table) != step.after:
            raise MigrationError(
                f"revision {step.revision} of tenant {place.name!r} came to its end, but its "
                "version row is elsewhere: it left the tenant's place (by a SET search_path, for "
                "instance) and did not come back; look where its changes are",
                tenant_id=place.name,
            )


def _apply_stepwise(
    access: Access,
    place: Place,
    steps: Sequence[Step],
    table: str,
    lock_timeout: float,
    on_applied: OnApplied,
) -> None:
    """Statement by statement, with a row in the place that says which is the next."""
    with (
        holding(access, place, "migrate", wait_seconds=lock_timeout, inside=True) as got,
        access.enter(place, autocommit=True, write=True) as connection,
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
                raise translated(error, place, step.revision, rolled_back=False) from error
            on_applied(1)
            at = _BEGINNING
        unmark(connection, place)


def _segments(connection: Connection, place: Place, step: Step, at: Position) -> None:
    """PostgreSQL: transactions whole, what runs outside of them one by one."""
    number = 0
    for segment in step.segments or ():
        if segment.transactional:
            if number >= at.number:
                done = note(place, number + 1)
                message = "".join(f"{each}\n;\n" for each in (*segment.statements, done))
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


def translated(
    error: BaseException, place: Place, revision: str, *, rolled_back: bool = True
) -> MigrationError:
    """What an error of a database means for a migration, of which nothing is left or a part."""
    state = sqlstate(error)
    text = str(error)
    if (
        state in _LOCK_STATES
        or error_number(error) in _LOCK_NUMBERS
        or "database is locked" in text
    ):
        return LockedError(tenant_id=place.name)
    what = f"revision {revision}" if revision else "a revision"
    came_to = "was rolled back" if rolled_back else "stopped there"
    again = "" if rolled_back else ", which goes on from there"
    return MigrationError(
        f"{what} failed on tenant {place.name!r} and {came_to}: {describe(error)}; "
        f"repair the cause and run the same command again{again}",
        tenant_id=place.name,
    )
