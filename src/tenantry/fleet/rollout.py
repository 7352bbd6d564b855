"""Brings every tenant to a revision: canary first, then waves, within a budget of failures.

What is applied is the tenants' own version rows' word, so the same command goes on wherever an
earlier one ended, however it ended; two at once share the work.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Dialect

from ..errors import ConfigurationError, FleetError
from ..servers import Server
from ..tenant import State, Tenant
from .access import Access, Place
from .application import Source
from .apply import LockedError, MovedOnError, apply, check_interrupted
from .journal import Journal, Run
from .migrate import Scripts, offline_dialect
from .plan import Plan
from .runner import OnOutcome, Outcome, Report, Status, describe, run_all
from .status import Standing, standings

if TYPE_CHECKING:
    from ..tenancy import Tenancy

__all__ = ["MigrationStatus", "Settings", "migrate_tenants", "migration_status"]

#: States whose places are not to be touched: another verb is at work on them.
_BUSY = (State.CREATING, State.MOVING, State.DELETING, State.DELETED)


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


@dataclass(frozen=True)
class MigrationStatus:
    """Where a tenant stands, and how many steps it is from the target; ``None``: unknown."""

    tenant: Tenant
    standing: Standing
    behind: int | None


def migration_status(
    tenancy: Tenancy,
    scripts: Scripts,
    *,
    tenants: Sequence[Tenant] | None = None,
    target: str | None = None,
    workers: int = 4,
    access: Access | None = None,
) -> list[MigrationStatus]:
    """Where every tenant stands; one set-based query per database, where the server has sets."""
    chosen = list(tenancy.tenants() if tenants is None else tenants)
    goal = scripts.target(target)
    with access or Access(tenancy.servers, keep=workers) as used:
        work = _Work(used, scripts, Settings(goal))
        places = used.places(chosen)
        known = standings(used, places, scripts.version_table, workers=workers)
        found = []
        for place in places:
            standing = known[place.key]
            behind = None
            if standing.heads is not None and standing.error is None:
                try:
                    behind = len(work.plan(place, standing.heads).steps)
                except Exception as error:
                    standing = replace(standing, error=describe(error))
            found += [MigrationStatus(tenant, standing, behind) for tenant in place.tenants]
    return sorted(found, key=lambda each: each.tenant.id)


def migrate_tenants(
    tenancy: Tenancy,
    scripts: Scripts,
    *,
    tenants: Sequence[Tenant] | None = None,
    settings: Settings | None = None,
    workers: int = 4,
    per_server: int | None = None,
    canary: int = 1,
    wave: int | None = None,
    failure_budget: int = 0,
    journal: Journal | None = None,
    executor: Executor | None = None,
    source: Source | None = None,
    dry_run: bool = False,
    on_outcome: OnOutcome | None = None,
    access: Access | None = None,
) -> Report:
    """Bring *tenants* (``None``: all) to a revision; each step whole or not at all.

    First *canary* places alone, then waves of *wave* places (``None``: all the rest at once),
    *workers* at a time and at most *per_server* on one server. If the canary fails, or later
    more than *failure_budget* places, no further place is begun. A table in use is no failure
    of this kind: such tenants are tried again at the end, then reported as failed.

    With an *executor* each place is migrated by a call in it; *source* then says how the other
    process gets its own Tenancy.

    Raises:
        ConfigurationError: An executor without a source.
    """
    settings = settings or Settings(scripts.target(None))
    if executor is not None and source is None:
        raise ConfigurationError(
            "work in other processes needs source=Source(app='module:tenancy'): no Tenancy and "
            "no password is sent to them"
        )
    began = time.perf_counter()
    chosen = list(tenancy.tenants() if tenants is None else tenants)
    report = Report()
    emit = _Emitter(report, on_outcome, journal)
    with access or Access(tenancy.servers, keep=max(8, workers * 2)) as used:
        work = _Work(used, scripts, settings)
        busy = [tenant for tenant in chosen if tenant.state in _BUSY]
        places = used.places([tenant for tenant in chosen if tenant.state not in _BUSY])
        run = None
        if journal is not None and not dry_run:
            direction = "down" if settings.downgrade else "up"
            run = journal.begin("migrate", f"{scripts.path} {direction} {settings.target}"[:400])
            emit.run = run
        for tenant in busy:
            emit(Outcome(tenant.id, "skipped", error=f"it is {tenant.state.value}"))
        known = standings(used, places, scripts.version_table, workers=workers)
        todo = _sort_out(work, places, known, emit, dry_run)
        step = _step(work, todo, known, executor, source)
        stopped = _waves(
            todo,
            step,
            emit,
            workers=workers,
            per_server=per_server,
            canary=canary,
            wave=wave,
            failure_budget=failure_budget,
            settings=settings,
            executor=executor,
            keep_on=_pause_check(journal, run),
        )
        report.stopped = stopped
        emit.flush()
        if journal is not None and run is not None:
            state = "done" if report.ok else ("paused" if stopped == "paused" else "stopped")
            journal.end(run, state)
    report.seconds = time.perf_counter() - began
    return report


def bring(work: _Work, place: Place, standing: Standing) -> dict[str, Any]:
    """One place to the target, from wherever it stands; says how many steps it took."""
    assert standing.heads is not None
    applied = 0
    plan = work.plan(place, standing.heads)
    interrupted = standing.interrupted
    lock_timeout, table = work.settings.lock_timeout, work.scripts.version_table
    for _ in range(100):
        try:
            if interrupted:
                check_interrupted(
                    work.access, place, plan, table, lock_timeout, online=work.settings.online
                )
            if not plan.steps:
                break
            applied += apply(
                work.access,
                place,
                plan,
                work.scripts,
                lock_timeout=lock_timeout,
                online=work.settings.online,
            )
            break
        except MovedOnError:
            # Somebody else migrates this tenant too: go on from where it stands now.
            now = standings(work.access, [place], table, workers=1)[place.key]
            plan = work.plan(place, now.heads or ())
            interrupted = now.interrupted
    return {"applied": applied, "revision": ", ".join(plan.after) or "base"}


class _Work:
    """What one process needs to migrate places."""

    def __init__(self, access: Access, scripts: Scripts, settings: Settings) -> None:
        self.access = access
        self.scripts = scripts
        self.settings = settings
        self._dialects: dict[str, Dialect] = {}

    def plan(self, place: Place, heads: tuple[str, ...]) -> Plan:
        dialect = self.dialect(place.server, place.database)
        return self.scripts.plan(
            heads, self.settings.target, dialect, downgrade=self.settings.downgrade
        )

    def dialect(self, server: Server, database: str | None) -> Dialect:
        dialect = self._dialects.get(server.name)
        if dialect is None:
            where = None if server.kind == "sqlite" else database
            with self.access.connect(server, where) as connection:
                dialect = self._dialects[server.name] = offline_dialect(connection)
        return dialect


class _Emitter:
    """Hands on one outcome per tenant; the journal gets them in bundles."""

    def __init__(
        self, report: Report, on_outcome: OnOutcome | None, journal: Journal | None
    ) -> None:
        self.report = report
        self.run: Run | None = None
        self.after_canary = False
        self._on_outcome = on_outcome
        self._journal = journal
        self._waiting: list[Outcome] = []
        self._flushed = time.monotonic()

    def __call__(self, outcome: Outcome) -> None:
        self.report.outcomes.append(outcome)
        if self._on_outcome is not None:
            self._on_outcome(outcome)
        self._waiting.append(outcome)
        if time.monotonic() - self._flushed > 0.5:
            self.flush()

    def flush(self) -> None:
        if self._journal is not None and self.run is not None:
            if self.run.resumed:
                for outcome in self._waiting:
                    if outcome.status != "unchanged":
                        self._journal.record(self.run, outcome)
            else:
                self._journal.record_all(self.run, self._waiting)
        self._waiting = []
        self._flushed = time.monotonic()


def _sort_out(
    work: _Work,
    places: Sequence[Place],
    known: dict[tuple[str, str, str], Standing],
    emit: _Emitter,
    dry_run: bool,
) -> list[Place]:
    """The places with something to do; of the others the outcome is known at once."""
    todo = []
    for place in places:
        standing = known[place.key]
        problem = standing.error
        if problem is None and standing.heads is None:
            problem = (
                f"the place of tenant {place.name!r} does not exist; `tenantry create` makes it"
            )
        plan = None
        if problem is None:
            assert standing.heads is not None
            try:
                plan = work.plan(place, standing.heads)
            except Exception as error:
                problem = describe(error)
        if plan is None:
            _all(place, Outcome(place.name, "failed", error=problem), emit)
        elif not plan.steps and not standing.interrupted:
            _all(place, Outcome(place.name, "unchanged", value=_value(0, plan)), emit)
        elif dry_run:
            value = {
                **_value(len(plan.steps), plan),
                "online": [step.revision for step in plan.steps if step.segments is None],
            }
            _all(place, Outcome(place.name, "done", value=value), emit)
        else:
            todo.append(place)
    return todo


def _value(applied: int, plan: Plan) -> dict[str, Any]:
    return {"applied": applied, "revision": ", ".join(plan.after) or "base"}


def _all(place: Place, outcome: Outcome, emit: _Emitter) -> None:
    for tenant in place.tenants:
        emit(replace(outcome, tenant_id=tenant.id))


def _waves(
    todo: list[Place],
    step: Callable[[str], Outcome],
    emit: _Emitter,
    *,
    workers: int,
    per_server: int | None,
    canary: int,
    wave: int | None,
    failure_budget: int,
    settings: Settings,
    executor: Executor | None,
    keep_on: Callable[[], bool],
) -> str | None:
    """Canary, waves, and the locked ones at the end; says why places were left out, if any."""
    by_name = {place.name: place for place in todo}
    waves = _cut([place.name for place in todo], canary, wave)
    locked: dict[str, Outcome] = {}
    failures = 0

    def one(outcome: Outcome) -> None:
        nonlocal failures
        if outcome.error_type == LockedError.__name__:
            locked[outcome.tenant_id] = outcome
            return
        failures += outcome.status == "failed"
        _all(by_name[outcome.tenant_id], outcome, emit)

    def go(names: Sequence[str], allowed: int) -> str | None:
        stopped = run_all(
            names,
            step,
            workers=workers,
            executor=executor,
            on_outcome=one,
            group=lambda name: by_name[name].server.name,
            per_group=per_server,
            keep_on=lambda: failures <= allowed and keep_on(),
        ).stopped
        return "failures" if stopped and failures > allowed else stopped

    stopped = None
    while waves and stopped is None:
        is_canary = len(waves) > 1 and canary > 0 and not emit.after_canary
        allowed = 0 if is_canary else failure_budget
        stopped = go(waves.pop(0), allowed)
        emit.after_canary = True
        if stopped is None and waves and failures > allowed:
            stopped = "failures"
    for round_ in range(settings.lock_rounds):
        if not locked or stopped is not None:
            break
        # Not everybody at once again, and not in step with another migrator.
        time.sleep(min(30.0, 0.25 * 2**round_) * (0.5 + random.random()))  # noqa: S311
        again = list(locked)
        locked.clear()
        stopped = go(again, failure_budget)
    for outcome in locked.values():
        _all(by_name[outcome.tenant_id], outcome, emit)
    return stopped


def _cut(names: list[str], canary: int, wave: int | None) -> list[list[str]]:
    waves = [names[:canary]] if 0 < canary < len(names) else []
    rest = names[canary:] if waves else names
    size = wave or max(1, len(rest))
    return waves + [rest[start : start + size] for start in range(0, len(rest), size)]


def _step(
    work: _Work,
    places: Sequence[Place],
    known: dict[tuple[str, str, str], Standing],
    executor: Executor | None,
    source: Source | None,
) -> Callable[[str], Outcome]:
    """What is called with the name of each place; with an *executor*, in another process."""
    if executor is None:
        by_name = {place.name: place for place in places}
        return lambda name: _attempt(work, by_name[name], known[by_name[name].key])
    assert source is not None
    return partial(_in_other_process, source, str(work.scripts.path), work.settings)


def _attempt(work: _Work, place: Place, standing: Standing) -> Outcome:
    began = time.perf_counter()
    try:
        value = bring(work, place, standing)
    except Exception as error:
        return Outcome(
            place.name,
            "failed",
            time.perf_counter() - began,
            error=describe(error),
            error_type=type(error).__name__,
        )
    status: Status = "done" if value["applied"] else "unchanged"
    return Outcome(place.name, status, time.perf_counter() - began, value)


def _in_other_process(source: Source, path: str, settings: Settings, tenant_id: str) -> Outcome:
    """What an executor runs: everything is loaded anew there, once per process."""
    tenancy, work = _loaded(os.getpid(), source, path, settings)
    place = work.access.place(tenancy.get(tenant_id))
    standing = standings(work.access, [place], work.scripts.version_table, workers=1)[place.key]
    if standing.error is not None or standing.heads is None:
        error = standing.error or "its place does not exist"
        return Outcome(tenant_id, "failed", error=error)
    return _attempt(work, place, standing)


@lru_cache(maxsize=8)
def _loaded(_process: int, source: Source, path: str, settings: Settings) -> tuple[Tenancy, _Work]:
    tenancy = source.load()
    return tenancy, _Work(Access(tenancy.servers, keep=4), Scripts(Path(path)), settings)


def _pause_check(journal: Journal | None, run: Run | None) -> Callable[[], bool]:
    if journal is None or run is None:
        return lambda: True
    looked = 0.0
    answer = True

    def may_go_on() -> bool:
        nonlocal looked, answer
        if time.monotonic() - looked > 0.25:
            looked = time.monotonic()
            answer = journal.may_go_on(run)
        return answer

    return may_go_on


def pause(journal: Journal) -> int:
    """Ask running migrations to begin no further tenant; says how many were asked.

    Raises:
        FleetError: None is running.
    """
    asked = journal.ask_to_pause("migrate")
    if not asked:
        raise FleetError("no migration is running that could be paused")
    return asked
