"""Brings every tenant to a revision: canary first, then waves, within a budget of failures.

What is applied is the tenants' own version rows' word, so the same command goes on wherever an
earlier one ended, however it ended; two at once share the work.
"""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigurationError, FleetError
from ..tenant import State, Tenant
from .access import Access, Place, missing
from .application import Source
from .apply import LockedError
from .bring import Settings, Todo, Work, bring_bundle, bring_place, value_of
from .journal import Journal, Run
from .line import Line
from .migrate import Scripts
from .runner import Bundled, OnOutcome, Outcome, Report, describe, run_line
from .status import MayAssume, Standing, is_asked_alone, standings

if TYPE_CHECKING:
    from ..tenancy import Tenancy

__all__ = ["MigrationStatus", "Settings", "migrate_tenants", "migration_status"]

#: States whose places are not to be touched: another verb is at work on them.
_BUSY = (State.CREATING, State.MOVING, State.DELETING, State.DELETED)


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
        work = Work(used, scripts, Settings(goal))
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
        ConfigurationError: An executor without a source, or the target is no revision.
    """
    settings = settings or Settings(scripts.target(None))
    scripts.target(settings.target)  # there is one
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
        work = Work(used, scripts, settings)
        busy = [tenant for tenant in chosen if tenant.state in _BUSY]
        places = used.places([tenant for tenant in chosen if tenant.state not in _BUSY])
        run = None
        if journal is not None and not dry_run:
            direction = "down" if settings.downgrade else "up"
            run = journal.begin("migrate", f"{scripts.path} {direction} {settings.target}"[:400])
            emit.run = run
        for tenant in busy:
            emit(Outcome(tenant.id, "skipped", error=f"it is {tenant.state.value}"))
        if executor is None and wave is None and not dry_run:
            todo = _look_at_some(work, places, emit, workers, canary)
        else:
            todo = _look(work, places, emit, workers, dry_run=dry_run)
        stopped, left = _waves(
            todo,
            _step(work, executor, source),
            emit,
            work=work,
            workers=workers,
            per_server=per_server,
            canary=canary,
            wave=wave,
            failure_budget=failure_budget,
            keep_on=_pause_check(journal, run),
        )
        if stopped:
            seen = [each for each in left if each.was_seen]
            others = [each.place for each in left if not each.was_seen]
            if not seen and not _look(work, others, emit, workers):
                stopped = None  # nothing was left out
        report.stopped = stopped
        emit.flush()
        if journal is not None and run is not None:
            state = "done" if report.ok else ("paused" if stopped == "paused" else "stopped")
            journal.end(run, state)
    report.seconds = time.perf_counter() - began
    return report


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


def _look(
    work: Work,
    places: Sequence[Place],
    emit: _Emitter,
    workers: int,
    *,
    dry_run: bool = False,
    may_assume: MayAssume | None = None,
) -> list[Todo]:
    """The places with something to do; of the others the outcome is known at once."""
    table = work.scripts.version_table
    known = standings(work.access, places, table, workers=workers, may_assume=may_assume)
    todo = []
    for place in places:
        standing = known[place.key]
        problem = standing.error
        if problem is None and standing.heads is None:
            problem = str(missing(place))
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
            _all(place, Outcome(place.name, "unchanged", value=value_of(0, plan)), emit)
        elif dry_run:
            value = {
                **value_of(len(plan.steps), plan),
                "online": [step.revision for step in plan.steps if step.segments is None],
            }
            _all(place, Outcome(place.name, "done", value=value), emit)
        else:
            todo.append(Todo(place, standing, was_seen=True))
            if work.can_share(place, standing.heads or ()) and not standing.interrupted:
                todo[-1].alike = (place.server.name, place.database, standing.heads)
    return todo


def _look_at_some(
    work: Work, places: Sequence[Place], emit: _Emitter, workers: int, canary: int
) -> list[Todo]:
    """As :func:`_look`, at no more than is needed to begin; who works on the others looks first.

    Of many schemas a sample says where the others are taken to stand. Files and databases are
    looked at until there is work for *canary* of them: the others are opened only once.
    """
    unseen = deque(filter(is_asked_alone, places))
    several = [place for place in places if not is_asked_alone(place)]
    todo = _look(work, several, emit, workers, may_assume=work.can_send)
    part = workers
    while unseen and len(todo) < canary:
        some = [unseen.popleft() for _ in range(min(part, len(unseen)))]
        todo += _look(work, some, emit, workers)
        part *= 2
    return todo + [Todo(place, alike=place.server.name) for place in unseen]


def _all(place: Place, outcome: Outcome, emit: _Emitter) -> None:
    """Of each tenant that lives in *place*; *outcome* is the first one's."""
    emit(outcome)
    for tenant in place.tenants[1:]:
        emit(replace(outcome, tenant_id=tenant.id))


def _waves(
    todo: list[Todo],
    step: Callable[[list[Todo]], Bundled[Todo]],
    emit: _Emitter,
    *,
    work: Work,
    workers: int,
    per_server: int | None,
    canary: int,
    wave: int | None,
    failure_budget: int,
    keep_on: Callable[[], bool],
) -> tuple[str | None, list[Todo]]:
    """Canary, waves, and the locked ones at the end; says why places were left out, and which."""
    by_name = {each.place.name: each for each in todo}
    waves = _cut(todo, canary, wave)
    locked: dict[str, Outcome] = {}
    failures = 0
    stopped: str | None = None
    left: list[Todo] = []

    def is_failure(outcome: Outcome) -> bool:
        """Of a place that was seen and not in use."""
        return (
            outcome.status == "failed"
            and outcome.error_type != LockedError.__name__
            and by_name[outcome.tenant_id].was_seen
        )

    def one(outcome: Outcome) -> None:
        nonlocal failures
        if outcome.error_type == LockedError.__name__:
            locked[outcome.tenant_id] = outcome
            return
        failures += is_failure(outcome)
        _all(by_name[outcome.tenant_id].place, outcome, emit)

    def go(some: Sequence[Todo], allowed: int) -> tuple[str | None, list[Todo]]:
        line = Line(
            some,
            group=lambda each: each.place.server.name,
            per_group=per_server,
            alike=lambda each: each.alike,
            size=lambda count: work.together(count // (2 * workers)),
            failure_budget=allowed - failures,
            keep_on=keep_on,
        )
        report = run_line(line, step, workers=workers, on_outcome=one, is_failure=is_failure)
        return report.stopped, line.left

    while waves and stopped is None:
        is_canary = len(waves) > 1 and canary > 0 and not emit.after_canary
        allowed = 0 if is_canary else failure_budget
        stopped, left = go(waves.pop(0), allowed)
        emit.after_canary = True
        if failures > allowed and (stopped or waves):
            stopped = "canary" if is_canary else "failures"
    for round_ in range(work.settings.lock_rounds):
        if not locked or stopped is not None:
            break
        # Not everybody at once again, and not in step with another migrator.
        time.sleep(min(30.0, 0.25 * 2**round_) * (0.5 + random.random()))  # noqa: S311
        before = dict(locked)
        locked.clear()
        stopped, left = go([by_name[name] for name in before], failure_budget)
        # Who was not begun was in use when it was tried last.
        locked.update((each.place.name, before[each.place.name]) for each in left)
    for outcome in locked.values():
        _all(by_name[outcome.tenant_id].place, outcome, emit)
    return stopped, left + [each for wave_ in waves for each in wave_]


def _cut(todo: list[Todo], canary: int, wave: int | None) -> list[list[Todo]]:
    waves = [todo[:canary]] if 0 < canary < len(todo) else []
    rest = todo[canary:] if waves else todo
    size = wave or max(1, len(rest))
    return waves + [rest[start : start + size] for start in range(0, len(rest), size)]


def _step(
    work: Work, executor: Executor | None, source: Source | None
) -> Callable[[list[Todo]], Bundled[Todo]]:
    """What is called with one place, or with several that are alike."""
    if executor is None or source is None:
        return partial(bring_bundle, work)
    path = str(work.scripts.path)
    call = partial(_in_other_process, source, path, work.settings)

    def step(todo: Todo) -> Outcome:
        outcome = executor.submit(call, todo.place.name, todo.applied).result()
        todo.applied = (outcome.value or {}).get("applied", 0)
        return outcome

    return lambda bundle: Bundled([step(todo) for todo in bundle])


def _in_other_process(
    source: Source, path: str, settings: Settings, tenant_id: str, applied: int
) -> Outcome:
    """What an executor runs: everything is loaded anew there, once per process."""
    tenancy, work = _loaded(os.getpid(), source, path, settings)
    place = work.access.place(tenancy.get(tenant_id))
    return bring_place(work, Todo(place, applied=applied))


@lru_cache(maxsize=8)
def _loaded(_process: int, source: Source, path: str, settings: Settings) -> tuple[Tenancy, Work]:
    tenancy = source.load()
    return tenancy, Work(Access(tenancy.servers, keep=4), Scripts(Path(path)), settings)


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
