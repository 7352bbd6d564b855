"""What long work did, kept in a database: a file of its own, or any that SQLAlchemy reaches.

The journal says what ran, how far it came and what was slow or failed; and it carries the wish
to pause from one terminal to another. Whether a revision is applied is *not* its word but the
tenant's own version row, written in the revision's own transaction: a journal that is lost
loses history and nothing else.
"""

from __future__ import annotations

import datetime
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Index,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from ..directory.control import prepare_nothing_behind_a_pooler
from .runner import Outcome

__all__ = ["Journal", "Run"]

J = TypeVar("J", bound="Journal")
_METADATA = MetaData()
#: Of many processes that make the tables at once.
_ATTEMPTS = 10

_RUNS = Table(
    "tenantry_runs",
    _METADATA,
    Column("id", String(32), primary_key=True),
    Column("verb", String(40), nullable=False),
    Column("key", String(400), nullable=False),
    Column("state", String(20), nullable=False),
    Column("started", String(40), nullable=False),
    Column("ended", String(40)),
    Index("tenantry_runs_key", "key", "state"),
)
_ITEMS = Table(
    "tenantry_items",
    _METADATA,
    Column("run", String(32), primary_key=True),
    Column("tenant", String(64), primary_key=True),
    Column("status", String(20), nullable=False),
    Column("seconds", Float, nullable=False),
    Column("detail", Text),
    Column("ended", String(40), nullable=False),
)


@dataclass(frozen=True)
class Run:
    """One piece of long work; *resumed* says that an interrupted one goes on."""

    id: str
    verb: str
    key: str
    resumed: bool = False
    state: str = "running"
    started: str = ""
    ended: str | None = None


class Journal:
    """Runs and what became of each tenant in them. Safe for threads; processes share the store.

    *store* is a file (an SQLite database is made there) or a database URL.
    """

    def __init__(self, store: str | Path | URL) -> None:
        is_url = isinstance(store, URL) or "://" in str(store)
        if not is_url:
            path = Path(str(store)).resolve()
            path.parent.mkdir(parents=True, exist_ok=True)
            store = URL.create("sqlite", database=str(path))
        self._engine: Engine = create_engine(store if isinstance(store, URL) else str(store))
        prepare_nothing_behind_a_pooler(self._engine)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _patient)
        self._lock = threading.Lock()
        self._make()

    def begin(self, verb: str, key: str, *, anew: bool = False) -> Run:
        """Begin work; or go on with that of the same *verb* and *key* which did not end.

        With *anew* that is left as it is, and never gone on with.
        """
        with self._lock, self._engine.begin() as connection:
            if anew:
                left = update(_RUNS).where(*_unended(verb, key)).values(state="left")
                connection.execute(left)
            elif (found := _go_on(connection, verb, key)) is not None:
                return found
            run = Run(uuid.uuid4().hex, verb, key, started=_now())
            connection.execute(
                insert(_RUNS).values(
                    id=run.id, verb=verb, key=key, state="running", started=run.started
                )
            )
            return run

    def go_on(self, verb: str, key: str) -> Run | None:
        """Go on with the work of this *verb* and *key* which did not end, if there is any."""
        with self._lock, self._engine.begin() as connection:
            return _go_on(connection, verb, key)

    def note_begun(self, run: Run, tenant_id: str) -> None:
        """Write down, before it is done, that a tenant is worked on."""
        self._write(run, tenant_id, {"status": "begun", "seconds": 0.0, "detail": None})

    def record(self, run: Run, outcome: Outcome, detail: str | None = None) -> None:
        """Write down what became of a tenant; the last word counts."""
        self._write(
            run,
            outcome.tenant_id,
            {
                "status": outcome.status,
                "seconds": outcome.seconds,
                "detail": detail if detail is not None else outcome.error,
            },
        )

    def record_all(self, run: Run, outcomes: Sequence[Outcome]) -> None:
        """The same for many at once, none of which is written down yet."""
        if not outcomes:
            return
        rows = [
            {
                "run": run.id,
                "tenant": each.tenant_id,
                "status": each.status,
                "seconds": each.seconds,
                "detail": each.error,
                "ended": _now(),
            }
            for each in outcomes
        ]
        try:
            with self._lock, self._engine.begin() as connection:
                connection.execute(insert(_ITEMS), rows)
        except IntegrityError:
            for outcome in outcomes:
                self.record(run, outcome)

    def end(self, run: Run, state: str) -> None:
        """The work ended: ``done``, or ``stopped`` or ``paused`` and to be gone on with."""
        with self._lock, self._engine.begin() as connection:
            connection.execute(
                update(_RUNS).where(_RUNS.c.id == run.id).values(state=state, ended=_now())
            )

    def ask_to_pause(self, verb: str) -> int:
        """Ask every running work of this verb to begin no further tenant; says how many."""
        with self._lock, self._engine.begin() as connection:
            return connection.execute(
                update(_RUNS)
                .where(_RUNS.c.verb == verb, _RUNS.c.state == "running")
                .values(state="pausing")
            ).rowcount

    def may_go_on(self, run: Run) -> bool:
        """Whether nobody asked this work to pause."""
        with self._engine.connect() as connection:
            state = connection.execute(select(_RUNS.c.state).where(_RUNS.c.id == run.id)).scalar()
        # Another worker of the same run may have ended it: only a wish to pause counts.
        return state not in ("pausing", "paused")

    def runs(self, limit: int = 20) -> list[Run]:
        """The latest runs, newest first."""
        query = select(_RUNS).order_by(_RUNS.c.started.desc()).limit(limit)
        with self._engine.connect() as connection:
            return [
                Run(row.id, row.verb, row.key, False, row.state, row.started, row.ended)
                for row in connection.execute(query)
            ]

    def items(self, run: Run) -> list[dict[str, Any]]:
        """What became of each tenant in a run, ordered by tenant."""
        query = select(_ITEMS).where(_ITEMS.c.run == run.id).order_by(_ITEMS.c.tenant)
        with self._engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def close(self) -> None:
        """Close its connections."""
        self._engine.dispose()

    def __enter__(self: J) -> J:  # noqa: PYI019
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _write(self, run: Run, tenant_id: str, values: dict[str, Any]) -> None:
        values["ended"] = _now()
        here = (_ITEMS.c.run == run.id) & (_ITEMS.c.tenant == tenant_id)
        with self._lock, self._engine.begin() as connection:
            if connection.execute(update(_ITEMS).where(here).values(**values)).rowcount == 0:
                connection.execute(insert(_ITEMS).values(run=run.id, tenant=tenant_id, **values))

    def _make(self) -> None:
        for left in reversed(range(_ATTEMPTS)):
            try:
                _METADATA.create_all(self._engine)
            except (OperationalError, ProgrammingError, IntegrityError):
                # Other processes make them in this moment, or open the file for the first time,
                # and SQLite does not wait for every lock (sqlite.org/wal.html).
                if not left:
                    raise
                time.sleep(0.02)
            else:
                return


def _unended(verb: str, key: str) -> tuple[Any, ...]:
    return (
        _RUNS.c.verb == verb,
        _RUNS.c.key == key,
        _RUNS.c.state.in_(("running", "pausing", "paused", "stopped")),
    )


def _go_on(connection: Connection, verb: str, key: str) -> Run | None:
    query = select(_RUNS.c.id, _RUNS.c.started).where(*_unended(verb, key))
    found = connection.execute(query.order_by(_RUNS.c.started.desc())).first()
    if found is None:
        return None
    connection.execute(update(_RUNS).where(_RUNS.c.id == found.id).values(state="running"))
    return Run(found.id, verb, key, resumed=True, started=found.started)


def _patient(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA busy_timeout = 30000")
    connection.execute("PRAGMA journal_mode = WAL")
    # A crash of the machine may take the last lines; the tenants' version rows are the truth.
    connection.execute("PRAGMA synchronous = NORMAL")


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
