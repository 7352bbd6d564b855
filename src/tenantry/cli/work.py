"""``tenantry run``, ``sql`` and ``shell``: ad-hoc work in tenants."""

from __future__ import annotations

import code
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import click

from .. import fleet
from ..errors import CallerError
from . import render
from .migrations import find_journal
from .options import (
    Application,
    application_options,
    budget_option,
    chosen,
    dry_run_option,
    json_option,
    pass_application,
    tenant_options,
    workers_option,
)

__all__ = ["run", "shell", "sql"]


def _journal_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--resume",
            is_flag=True,
            help="Go on with the same command that was killed, stopped or failed in some tenants.",
        ),
        click.option(
            "--journal", metavar="FILE_OR_URL", help="Where is written down what was done."
        ),
    ):
        function = option(function)
    return function


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("target")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@tenant_options
@workers_option
@budget_option
@_journal_options
@dry_run_option
@json_option
@application_options
@pass_application
def run(
    application: Application,
    /,
    target: str,
    arguments: tuple[str, ...],
    workers: int,
    failure_budget: int | None,
    journal: str | None,
    resume: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Call a function, or run a program, in each tenant.

    TARGET is ``module:function``, which is called with each tenant while that is the current
    one; or a program, run with TENANTRY_TENANT set to the tenant's id and ``{tenant}`` replaced
    by it in its ARGUMENTS. Put ``--`` before a program with options of its own.

    A tenant that was worked on when the command was killed is not touched by --resume: whether
    it is done is in doubt, so it is named.
    """
    tenancy = application.tenancy
    known = chosen(application, options)
    if dry_run:
        skipped = [fleet.Outcome(each.id, "done", value={"would": "run"}) for each in known]
        render.report("run", fleet.Report(skipped), as_json=as_json)
        return
    with (
        find_journal(journal) as written,
        render.progress("run", len(known), quiet=as_json) as on_outcome,
    ):
        work: dict[str, Any] = {
            "journal": written,
            "resume": resume,
            "tenants": known,
            "workers": workers,
            "on_outcome": on_outcome,
            "failure_budget": failure_budget,
        }
        if ":" in target and not arguments:
            result = fleet.call(tenancy, target, around=application.around, **work)
        else:
            result = fleet.run_program(tenancy, [target, *arguments], **work)
    tenancy.close()
    render.report("run", result, as_json=as_json, detail="returned")


@click.command()
@click.argument("statement")
@tenant_options
@click.option(
    "--limit", default=1000, show_default=True, type=click.IntRange(1), help="Rows per tenant."
)
@workers_option
@budget_option
@_journal_options
@dry_run_option
@json_option
@application_options
@pass_application
def sql(
    application: Application,
    /,
    statement: str,
    limit: int,
    workers: int,
    failure_budget: int | None,
    journal: str | None,
    resume: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run one SQL statement in each tenant, in a transaction of its own.

    A single hyphen as STATEMENT reads it from standard input. With --dry-run the transactions
    are rolled back.

    A tenant that was worked on when the command was killed is not touched by --resume: whether
    it is done is in doubt, so it is named.
    """
    tenancy = application.tenancy
    known = chosen(application, options)
    if statement == "-":
        statement = sys.stdin.read()
    if not statement.strip():
        raise CallerError("the statement is empty")
    with (
        nullcontext() if dry_run else find_journal(journal) as written,
        render.progress("sql", len(known), quiet=as_json) as on_outcome,
    ):
        result = fleet.sql(
            tenancy,
            statement,
            tenants=known,
            limit=limit,
            workers=workers,
            dry_run=dry_run,
            on_outcome=on_outcome,
            failure_budget=failure_budget,
            journal=written,
            resume=resume,
        )
    tenancy.close()
    if as_json:
        render.report("sql", result, as_json=True)
        return
    done = sorted(result.of("done"), key=lambda each: each.tenant_id)
    with_rows = [each for each in done if "columns" in each.value]
    if with_rows:
        columns = ["tenant", *with_rows[0].value["columns"]]
        rows = [[each.tenant_id, *row] for each in with_rows for row in each.value["rows"]]
        render.table(columns, rows)
        for each in with_rows:
            if each.value["more"]:
                render.say(f"{each.tenant_id}: more than {limit} rows; raise --limit to see them")
    others = [each for each in result.outcomes if each not in with_rows]
    if others:
        render.report("sql", fleet.Report(others, result.seconds, result.stopped), as_json=False)
    else:
        render.summary("sql", result)
        render.finish(result.exit_code)


@click.command()
@click.argument("tenant")
@click.option("-c", "--command", metavar="CODE", help="Run this and end, in place of a shell.")
@application_options
@pass_application
def shell(application: Application, tenant: str, command: str | None) -> None:
    """A Python shell inside one tenant.

    It knows ``tenancy``, ``tenant``, ``session`` (open, of the tenant) and ``text``.
    """
    from sqlalchemy import text

    tenancy = application.tenancy
    with tenancy.use(tenant) as known, tenancy.session() as session:
        names = {"tenancy": tenancy, "tenant": known, "session": session, "text": text}
        if command is not None:
            exec(compile(command, "<command>", "exec"), names)  # noqa: S102  # what it is for
        elif sys.stdin.isatty():
            code.interact(f"tenant {known.id!r}: session, tenant, tenancy", local=names, exitmsg="")
        else:
            exec(compile(sys.stdin.read(), "<stdin>", "exec"), names)  # noqa: S102
        session.commit()
    tenancy.close()
