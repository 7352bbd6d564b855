"""Many tenants, few connections, everything at once; afterwards every row is accounted for.

Threads and tasks read and write as an application would: commits, rollbacks, savepoints, errors,
sessions left half-way. Meanwhile connections are killed on the server and tasks are cancelled.
Each row names its tenant, the same primary keys exist in all tenants, and each write carries a
key of its own. An audit as administrator then looks for every acknowledged key.

:func:`torture` knows no isolation and no driver: it is given a :class:`Subject`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, selectinload

from tenantry.errors import BudgetExhaustedError, ServerUnavailableError

SEEDED = 5
"""Each tenant starts with notes 1 to 5 of its author 1."""


@dataclass(frozen=True)
class Models:
    """The mapped classes: an author with *name*, and notes with *tenant*, *body*, *author*."""

    author: Any
    note: Any


class Subject(Protocol):
    """What is tortured: a way to a tenant's session, and an administrator's view of the truth."""

    tenant_ids: Sequence[str]
    models: Models

    def session(self, tenant_id: str) -> AbstractContextManager[Session]:
        """A session of the tenant, as an application opens it."""

    def asession(self, tenant_id: str) -> AbstractAsyncContextManager[AsyncSession]:
        """The same for asyncio."""

    def audit(self) -> Iterable[tuple[str, str, str]]:
        """All notes there are: the tenant whose place it is, the tenant the row names, its body."""

    def kill_one(self) -> int:
        """End one of the subject's connections on the server; how many were ended."""

    def idle_in_transaction(self) -> int:
        """How many connections sit in a transaction, as the server sees it."""

    def held(self) -> dict[str, int]:
        """Connections checked out, by tenant."""

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""


@dataclass(frozen=True)
class Plan:
    """How much of what. *cancels* is the share of tasks that are cancelled at a random moment."""

    ops: int = 1000
    threads: int = 16
    tasks: int = 48
    cancels: float = 0.0
    kill_seconds: float | None = 0.1
    full_size: int = 8
    seed: int = 7


@dataclass
class Report:
    """What happened. :attr:`problems` is empty if nobody saw or lost anything."""

    ops: int = 0
    reads: int = 0
    foreign: list[str] = field(default_factory=list)
    acknowledged: int = 0
    misplaced: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    undead: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    kills: int = 0
    cancels: int = 0
    held: dict[str, int] = field(default_factory=dict)
    idle_in_transaction: int = 0
    full_size: int = 0
    seconds: float = 0.0

    @property
    def problems(self) -> dict[str, Any]:
        """What must be empty, and is not."""
        found = {
            "foreign": self.foreign,
            "misplaced": self.misplaced,
            "lost": self.lost,
            "undead": self.undead,
            "unexpected": self.unexpected,
            "held": self.held,
            "idle_in_transaction": self.idle_in_transaction,
        }
        return {name: value for name, value in found.items() if value}

    def __str__(self) -> str:
        return (
            f"{self.ops} operations in {self.seconds:.0f} s, {self.reads} rows read, "
            f"{self.kills} kills, {self.cancels} cancels, errors {dict(self.errors)}: "
            f"foreign {len(self.foreign)}, misplaced {len(self.misplaced)}, "
            f"acknowledged {self.acknowledged}, lost {len(self.lost)}, "
            f"undead {len(self.undead)}, unexpected {self.unexpected[:3]}, held {self.held}, "
            f"idle in transaction {self.idle_in_transaction}, full size {self.full_size}"
        )


class _Abandoned(Exception):
    """An application's own error, in the middle of a transaction."""


class Ledger:
    """What was acknowledged, what never was, and what was read. Thread-safe by the GIL's leave:
    sets and lists grow by single operations, counts under a lock.
    """

    def __init__(self, models: Models) -> None:
        self.author, self.note = models.author, models.note
        self.notes = models.note.__table__
        self.acknowledged: set[str] = set()
        self.never: set[str] = set()
        self.foreign: list[str] = []
        self.reads = 0
        self._keys = itertools.count(1)
        self._lock = threading.Lock()

    def key(self, tenant_id: str) -> str:
        return f"{tenant_id}/{next(self._keys)}"

    def saw(self, tenant_id: str, how: str, tenants: Iterable[str | None]) -> None:
        """Rows that were read in a session of *tenant_id* name these *tenants*."""
        count = 0
        for each in tenants:
            count += 1
            if each != tenant_id:
                self.foreign.append(f"{how}: {tenant_id} read a row of {each}")
        with self._lock:
            self.reads += count


Step = Callable[[Session, str, Ledger, random.Random], None]


def look(session: Session, tenant_id: str, ledger: Ledger, dice: random.Random) -> None:
    """Read in one of the ways that there are."""
    number = dice.randint(1, SEEDED)
    how = dice.choice(("get", "select", "core", "text", "lazy", "eager", "refresh", "query"))
    seen: list[str | None] = []
    if how == "get":
        note = session.get(ledger.note, number)
        seen = [note.tenant if note else "nobody (row missing)"]
    elif how == "select":
        seen += session.scalars(select(ledger.note.tenant).where(ledger.note.id <= number))
    elif how == "core":
        rows = session.connection().execute(select(ledger.notes.c.tenant).limit(number))
        seen += rows.scalars()
    elif how == "text":
        seen += session.scalars(text(f"SELECT tenant FROM notes WHERE id = {number}"))
    elif how == "lazy":
        note = session.get(ledger.note, number)
        seen = [note.author.name if note and note.author else "nobody (row missing)"]
    elif how == "eager":
        found = (
            select(ledger.note)
            .options(selectinload(ledger.note.author))
            .where(ledger.note.id == number)
        )
        for note in session.scalars(found):
            seen += [note.tenant, note.author.name if note.author else None]
    elif how == "refresh":
        note = session.get(ledger.note, number)
        if note is not None:
            session.refresh(note)
            seen = [note.tenant]
    else:
        seen += [row.name for row in session.query(ledger.author).filter_by(id=1)]
    ledger.saw(tenant_id, how, seen or ["nobody (no rows)"])


def write(session: Session, tenant_id: str, ledger: Ledger, dice: random.Random) -> str:
    """Write a row in one of the ways that there are; returns its key."""
    key = ledger.key(tenant_id)
    how = dice.choice(("add", "add", "insert", "core"))
    if how == "add":
        session.add(ledger.note(tenant=tenant_id, body=key, author_id=1))
        session.flush()
    elif how == "insert":
        session.execute(insert(ledger.note), [{"tenant": tenant_id, "body": key}])
    else:
        session.connection().execute(ledger.notes.insert(), {"tenant": tenant_id, "body": key})
    return key


def commit(session: Session, keys: Iterable[str], ledger: Ledger) -> None:
    """Commit; what was written is acknowledged from the moment on that this returns."""
    session.commit()
    ledger.acknowledged.update(keys)


def read_only(session: Session, tenant_id: str, ledger: Ledger, dice: random.Random) -> None:
    for _ in range(dice.randint(1, 3)):
        look(session, tenant_id, ledger, dice)
    if dice.random() < 0.5:
        session.commit()


def read_over_ends(session: Session, tenant_id: str, ledger: Ledger, dice: random.Random) -> None:
    kept = session.get(ledger.note, 1)
    session.commit()
    look(session, tenant_id, ledger, dice)
    session.rollback()
    look(session, tenant_id, ledger, dice)
    if kept is not None:
        ledger.saw(tenant_id, "expired", [kept.tenant])


def write_commit(session: Session, tenant_id: str, ledger: Ledger, dice: random.Random) -> None:
    keys = [write(session, tenant_id, ledger, dice) for _ in range(dice.randint(1, 2))]
    look(session, tenant_id, ledger, dice)
    commit(session, keys, ledger)
    if dice.random() < 0.3:
        look(session, tenant_id, ledger, dice)
        commit(session, [write(session, tenant_id, ledger, dice)], ledger)


def write_rollback(session: Session, tenant_id: str, ledger: Ledger, dice: random.Random) -> None:
    ledger.never.add(write(session, tenant_id, ledger, dice))
    if dice.random() < 0.5:
        session.rollback()
        look(session, tenant_id, ledger, dice)


def savepoint(session: Session, tenant_id: str, ledger: Ledger, dice: random.Random) -> None:
    key = write(session, tenant_id, ledger, dice)
    with contextlib.suppress(_Abandoned), session.begin_nested():
        ledger.never.add(write(session, tenant_id, ledger, dice))
        raise _Abandoned
    with session.begin_nested():
        look(session, tenant_id, ledger, dice)
    commit(session, [key], ledger)


def error(session: Session, tenant_id: str, ledger: Ledger, dice: random.Random) -> None:
    ledger.never.add(write(session, tenant_id, ledger, dice))
    try:
        session.execute(insert(ledger.note), [{"id": 1, "tenant": tenant_id}])
    except IntegrityError:
        session.rollback()
    else:  # pragma: no cover - the table has lost its row
        ledger.foreign.append(f"error: {tenant_id} has no row 1")
    look(session, tenant_id, ledger, dice)
    commit(session, [write(session, tenant_id, ledger, dice)], ledger)


def change(session: Session, tenant_id: str, ledger: Ledger, dice: random.Random) -> None:
    number = dice.randint(1, SEEDED)
    if dice.random() < 0.5:
        note = session.get(ledger.note, number)
        assert note is not None
        ledger.saw(tenant_id, "change", [note.tenant])
        note.body = f"{tenant_id} changed"
    else:
        session.execute(
            update(ledger.note).where(ledger.note.id == number).values(body=f"{tenant_id} changed")
        )
    session.commit()


def abandon(session: Session, tenant_id: str, ledger: Ledger, dice: random.Random) -> None:
    ledger.never.add(write(session, tenant_id, ledger, dice))
    raise _Abandoned


def count(session: Session, tenant_id: str, ledger: Ledger, dice: random.Random) -> None:
    foreign = select(func.count()).select_from(ledger.note).where(ledger.note.tenant != tenant_id)
    if found := session.scalar(foreign):
        ledger.foreign.append(f"count: {tenant_id} counted {found} foreign rows")


STEPS: Sequence[Step] = (
    read_only,
    read_only,
    read_over_ends,
    write_commit,
    write_commit,
    write_rollback,
    savepoint,
    error,
    change,
    abandon,
    count,
)


class _PoolLog(logging.Handler):
    """SQLAlchemy reports connections that it could not close to its log, and goes on."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__()
        self.problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        ours = isinstance(error, (SQLAlchemyError, RuntimeError, TypeError, AttributeError))
        if record.levelno >= logging.ERROR and ours and not isinstance(error, DBAPIError):
            self.problems.append(f"{record.getMessage()}: {type(error).__name__}: {error}"[:300])


@contextlib.contextmanager
def _pool_log(problems: list[str]) -> Iterator[None]:
    logger = logging.getLogger("tenantry.routing.pool.RoutedPool")
    handler = _PoolLog(problems)
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


class _Run:
    def __init__(self, subject: Subject, plan: Plan) -> None:
        self.subject = subject
        self.plan = plan
        self.ledger = Ledger(subject.models)
        self.report = Report()
        self._left = itertools.count()
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def _next(self) -> int | None:
        number = next(self._left)
        return number if number < self.plan.ops else None

    def _caught(self, problem: BaseException) -> None:
        name = type(problem).__name__
        expected = isinstance(
            problem,
            (_Abandoned, DBAPIError, asyncio.CancelledError, ServerUnavailableError),
        ) and not isinstance(problem, IntegrityError)
        if isinstance(problem, BudgetExhaustedError) or not expected:
            text = f"{type(problem).__name__}: {problem}"[:300]
            with self._lock:
                self.report.unexpected.append(text)
        with self._lock:
            self.report.errors[name] += 1
            self.report.examples.setdefault(name, str(problem)[:200])

    # Threads --------------------------------------------------------------------------------

    def in_thread(self, worker: int) -> None:
        dice = random.Random(f"{self.plan.seed}-thread-{worker}")
        while self._next() is not None:
            tenant_id = dice.choice(self.subject.tenant_ids)
            step = dice.choice(STEPS)
            try:
                with self.subject.session(tenant_id) as session:
                    step(session, tenant_id, self.ledger, dice)
            except Exception as problem:
                self._caught(problem)

    # Tasks ----------------------------------------------------------------------------------

    async def _operation(self, dice: random.Random) -> None:
        tenant_id = dice.choice(self.subject.tenant_ids)
        step = dice.choice(STEPS)
        async with self.subject.asession(tenant_id) as session:
            await session.run_sync(lambda sync: step(sync, tenant_id, self.ledger, dice))

    async def in_task(self, worker: int) -> None:
        dice = random.Random(f"{self.plan.seed}-task-{worker}")
        loop = asyncio.get_running_loop()
        while self._next() is not None:
            task = asyncio.ensure_future(self._operation(dice))
            timer = None
            if dice.random() < self.plan.cancels:
                timer = loop.call_later(dice.random() ** 3 * 0.4, task.cancel)
            try:
                await task
            except (Exception, asyncio.CancelledError) as problem:
                self._caught(problem)
                if isinstance(problem, asyncio.CancelledError):
                    self.report.cancels += 1
            if timer is not None:
                timer.cancel()

    async def _tasks(self) -> None:
        await asyncio.gather(*(self.in_task(each) for each in range(self.plan.tasks)))
        if self.plan.tasks:
            self._settle()
            await self._afull_size()
        await self.subject.aclose()

    # Around ---------------------------------------------------------------------------------

    def _kill(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            self.report.kills += self.subject.kill_one()

    @contextlib.contextmanager
    def _killing(self) -> Iterator[None]:
        killer = None
        if self.plan.kill_seconds is not None:
            killer = threading.Thread(target=self._kill, args=(self.plan.kill_seconds,))
            killer.start()
        try:
            yield
        finally:
            self._stop.set()
            if killer is not None:
                killer.join()

    def _settle(self) -> None:
        """The killer ends; whoever was cancelled has one second to give everything back."""
        self._stop.set()

    async def _afull_size(self) -> None:
        for threads_end in self._threads:
            await asyncio.to_thread(threads_end.join)
        await asyncio.sleep(1)
        self._look_at_the_end()
        ready = asyncio.Semaphore(0)
        leave = asyncio.Event()

        async def hold(tenant_id: str) -> None:
            for attempt in (1, 2, 3):  # a connection that died while idle is an error once
                with contextlib.suppress(*([DBAPIError] if attempt < 3 else [])):
                    async with self.subject.asession(tenant_id) as session:
                        await session.scalars(select(self.subject.models.note.tenant).limit(1))
                        ready.release()
                        await leave.wait()
                        return

        tasks = [asyncio.ensure_future(hold(each)) for each in self._full_size_ids()]
        try:
            for _ in tasks:
                await asyncio.wait_for(ready.acquire(), 30)
                self.report.full_size += 1
        finally:
            leave.set()
            await asyncio.gather(*tasks)

    def _full_size(self) -> None:
        time.sleep(1)
        self._look_at_the_end()
        with contextlib.ExitStack() as stack:
            for each in self._full_size_ids():
                stack.enter_context(self._held_session(each))
                self.report.full_size += 1

    @contextlib.contextmanager
    def _held_session(self, tenant_id: str) -> Iterator[None]:
        for attempt in (1, 2, 3):  # a connection that died while idle is an error once
            with contextlib.ExitStack() as stack:
                try:
                    session = stack.enter_context(self.subject.session(tenant_id))
                    session.scalars(select(self.subject.models.note.tenant).limit(1)).all()
                except DBAPIError:
                    if attempt == 3:
                        raise
                    continue
                yield
                return

    def _full_size_ids(self) -> list[str]:
        ids = itertools.cycle(self.subject.tenant_ids)
        return list(itertools.islice(ids, self.plan.full_size))

    def _look_at_the_end(self) -> None:
        self.report.held = dict(self.subject.held())
        self.report.idle_in_transaction = self.subject.idle_in_transaction()

    def run(self) -> Report:
        started = time.monotonic()
        self._threads = [
            threading.Thread(target=self.in_thread, args=(each,))
            for each in range(self.plan.threads)
        ]
        with _pool_log(self.report.unexpected), self._killing():
            for thread in self._threads:
                thread.start()
            if self.plan.tasks:
                asyncio.run(self._tasks())
            for thread in self._threads:
                thread.join()
        if not self.plan.tasks:
            self._full_size()
        self._account()
        self.report.seconds = time.monotonic() - started
        return self.report

    def _account(self) -> None:
        report, ledger = self.report, self.ledger
        report.ops = self.plan.ops
        report.reads = ledger.reads
        report.foreign = ledger.foreign
        report.acknowledged = len(ledger.acknowledged)
        found: set[str] = set()
        for place, tenant_id, body in self.subject.audit():
            if place != tenant_id:
                report.misplaced.append(f"a row of {tenant_id} lies with {place}: {body}")
            found.add(body)
        report.lost = sorted(ledger.acknowledged - found)
        report.undead = sorted(ledger.never & found)


def torture(subject: Subject, plan: Plan) -> Report:
    """Run *plan* on *subject*, which must hold its seeded rows and nothing else."""
    return _Run(subject, plan).run()
