"""Brings a place to the target, or several that are alike at once.

What is applied is the word of the tenant's own version row: who finds it elsewhere looks again.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Dialect

from ..backends import SQLite
from ..errors import MigrationError
from ..servers import Server
from .access import Access, Place, missing, open_file
from .apply import (
    LockedError,
    MovedOnError,
    apply,
    apply_again,
    apply_together,
    check_interrupted,
    translated,
)
from .migrate import Scripts, check_version_table, offline_dialect
from .plan import Plan
from .runner import Bundled, Outcome, Status, describe
from .status import Standing, look_into, standings

__all__ = ["Settings", "Todo", "Work", "bring", "bring_bundle", "bring_place", "value_of"]

#: How many schemas one message brings on at most, and how long it may take (seconds): so long a
#: pause is not heard, and a schema waits for its neighbours.
_TOGETHER = 10
_MESSAGE = 0.1


@dataclass(frozen=True)
class Settings:
    """How a migration goes about its work.

    *lock_timeout* (seconds) is how long a statement waits for a table in use; who waits behind
    it waits no longer either. Tenants with such tables are tried again *lock_rounds* times,
    with a pause that grows and is never the same twice. *online* runs every revision live.
    """

    target: str = "heads"
    downgrade: bool = False
    lock_timeout: float = 2.0
    lock_rounds: int = 3
    online: bool = False


class Work:
    """What one process needs to migrate places."""

    def __init__(self, access: Access, scripts: Scripts, settings: Settings) -> None:
        self.access = access
        self.scripts = scripts
        self.settings = settings
        self._dialects: dict[str, Dialect] = {}
        self.seconds: float | None = None  # that the latest place took
        # Of each server, of schemas and of databases, from each revision:
        self._plans: dict[tuple[str, bool, tuple[str, ...]], Plan] = {}
        self._shared: dict[tuple[str, bool, tuple[str, ...]], bool] = {}
        self._way: dict[str, Plan] = {}  # of each server, that the latest of its files went

    def opened(self, place: Place) -> AbstractContextManager[sqlite3.Connection | None]:
        """The file that *place* is, or ``None``."""
        if isinstance(place.backend, SQLite):
            return open_file(place, timeout=self.settings.lock_timeout)
        return nullcontext()

    def look(self, place: Place, file: sqlite3.Connection | None) -> Standing:
        """Where *place* stands, from which there is a way to the target."""
        table = self.scripts.version_table
        try:
            if file is not None:
                standing = look_into(file, place, table)
            else:
                standing = standings(self.access, [place], table)[place.key]
        except sqlite3.OperationalError as error:
            if "database is locked" in str(error):
                raise LockedError(tenant_id=place.name) from error
            raise
        if standing.error is not None:
            raise MigrationError(standing.error, tenant_id=place.name)
        if standing.heads is None:
            raise missing(place)
        self.plan(place, standing.heads)
        return standing

    def note_way(self, place: Place, plan: Plan) -> None:
        """Note that a file came to the target by *plan*, for :meth:`go_the_same_way`."""
        is_sent = all(step.segments is not None for step in plan.steps)
        if plan.before and plan.steps and is_sent and not self.settings.online:
            self._way[place.server.name] = plan

    def go_the_same_way(self, todo: Todo, file: sqlite3.Connection | None) -> Plan | None:
        """Try the plan of another file of the server, which says if it is not at its beginning.

        Says by which plan *todo* came to the target; ``None``: it is not known to be there.

        Raises:
            LockedError: Somebody else reads or writes, and *file* is not at the target.
        """
        place = todo.place
        plan = self._way.get(place.server.name)
        if file is None or plan is None:
            return None
        applied, is_in_use = apply_again(file, place, plan.steps, self.scripts.version_table)
        todo.applied += applied
        if applied == len(plan.steps):
            return plan
        if not is_in_use:
            self._way.pop(place.server.name, None)  # the next one is elsewhere too, it may be
        elif self.plan(place, self.look(place, file).heads or ()).steps:
            raise LockedError(tenant_id=place.name)
        return None

    def plan(self, place: Place, heads: tuple[str, ...]) -> Plan:
        """The way of *place* from *heads* to the target; see :meth:`Scripts.plan`."""
        key = (place.server.name, place.schema is None, heads)
        plan = self._plans.get(key)
        if plan is None:
            check_version_table(place, self.scripts.options)
            dialect = self.dialect(place.server, place.database)
            plan = self._plans[key] = self.scripts.plan(
                heads, self.settings.target, dialect, downgrade=self.settings.downgrade
            )
        return plan

    def dialect(self, server: Server, database: str | None) -> Dialect:
        """What *server* speaks, asked of it once."""
        dialect = self._dialects.get(server.name)
        if dialect is None:
            where = None if server.kind == "sqlite" else database
            is_first = server.kind == "postgresql"  # of a batch's connections
            with self.access.connect(server, where, autocommit=is_first) as connection:
                dialect = self._dialects[server.name] = offline_dialect(connection)
        return dialect

    def can_send(self, place: Place, heads: tuple[str, ...]) -> bool:
        """Whether a message alone brings a schema on from *heads*, and says if it is not there."""
        if place.server.kind != "postgresql" or place.schema is None or self.settings.online:
            return False
        try:
            steps = self.plan(place, heads).steps
        except MigrationError:
            return False
        return bool(steps) and all(step.is_batch for step in steps)

    def can_share(self, place: Place, heads: tuple[str, ...]) -> bool:
        """Whether others may be brought on from *heads* in the same session."""
        key = (place.server.name, place.schema is None, heads)
        if key not in self._shared:
            self._shared[key] = self.can_send(place, heads) and all(
                step.leaves_nothing for step in self.plan(place, heads).steps
            )
        return self._shared[key]

    def together(self, fair: int) -> int:
        """How many places go in one message, of which *fair* would be one worker's share."""
        if self.seconds is None:
            return 1
        quick = int(_MESSAGE / max(self.seconds, 0.001))
        return max(1, min(_TOGETHER, quick, fair))


@dataclass(eq=False)
class Todo:
    """A place that is to be brought to the target.

    *standing* is where it is taken to be; ``None``: who works on it looks first. What is *alike*
    is handed to one worker at once (``None``: nothing is), and goes in one message if *standing*
    says where it stands. It *was_seen* once somebody has looked. *applied* steps are known to
    have come to stay, by all who tried in this run.
    """

    place: Place
    standing: Standing | None = None
    alike: Hashable | None = None
    was_seen: bool = False
    applied: int = 0


def bring_place(work: Work, todo: Todo) -> Outcome:
    """One place; whatever is wrong with it is its outcome and nobody else's."""
    began = time.perf_counter()
    try:
        with work.opened(todo.place) as file:
            way = None
            if todo.standing is None:
                way = work.go_the_same_way(todo, file)
                if way is None:
                    todo.standing = work.look(todo.place, file)
                todo.was_seen = True
            value = value_of(todo.applied, way) if way is not None else bring(work, todo, file)
    except Exception as error:  # it is this place's outcome, and the work goes on
        return _failed(todo, time.perf_counter() - began, error)
    work.seconds = time.perf_counter() - began
    status: Status = "done" if value["applied"] else "unchanged"
    return Outcome(todo.place.name, status, work.seconds, value)


def bring_bundle(work: Work, bundle: list[Todo]) -> Bundled[Todo]:
    """One place, or several that are alike; who comes behind a failed one was not begun."""
    if len(bundle) > 1 and bundle[0].place.schema is not None:  # others are databases each
        return _bring_together(work, bundle)
    outcomes = []
    for number, todo in enumerate(bundle, 1):
        outcomes.append(bring_place(work, todo))
        if outcomes[-1].status == "failed":
            return Bundled(outcomes, bundle[number:])
    return Bundled(outcomes)


def _bring_together(work: Work, bundle: list[Todo]) -> Bundled[Todo]:
    """Schemas of one database in one message."""
    began = time.perf_counter()
    standing = bundle[0].standing
    assert standing is not None
    assert standing.heads is not None
    plan = work.plan(bundle[0].place, standing.heads)
    try:
        seconds, problem = apply_together(
            work.access,
            [each.place for each in bundle],
            plan.steps,
            work.scripts.version_table,
            work.settings.lock_timeout,
        )
    except Exception:  # who is done is not known; each is looked at, and fails, by itself
        for each in bundle:
            each.alike = each.standing = None
        return Bundled([], bundle)
    took = time.perf_counter() - began
    outcomes = []
    back = deque(bundle)
    for start in range(0, len(seconds), len(plan.steps)):
        spent = seconds[start : start + len(plan.steps)]
        back[0].applied += len(spent)
        if len(spent) == len(plan.steps):
            todo = back.popleft()
            value = value_of(todo.applied, plan)
            outcomes.append(Outcome(todo.place.name, "done", sum(spent), value))
    if problem is None:
        work.seconds = took / len(bundle)
    elif isinstance(problem, MovedOnError):
        back[0].alike = back[0].standing = None
    else:
        outcomes.append(_failed(back.popleft(), took - sum(seconds), problem))
    return Bundled(outcomes, list(back))


def _failed(todo: Todo, seconds: float, error: Exception) -> Outcome:
    return Outcome(
        todo.place.name,
        "failed",
        seconds,
        {"applied": todo.applied} if todo.applied else None,
        error=describe(error),
        error_type=type(error).__name__,
    )


def bring(work: Work, todo: Todo, file: sqlite3.Connection | None = None) -> dict[str, Any]:
    """One place to the target, from wherever it stands; says how many steps it took.

    *file* is the place's own, if that is an SQLite file and open.
    """
    place, standing = todo.place, todo.standing
    assert standing is not None
    assert standing.heads is not None
    plan = work.plan(place, standing.heads)
    interrupted = standing.interrupted
    lock_timeout, table = work.settings.lock_timeout, work.scripts.version_table
    in_vain = 0

    def on_applied(steps: int) -> None:
        todo.applied += steps

    while True:
        try:
            if interrupted:
                check_interrupted(
                    work.access, place, plan, table, lock_timeout, online=work.settings.online
                )
            if not plan.steps:
                break
            apply(
                work.access,
                place,
                plan,
                work.scripts,
                lock_timeout=lock_timeout,
                online=work.settings.online,
                file=file,
                on_applied=on_applied,
            )
            break
        except MovedOnError as error:
            # Somebody else migrates this tenant too: go on from where it stands now.
            now = work.look(place, file)
            assert now.heads is not None
            in_vain += now.heads == plan.before
            if in_vain > 9:  # it is where it was expected, and a revision says that it is not
                named = plan.steps[0].revision if len(plan.steps) == 1 else ""
                raise translated(error.__cause__ or error, place, named) from error
            plan = work.plan(place, now.heads)
            interrupted = now.interrupted
    if file is not None:
        work.note_way(place, plan)
    return value_of(todo.applied, plan)


def value_of(applied: int, plan: Plan) -> dict[str, Any]:
    """What an outcome says of a place that has come to the end of *plan*."""
    return {"applied": applied, "revision": ", ".join(plan.after) or "base"}
