"""Lets a live revision be run again of which a part was committed before it was interrupted.

A revision may commit before its end: MySQL and MariaDB do so around every DDL statement, an
``autocommit_block`` and a COMMIT do so anywhere. What it sent until then, and what came of it,
is written down in the tenant's place: about rows in the transaction that changed them, about a
statement that commits itself before and after it. When the revision is run again it runs from
its beginning: it reads anew, and what it did is passed over with the outcome that it had.

What cannot be had again (rows that a write returned, a temporary table, a table lock), and a
revision that changes rows otherwise than it did, end in an error: somebody has to look.
"""

# ruff: noqa: S608 - names come from the scripts and the directory, quoted; no value is a request's

from __future__ import annotations

import contextlib
import enum
import hashlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, event

from ..backends.versions import STEPS_TABLE, read_heads
from ..errors import MigrationError
from ..routing.statements import commands, ends_transaction
from .plan import Step
from .statements import run
from .steps import LIVE, alone, label, make_table, mark, table_of, unmark

if TYPE_CHECKING:
    from .access import Place

__all__ = ["Replay", "Sort", "sort_of", "watch"]

_WORD = re.compile(r"(?:\s|\(|--[^\n]*(?:\n|$)|/\*.*?\*/)*([a-z]+)", re.IGNORECASE | re.DOTALL)
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
_FROM = re.compile(r"\bFROM\b", re.IGNORECASE)
_INTO = re.compile(r"\bINTO\b", re.IGNORECASE)
_TEMPORARY = re.compile(
    r"\w+\s+(OR\s+REPLACE\s+)?((GLOBAL|LOCAL)\s+)?TEMP(ORARY)?\b", re.IGNORECASE
)
_AUTOCOMMIT = re.compile(r"\bautocommit\b", re.IGNORECASE)
#: Rows of the table that one statement writes.
_AT_A_TIME = 500


class Sort(enum.Enum):
    """What a statement does, as far as its words say it."""

    READ = enum.auto()  # may be repeated
    ROWS = enum.auto()
    DDL = enum.auto()
    OTHER = enum.auto()  # nobody knows what it does, a procedure for instance
    SESSION = enum.auto()  # what it does ends with the session
    COMMIT = enum.auto()  # BEGIN commits too, on MySQL


_SORTS = {
    word: sort
    for sort, words in {
        Sort.READ: "SELECT SHOW DESCRIBE DESC EXPLAIN PRAGMA SET RESET USE VALUES TABLE FETCH "
        "DECLARE CLOSE PREPARE DEALLOCATE LISTEN LOCK SAVEPOINT RELEASE ROLLBACK ABORT",
        Sort.ROWS: "INSERT UPDATE DELETE REPLACE MERGE",
        Sort.DDL: "CREATE ALTER DROP RENAME TRUNCATE GRANT REVOKE COMMENT",
        Sort.COMMIT: "COMMIT END BEGIN START",
    }.items()
    for word in words.split()
}


#: May be repeated, and commits on MySQL (manual, "Statements That Cause an Implicit Commit").
_MAINTENANCE = (
    *("ANALYZE", "ATTACH", "CACHE", "CHECK", "CHECKPOINT", "CLUSTER", "DETACH", "FLUSH"),
    *("OPTIMIZE", "REFRESH", "REINDEX", "REPAIR", "VACUUM"),
)


@dataclass
class _Sent:
    """One write. *outcome*: ``None`` for begun, ``rows``, ``session``, or numbers."""

    number: int
    digest: str
    sort: str
    outcome: str | None

    @property
    def is_done(self) -> bool:
        return self.outcome is not None


def sort_of(statement: str, *, commits_ddl: bool) -> tuple[str, Sort]:
    """The first word of a statement, and what it does where DDL commits or does not."""
    word = _WORD.match(statement)
    name = word[1].upper() if word else ""
    text = statement[word.start(1) :] if word else statement
    sort = _SORTS.get(name, Sort.OTHER)
    if name == "WITH":
        sort = Sort.ROWS if _WRITES.search(text) else Sort.READ
    elif name == "SELECT" and not commits_ddl:
        # A table by SELECT ... INTO; a function that is called for what it does.
        acts = _INTO.search(text) or ("(" in text and not _FROM.search(text))
        sort = Sort.OTHER if acts else sort
    elif (
        (sort is Sort.DDL and _TEMPORARY.match(text))
        or (commits_ddl and name in ("LOCK", "UNLOCK"))
        or (commits_ddl and name == "SET" and _AUTOCOMMIT.search(text))
    ):
        sort = Sort.SESSION
    elif name in _MAINTENANCE:
        sort = Sort.COMMIT if commits_ddl else Sort.READ
    return name, sort


_current: ContextVar[Replay | None] = ContextVar("tenantry_replay", default=None)


class Replay:
    """Watches what *connection* sends for *step*; :meth:`running` is the time for it.

    Raises:
        MigrationError: The step was interrupted, and cannot be run again from here.
    """

    def __init__(
        self, connection: Connection, place: Place, step: Step, *, sees_all: bool = True
    ) -> None:
        self._connection = connection
        self._place = place
        self._step = step
        self._commits_ddl = place.server.kind == "mysql"
        self._waiting: list[_Sent] = []
        self._next = 0  # the first of what was sent before that was not met again
        self._ended = False
        self._problem: MigrationError | None = None
        self._blind = False
        self._in_own_transaction = False  # by BEGIN
        before = self._load()
        self._has_table = before is not None
        self._known = before or []
        self._number = self._known[-1].number if self._known else 0
        if not sees_all:
            if self._has_table:
                raise self._by_hand("it goes round SQLAlchemy's connection")
            self._waiting.append(self._sent("", "SESSION", "session"))
        if any(each.outcome == "session" for each in self._known):
            raise self._by_hand("it made something that ended with its session")
        if before is None and self._commits_ddl:
            mark(connection, place, step, live=True)
            self._has_table = True
        connection.commit()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The revision runs; at the end nothing of the notes is left."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)
        if self._problem is not None:
            raise self._problem
        if self._has_table:
            unmark(self._connection, self._place)
            self._connection.commit()

    @property
    def has_notes(self) -> bool:
        """Whether something may be committed of a revision that is not at its end."""
        return self._has_table

    def end(self, **_: Any) -> None:
        """The version row is written: what is committed from here on is the whole revision."""
        self._ended = True

    # What is sent ---------------------------------------------------------------------------

    def send(self, cursor: Any, statement: str, parameters: Any, context: Any, do: Any) -> bool:
        """Send or pass over a statement; false: it is nothing to be remembered."""
        word, sort = sort_of(statement, commits_ddl=self._commits_ddl)
        if self._is_several(statement) and ends_transaction(statement):
            sort = Sort.SESSION  # what stands before a COMMIT in it is committed without a note
        if sort is Sort.READ or self._ended:
            return False
        if sort is Sort.COMMIT:
            self.flush()
            self._in_own_transaction = word in ("BEGIN", "START")
            return False
        if self._problem is not None:
            raise self._problem
        if self._blind:
            return False
        if sort is Sort.SESSION:
            self._session(statement)
            return False
        digest = hashlib.sha256(repr((statement, parameters)).encode()).hexdigest()
        sent = self._met_again(digest)
        if sent is not None and sent.is_done:
            self._repeat(sent, cursor, context)
            return True
        if self._commits_itself(sort):
            self._send_alone(sent, digest, sort, statement, cursor, do)
        elif self._in_autocommit():
            self._send_with_note(digest, sort, cursor, do)
        else:
            do()
            self._waiting.append(self._sent(digest, sort.name, _outcome(cursor)))
        return True

    def flush(self) -> None:
        """A commit follows: what was sent since the last one is committed with its notes.

        What was rolled back to a savepoint is among it: it is not to be done again either.
        """
        if self._waiting and not self._ended:
            waiting, self._waiting = self._waiting, []
            with self._unseen():
                self._write(waiting)

    def _send_alone(
        self, sent: _Sent | None, digest: str, sort: Sort, statement: str, cursor: Any, do: Any
    ) -> None:
        in_doubt = sent is not None
        if in_doubt and sort is not Sort.DDL:
            raise self._give_up(f"nobody can tell whether it did {statement.split()[0]}")
        waiting, self._waiting = self._waiting, []
        if sent is None:
            sent = self._sent(digest, sort.name, None)
            waiting.append(sent)
        with self._unseen():
            self._write(waiting)  # on MySQL the statement itself commits this, before it begins
            try:
                did = alone(self._connection, statement, do, in_doubt=in_doubt)
            except Exception as error:
                if self._is_answer(error, cursor):
                    self._take_back(sent)
                raise
            outcome = _outcome(cursor) if did else "-1"
            run(
                self._connection,
                f"UPDATE {table_of(self._place)} SET outcome = '{outcome}' "
                f"WHERE position = {sent.number}",
            )
            self._commit()

    def _send_with_note(self, digest: str, sort: Sort, cursor: Any, do: Any) -> None:
        with self._unseen():
            run(self._connection, "BEGIN")
            try:
                do()
                self._write([self._sent(digest, sort.name, _outcome(cursor))])
                run(self._connection, "COMMIT")
            except BaseException:
                with contextlib.suppress(Exception):
                    run(self._connection, "ROLLBACK")
                raise

    def _session(self, statement: str) -> None:
        self._waiting.append(self._sent("", "SESSION", "session"))
        if not _TEMPORARY.match(statement.lstrip()):
            # Under table locks no note can be written any more.
            self.flush()
            self._blind = True

    # What was sent before -------------------------------------------------------------------

    def _met_again(self, digest: str) -> _Sent | None:
        """What was sent before and is this; what stands between is passed over.

        A revision that looks first ("unless there is such a column") leaves out what it did.
        """
        left = self._known[self._next :]
        for index, sent in enumerate(left):
            if sent.digest == digest:
                self._next += index + 1
                return sent
        if any(sent.sort != Sort.DDL.name for sent in left):
            raise self._give_up("what it sends now is not what it sent then")
        self._next = len(self._known)
        return None

    def _repeat(self, sent: _Sent, cursor: Any, context: Any) -> None:
        if sent.outcome == "rows":
            raise self._give_up("it needs the rows that a statement returned then")
        numbers = (sent.outcome or "").split()
        context.cursor = _Repeated(cursor, *map(int, numbers))

    def _give_up(self, why: str) -> MigrationError:
        self._problem = self._by_hand(why)
        return self._problem

    def _by_hand(self, why: str) -> MigrationError:
        return MigrationError(
            f"revision {self._step.revision} of tenant {self._place.name!r} was interrupted after "
            f"a part of it had been committed, and cannot go on by itself: {why}; look what is "
            f"done, then set the tenant's version row or undo it, and drop table {STEPS_TABLE}",
            tenant_id=self._place.name,
        )

    # The table ------------------------------------------------------------------------------

    def _load(self) -> list[_Sent] | None:
        exists, _ = read_heads(self._place.backend, STEPS_TABLE, self._place.schema)
        if run(self._connection, exists).first() is None:
            return None
        query = (
            f"SELECT position, statement, outcome FROM {table_of(self._place)} "
            f"WHERE revision = '{label(self._step)}' ORDER BY position"
        )
        rows = run(self._connection, query).all()
        if not rows:  # another step's, whose version row was written
            unmark(self._connection, self._place)
            return None
        if any(row.statement is None and row.outcome != LIVE for row in rows):
            raise MigrationError(
                f"revision {self._step.revision} of tenant {self._place.name!r} was begun as plain "
                "statements and interrupted; finish it as it was begun, without --online",
                tenant_id=self._place.name,
            )
        found = []
        for row in rows:
            if row.statement is not None:
                sort, _, digest = str(row.statement).partition(" ")
                found.append(_Sent(row.position, digest, sort, row.outcome))
        return found

    def _sent(self, digest: str, sort: str, outcome: str | None) -> _Sent:
        self._number += 1
        return _Sent(self._number, digest, sort, outcome)

    def _write(self, sent: list[_Sent]) -> None:
        if not self._has_table:
            make_table(self._connection, self._place)
            self._has_table = True
        for start in range(0, len(sent), _AT_A_TIME):
            rows = ", ".join(
                f"('{label(self._step)}', {each.number}, '{each.sort} {each.digest}', "
                + ("NULL)" if each.outcome is None else f"'{each.outcome}')")
                for each in sent[start : start + _AT_A_TIME]
            )
            run(self._connection, f"INSERT INTO {table_of(self._place)} VALUES {rows}")

    def _take_back(self, sent: _Sent) -> None:
        with contextlib.suppress(Exception):  # then it stays in doubt
            run(
                self._connection,
                f"DELETE FROM {table_of(self._place)} WHERE position = {sent.number}",
            )
            self._commit()

    def _is_several(self, statement: str) -> bool:
        is_possible = self._place.server.kind == "postgresql" and ";" in statement
        return is_possible and len(commands(statement)) > 1

    # The connection -------------------------------------------------------------------------

    @property
    def _driver(self) -> Any:
        return self._connection.connection.driver_connection

    def _commit(self) -> None:
        if not self._in_autocommit():
            run(self._connection, "COMMIT")

    def _is_answer(self, error: Exception, cursor: Any) -> bool:
        """Whether the server refused it, so that it is known not to be done."""
        dialect = self._connection.dialect
        return isinstance(error, dialect.loaded_dbapi.Error) and not dialect.is_disconnect(
            error, self._driver, cursor
        )

    def _in_autocommit(self) -> bool:
        """Whether a statement would commit itself that is no DDL."""
        if self._place.server.kind == "sqlite":
            return not self._driver.in_transaction
        level = self._connection.get_execution_options().get("isolation_level")
        return level == "AUTOCOMMIT" and not self._in_own_transaction

    def _commits_itself(self, sort: Sort) -> bool:
        if sort is Sort.ROWS or self._place.server.kind == "sqlite":
            return False
        return self._commits_ddl or self._in_autocommit()

    def is_on(self, connection: Any) -> bool:
        """Whether it is this connection that is watched."""
        return connection is self._connection

    @contextlib.contextmanager
    def _unseen(self) -> Iterator[None]:
        token = _current.set(None)
        try:
            yield
        finally:
            _current.reset(token)


class _Repeated:
    """A cursor that says what another one said when the same was sent before."""

    description = None

    def __init__(self, cursor: Any, rowcount: int, lastrowid: int | None = None) -> None:
        self._cursor = cursor
        self.rowcount = rowcount
        self.lastrowid = lastrowid

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


def watch(engine: Engine) -> None:
    """Have the connections of *engine* ask the replay of their thread, if there is one."""

    def replay_on(connection: Any) -> Replay | None:
        replay = _current.get()
        return replay if replay is not None and replay.is_on(connection) else None

    def send(context: Any, cursor: Any, statement: str, parameters: Any, do: Any) -> bool | None:
        replay = replay_on(context.root_connection)
        if replay is None:
            return None
        return replay.send(cursor, statement, parameters, context, do) or None

    @event.listens_for(engine, "do_execute")
    def execute(cursor: Any, statement: str, parameters: Any, context: Any) -> bool | None:
        def do() -> None:
            context.dialect.do_execute(cursor, statement, parameters, context)

        return send(context, cursor, statement, parameters, do)

    @event.listens_for(engine, "do_execute_no_params")
    def execute_no_params(cursor: Any, statement: str, context: Any) -> bool | None:
        def do() -> None:
            context.dialect.do_execute_no_params(cursor, statement, context)

        return send(context, cursor, statement, None, do)

    @event.listens_for(engine, "do_executemany")
    def executemany(cursor: Any, statement: str, parameters: Any, context: Any) -> bool | None:
        def do() -> None:
            context.dialect.do_executemany(cursor, statement, parameters, context)

        return send(context, cursor, statement, parameters, do)

    @event.listens_for(engine, "commit")
    def commit(connection: Connection) -> None:
        if (replay := replay_on(connection)) is not None:
            replay.flush()


def _outcome(cursor: Any) -> str:
    if cursor.description is not None:
        return "rows"
    last = getattr(cursor, "lastrowid", None)
    return f"{cursor.rowcount}" + (f" {last}" if isinstance(last, int) else "")
