"""One step over many tenants: concurrency, a failure budget, results one by one.

The work itself runs in threads, or in any ``concurrent.futures.Executor`` that is given (a
process pool, a Dask client's ``get_executor()``): then the step must be picklable.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from .. import context
from ..errors import FleetError, TenantryError
from ..tenant import Tenant
from .line import Line
from .selection import Selection

if TYPE_CHECKING:
    from ..tenancy import Tenancy

__all__ = ["Outcome", "Report", "Status", "describe", "each", "map_tenants", "run_all"]

T = TypeVar("T")
R = TypeVar("R")

Status = Literal["done", "unchanged", "failed", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """What came of one tenant. *error* is one line; *value* what the step returned."""

    tenant_id: str
    status: Status
    seconds: float = 0.0
    value: Any = None
    error: str | None = None
    error_type: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what is ``None`` is left out."""
        fields = {
            "tenant": self.tenant_id,
            "status": self.status,
            "seconds": round(self.seconds, 4),
            "value": self.value,
            "error": self.error,
            "error_type": self.error_type,
        }
        return {key: value for key, value in fields.items() if value is not None}


@dataclass
class Report:
    """What came of all tenants, in the order in which they ended.

    *stopped* says why tenants were left out: ``canary`` and ``failures`` (a canary failed, or more
    did than the budget allows), ``paused``; ``None``: none was.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str | None = None

    def of(self, status: Status) -> list[Outcome]:
        """The outcomes with this status."""
        return [outcome for outcome in self.outcomes if outcome.status == status]

    @property
    def ok(self) -> bool:
        """Whether no tenant failed and none was left out because the work was stopped."""
        return not self.of("failed") and self.stopped is None

    @property
    def exit_code(self) -> int:
        """0: all done; 1: some failed."""
        return 0 if self.ok else 1

    def __getitem__(self, tenant_id: str) -> Outcome:
        for outcome in self.outcomes:
            if outcome.tenant_id == tenant_id:
                return outcome
        raise KeyError(tenant_id)

    def __len__(self) -> int:
        return len(self.outcomes)

    def raise_if_failed(self) -> Report:
        """The report itself, unless a tenant failed.

        Raises:
            FleetError: One did; names the first ones.
        """
        if self.ok:
            return self
        failed = self.of("failed")
        named = ", ".join(f"{each.tenant_id} ({each.error})" for each in failed[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise FleetError(
            f"{len(failed)} of {len(self.outcomes)} tenants failed: {named}{more}; "
            "repair the cause and run the same again",
            tenant_id=failed[0].tenant_id if failed else None,
        )


OnOutcome = Callable[[Outcome], None]


def run_all(
    items: Iterable[T],
    step: Callable[[T], Outcome],
    *,
    workers: int = 4,
    executor: Executor | None = None,
    on_outcome: OnOutcome | None = None,
    failure_budget: int | None = None,
    group: Callable[[T], str] | None = None,
    per_group: int | None = None,
    keep_on: Callable[[], bool] | None = None,
) -> Report:
    """Run *step* for every item, at most *workers* at a time.

    At most *per_group* items with the same ``group(item)`` run at a time (a server's name, for
    instance). When more than *failure_budget* items failed, or *keep_on* answers false, no new
    item is begun; those under way are waited for. A *step* returns an outcome and raises only
    what should end the whole work. *on_outcome* is called in the caller's thread.
    """

    def alone(bundle: list[T]) -> Bundled[T]:
        (item,) = bundle
        outcome = step(item) if executor is None else executor.submit(step, item).result()
        return Bundled([outcome])

    line = Line(
        items, group=group, per_group=per_group, failure_budget=failure_budget, keep_on=keep_on
    )
    return run_line(line, alone, workers=workers, on_outcome=on_outcome)


@dataclass
class Bundled(Generic[T]):
    """What came of a bundle: the *outcomes*, and who was not begun and goes *back* in line."""

    outcomes: list[Outcome]
    back: list[T] = field(default_factory=list)


def run_line(
    line: Line[T],
    step: Callable[[list[T]], Bundled[T]],
    *,
    workers: int = 4,
    on_outcome: OnOutcome | None = None,
    is_failure: Callable[[Outcome], bool] = lambda outcome: outcome.status == "failed",
) -> Report:
    """Run *step* for every bundle of *line*, in at most *workers* threads, as :func:`run_all`.

    The threads take from the line by themselves: none waits for the caller's to hand it work.
    They are no more than a bundle each ahead of *on_outcome*. *is_failure* says which outcomes
    the line counts.
    """
    began = time.perf_counter()
    report = Report()
    ended: SimpleQueue[list[Outcome] | None] = SimpleQueue()
    room = threading.Semaphore(2 * workers)

    def work() -> None:
        try:
            while room.acquire() and (taken := line.take()) is not None:
                name, bundle = taken
                done = Bundled[T]([])
                try:
                    done = step(bundle)
                finally:
                    line.done(name, sum(map(is_failure, done.outcomes)), done.back)
                ended.put(done.outcomes)
        except BaseException:
            line.stop()
            raise
        finally:
            ended.put(None)

    with ThreadPoolExecutor(workers, thread_name_prefix="tenantry-fleet") as pool:
        threads = [pool.submit(work) for _ in range(min(workers, len(line.left)))]
        try:
            at_work = len(threads)
            while at_work:
                outcomes = ended.get()
                if outcomes is None:
                    at_work -= 1
                    continue
                for outcome in outcomes:
                    report.outcomes.append(outcome)
                    if on_outcome is not None:
                        on_outcome(outcome)
                room.release()
        except BaseException:
            line.stop()
            raise
        finally:
            room.release(workers)
        for thread in threads:
            thread.result()
    if line.left:  # else nothing was left out
        report.stopped = line.stopped
    report.seconds = time.perf_counter() - began
    return report


def attempt(
    tenant_id: str, body: Callable[[], tuple[Status, Any]], *, catch: bool = True
) -> Outcome:
    """The outcome of *body*, which says its status and value; errors become ``failed``."""
    began = time.perf_counter()
    try:
        status, value = body()
    except Exception as error:
        if not catch:
            raise
        return Outcome(
            tenant_id,
            "failed",
            time.perf_counter() - began,
            error=describe(error),
            error_type=type(error).__name__,
        )
    return Outcome(tenant_id, status, time.perf_counter() - began, value)


def describe(error: BaseException) -> str:
    """*error* in one line for an operator: our message, or the driver's first line.

    The details of a database error (``DETAIL: Key (email)=...``), its statement and its
    parameters hold rows and stay out.
    """
    if isinstance(error, TenantryError):
        return " ".join(str(error).split())
    original = getattr(error, "orig", None)
    if isinstance(original, BaseException):
        args = original.args
        text = args[1] if len(args) > 1 and isinstance(args[1], str) else str(original)
        error = original
    else:
        text = str(error)
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:400] if first else type(error).__name__


def _chosen(tenancy: Tenancy, tenants: Selection | Sequence[str | Tenant] | None) -> list[Tenant]:
    if tenants is None:
        tenants = Selection()
    if isinstance(tenants, Selection):
        return tenants.of(tenancy.tenants())
    return [each if isinstance(each, Tenant) else tenancy.get(each) for each in tenants]


def each(
    tenancy: Tenancy,
    fn: Callable[[Tenant], Any],
    *,
    tenants: Selection | Sequence[str | Tenant] | None = None,
    workers: int = 4,
    failure_budget: int | None = None,
    on_outcome: OnOutcome | None = None,
) -> Report:
    """Call ``fn(tenant)`` for many tenants, each with that tenant current.

    *tenants* are ids, or a :class:`Selection`; ``None`` means all. Tenants that serve no
    requests now are skipped. Runs in *workers* threads; an exception of one tenant is part of
    the report and ends nobody else, until more than *failure_budget* failed.

    Raises:
        UnknownTenantError: An id names nobody.
    """

    def step(tenant: Tenant) -> Outcome:
        try:
            tenant.check_serving()
        except TenantryError as error:
            return Outcome(tenant.id, "skipped", error=str(error))

        def body() -> tuple[Status, Any]:
            with context.use(tenant, switch=True):
                return "done", fn(tenant)

        return attempt(tenant.id, body)

    return run_all(
        _chosen(tenancy, tenants),
        step,
        workers=workers,
        failure_budget=failure_budget,
        on_outcome=on_outcome,
    )


def map_tenants(
    tenancy: Tenancy,
    fn: Callable[[Tenant], R],
    *,
    tenants: Selection | Sequence[str | Tenant] | None = None,
    workers: int = 4,
) -> Iterator[tuple[str, R]]:
    """``(tenant id, fn(tenant))`` for many tenants, in the order of *tenants*.

    Like :func:`each`, but the first exception ends the work, once those under way are done.
    At most *workers* calls run ahead of the one that is read.

    Raises:
        FleetError: A call failed; names the tenant, and the exception is its cause.
    """
    chosen = deque(_chosen(tenancy, tenants))

    def call(tenant: Tenant) -> R:
        with context.use(tenant, switch=True):
            return fn(tenant)

    with ThreadPoolExecutor(workers, thread_name_prefix="tenantry-fleet") as pool:
        ahead: deque[tuple[Tenant, Future[R]]] = deque()
        try:
            while chosen or ahead:
                while chosen and len(ahead) < workers:
                    tenant = chosen.popleft()
                    ahead.append((tenant, pool.submit(call, tenant)))
                tenant, future = ahead.popleft()
                try:
                    yield tenant.id, future.result()
                except Exception as error:
                    raise FleetError(
                        f"tenant {tenant.id!r} failed: {describe(error)}", tenant_id=tenant.id
                    ) from error
        finally:
            for _, future in ahead:
                future.cancel()
