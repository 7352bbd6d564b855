"""Ad-hoc work in many tenants: a statement, a Python function, a program."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import CallerError, FleetError
from ..routing.statements import ends_transaction
from ..tenant import Tenant
from .application import import_named
from .journal import Journal, Run
from .runner import OnOutcome, Outcome, Report, each

if TYPE_CHECKING:
    from ..tenancy import Tenancy

__all__ = ["call", "run_program", "sql"]


def sql(
    tenancy: Tenancy,
    statement: str,
    *,
    tenants: Sequence[Tenant],
    workers: int = 4,
    limit: int = 1000,
    dry_run: bool = False,
    on_outcome: OnOutcome | None = None,
    failure_budget: int | None = None,
    journal: Journal | None = None,
    resume: bool = False,
) -> Report:
    """Run one statement in each tenant, in a transaction of its own; through the routed engine.

    The value of an outcome is ``{"columns": [...], "rows": [[...]], "more": bool}``, at most
    *limit* rows, or ``{"rowcount": n}``. A colon is only a colon. With *dry_run* the
    transaction is rolled back (DDL on MySQL and MariaDB cannot be, so it is not run at all).
    *journal* and *resume* are as for :func:`call`.

    Raises:
        CallerError: A dry run of what ends its transaction; or as :func:`call`.
    """
    if dry_run and ends_transaction(statement):
        raise CallerError(
            "a dry run is rolled back, and this statement begins or ends a transaction by itself; "
            "leave that out"
        )

    def body(tenant: Tenant) -> dict[str, Any]:
        if dry_run and tenancy.servers[tenant.placement.server].kind == "mysql":
            return {"would": "run"}
        with tenancy.session() as session:
            connection = session.connection()
            result = connection.exec_driver_sql(
                statement, execution_options={"no_parameters": True}
            )
            if result.returns_rows:
                rows = result.fetchmany(limit + 1)
                value: dict[str, Any] = {
                    "columns": list(result.keys()),
                    "rows": [list(row) for row in rows[:limit]],
                    "more": len(rows) > limit,
                }
            else:
                value = {"rowcount": result.rowcount}
            if dry_run:
                session.rollback()
            else:
                session.commit()
            return value

    words = statement.split()
    return _run(
        tenancy,
        body,
        _Noted("sql", words[0].upper() if words else "", statement, journal, resume, dry_run),
        tenants=tenants,
        workers=workers,
        on_outcome=on_outcome,
        failure_budget=failure_budget,
    )


def call(
    tenancy: Tenancy,
    target: str | Callable[[Tenant], Any],
    *,
    tenants: Sequence[Tenant],
    workers: int = 4,
    on_outcome: OnOutcome | None = None,
    failure_budget: int | None = None,
    journal: Journal | None = None,
    resume: bool = False,
    around: Callable[[], AbstractContextManager[object]] | None = None,
) -> Report:
    """Call ``module:function`` (or a callable) with each tenant, that tenant being current.

    *around* gives what each call runs in, such as an application's ``app_context``.

    A *journal* gets a line before and after each tenant. With *resume* the latest run of the
    same that did not end well goes on: who is done in it is ``unchanged``, who failed is tried
    again. A tenant that was worked on when that run was killed is in doubt; it is reported as
    failed and not touched.

    Raises:
        CallerError: There is nothing to resume, or no journal.
    """
    found = import_named(target, "the function") if isinstance(target, str) else target

    def body(tenant: Tenant) -> Any:
        with around() if around is not None else nullcontext():
            return found(tenant)

    name = target if isinstance(target, str) else getattr(found, "__qualname__", "a function")
    return _run(
        tenancy,
        body,
        _Noted("run", name, "", journal, resume),
        tenants=tenants,
        workers=workers,
        on_outcome=on_outcome,
        failure_budget=failure_budget,
    )


def run_program(
    tenancy: Tenancy,
    command: Sequence[str],
    *,
    tenants: Sequence[Tenant],
    workers: int = 4,
    on_outcome: OnOutcome | None = None,
    failure_budget: int | None = None,
    journal: Journal | None = None,
    resume: bool = False,
) -> Report:
    """Run a program once per tenant: ``TENANTRY_TENANT`` is its id, ``{tenant}`` stands for it.

    An exit status other than 0 is a failure; what it printed is the outcome's value. *journal*
    and *resume* are as for :func:`call`.
    """

    def body(tenant: Tenant) -> dict[str, Any]:
        done = subprocess.run(
            [part.replace("{tenant}", tenant.id) for part in command],
            env={**os.environ, "TENANTRY_TENANT": tenant.id},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            last = done.stdout.strip().splitlines()[-1:] or ["it said nothing"]
            raise FleetError(
                f"{command[0]} ended with {done.returncode}: {last[0]}", tenant_id=tenant.id
            )
        return {"output": done.stdout}

    return _run(
        tenancy,
        body,
        _Noted("run", command[0], "\0".join(command), journal, resume),
        tenants=tenants,
        workers=workers,
        on_outcome=on_outcome,
        failure_budget=failure_budget,
    )


@dataclass(frozen=True)
class _Noted:
    """What is written down of a piece of work: its name, and of all the rest a digest alone.

    Statements and arguments hold values of rows, which belong in no journal.
    """

    verb: str
    name: str
    rest: str
    journal: Journal | None
    resume: bool = False
    is_dry: bool = False

    def begin(self) -> Run | None:
        """The run, if there is a journal."""
        if self.is_dry:
            return None
        if self.journal is None:
            if self.resume:
                raise CallerError("without a journal nothing can be resumed")
            return None
        digest = hashlib.sha256(self.rest.encode()).hexdigest()[:32] if self.rest else ""
        key = f"{self.name[:300]} {digest}".strip()
        if not self.resume:
            return self.journal.begin(self.verb, key, anew=True)
        run = self.journal.go_on(self.verb, key)
        if run is None:
            raise CallerError(
                f"no {self.verb} of the same was interrupted or failed, so there is nothing to "
                "resume; without resume it is done in all tenants"
            )
        return run


def _run(
    tenancy: Tenancy,
    body: Callable[[Tenant], Any],
    noted: _Noted,
    *,
    tenants: Sequence[Tenant],
    workers: int,
    on_outcome: OnOutcome | None,
    failure_budget: int | None,
) -> Report:
    journal, run = noted.journal, noted.begin()
    if journal is None or run is None:
        return each(
            tenancy,
            body,
            tenants=list(tenants),
            workers=workers,
            on_outcome=on_outcome,
            failure_budget=failure_budget,
        )
    known = {str(item["tenant"]): item["status"] for item in journal.items(run)}
    early = [
        outcome
        for outcome in (_of_earlier(each_.id, known.get(each_.id)) for each_ in tenants)
        if outcome is not None
    ]
    for outcome in early:
        if on_outcome is not None:
            on_outcome(outcome)
    left = {outcome.tenant_id for outcome in early}

    def step(tenant: Tenant) -> Any:
        journal.note_begun(run, tenant.id)
        began = time.perf_counter()
        value = body(tenant)
        # Before this thread begins another: else a kill could leave both in doubt.
        journal.record(run, Outcome(tenant.id, "done", time.perf_counter() - began))
        return value

    def write(outcome: Outcome) -> None:
        if outcome.status != "done":
            journal.record(run, outcome)
        if on_outcome is not None:
            on_outcome(outcome)

    report = each(
        tenancy,
        step,
        tenants=[tenant for tenant in tenants if tenant.id not in left],
        workers=workers,
        on_outcome=write,
        failure_budget=failure_budget,
    )
    report.outcomes[:0] = early
    journal.end(run, "done" if report.ok else "stopped")
    return report


def _of_earlier(tenant_id: str, status: str | None) -> Outcome | None:
    """What is known of a tenant from the run that goes on; ``None``: it is to be worked on."""
    if status == "done":
        return Outcome(tenant_id, "unchanged", value="done by the run before")
    if status == "begun":
        return Outcome(
            tenant_id,
            "failed",
            error="it was worked on when the run before was killed, so whether it is done is in "
            "doubt; look, then run it for this tenant alone if it is not",
        )
    return None
