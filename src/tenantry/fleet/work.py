"""Ad-hoc work in many tenants: a statement, a Python function, a program."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from ..errors import FleetError
from ..tenant import Tenant
from .application import import_named
from .runner import OnOutcome, Report, each

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
) -> Report:
    """Run one statement in each tenant, in a transaction of its own; through the routed engine.

    The value of an outcome is ``{"columns": [...], "rows": [[...]], "more": bool}``, at most
    *limit* rows, or ``{"rowcount": n}``. A colon is only a colon. With *dry_run* the
    transaction is rolled back (DDL on MySQL and MariaDB cannot be, so it is not run at all).
    """

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

    return each(
        tenancy,
        body,
        tenants=list(tenants),
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
    around: Callable[[], AbstractContextManager[object]] | None = None,
) -> Report:
    """Call ``module:function`` (or a callable) with each tenant, that tenant being current.

    *around* gives what each call runs in, such as an application's ``app_context``.
    """
    found = import_named(target, "the function") if isinstance(target, str) else target

    def body(tenant: Tenant) -> Any:
        with around() if around is not None else nullcontext():
            return found(tenant)

    return each(
        tenancy,
        body,
        tenants=list(tenants),
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
) -> Report:
    """Run a program once per tenant: ``TENANTRY_TENANT`` is its id, ``{tenant}`` stands for it.

    An exit status other than 0 is a failure; what it printed is the outcome's value.
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

    return each(
        tenancy,
        body,
        tenants=list(tenants),
        workers=workers,
        on_outcome=on_outcome,
        failure_budget=failure_budget,
    )
