"""``tenantry migrate``, ``status`` and ``revision``: Alembic over every tenant."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from .. import fleet
from ..errors import CallerError, ConfigurationError
from . import render
from .options import (
    Application,
    application_options,
    budget_option,
    chosen,
    dry_run_option,
    json_option,
    pass_application,
    selection_options,
    tenant_options,
    workers_option,
)

__all__ = ["migrate", "revision", "status"]

DEFAULT_JOURNAL = ".tenantry/journal.db"


def config_option(function: Any) -> Any:
    """``--config``: the project's ``alembic.ini``."""
    return click.option(
        "--config",
        metavar="FILE",
        help="alembic.ini, or a folder of revisions; else `alembic` under [tool.tenantry] in "
        "pyproject.toml, alembic.ini, or migrations/.",
    )(function)


def find_config(given: str | None) -> Path:
    """The Alembic project: *given*, named in ``pyproject.toml``, or where it usually is.

    Raises:
        ConfigurationError: There is none.
    """
    if given:
        return Path(given)
    settings, home = fleet.project_settings()
    if "alembic" in settings:
        return home / str(settings["alembic"])
    for candidate in ("alembic.ini", "migrations/alembic.ini"):
        if (home / candidate).is_file():
            return home / candidate
        if Path(candidate).is_file():
            return Path(candidate)
    raise ConfigurationError(
        "there is no Alembic project here; name its alembic.ini with --config, or as `alembic` "
        "under [tool.tenantry] in pyproject.toml"
    )


def find_journal(given: str | None) -> fleet.Journal:
    """The journal: *given*, named in ``pyproject.toml``, or a file in this folder."""
    settings, home = fleet.project_settings()
    named = given or settings.get("journal")
    if named is None:
        named = str(home / DEFAULT_JOURNAL)
    elif not given and "://" not in str(named):
        named = str(home / str(named))
    return fleet.Journal(str(named))


@click.command()
@click.option("--to", "target", metavar="REVISION", help="The revision; else the newest.")
@click.option("--down", is_flag=True, help="Go down to --to, which may be `base`.")
@tenant_options
@config_option
@workers_option
@click.option("--per-server", type=click.IntRange(1), help="At most so many on one server.")
@click.option("--processes", is_flag=True, help="Work in processes, for revisions in Python.")
@click.option("--online", is_flag=True, help="Run every revision live, none as a batch of SQL.")
@click.option(
    "--canary",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Tenants that go first, alone.",
)
@click.option("--wave", type=click.IntRange(1), help="Tenants per wave; else all the rest.")
@budget_option
@click.option(
    "--lock-timeout",
    type=click.FloatRange(0.01),
    default=2.0,
    show_default=True,
    help="Seconds that a statement waits for a table in use.",
)
@click.option(
    "--lock-rounds",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="How often tenants with tables in use are tried again.",
)
@click.option("--journal", metavar="FILE_OR_URL", help="Where is written down what was done.")
@click.option("--pause", is_flag=True, help="Have a running migration begin no further tenant.")
@dry_run_option
@json_option
@application_options
@pass_application
def migrate(
    application: Application,
    /,
    target: str | None,
    down: bool,
    config: str | None,
    workers: int,
    per_server: int | None,
    processes: bool,
    online: bool,
    canary: int,
    wave: int | None,
    failure_budget: int | None,
    lock_timeout: float,
    lock_rounds: int,
    journal: str | None,
    pause: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Bring tenants to a revision; each revision whole or not at all.

    Killed, paused or stopped by a failure, the same command goes on where it ended. Without
    --max-failures one failed tenant stops it.
    """
    if pause:
        asked = fleet.pause(find_journal(journal))
        render.say(f"migrate: {asked} asked to pause; the same command without --pause goes on")
        return
    if down and not target:
        raise CallerError("say how far down: --to REVISION, --to -1 or --to base")
    tenancy = application.tenancy
    known = chosen(application, options)
    scripts = fleet.Scripts(find_config(config))
    settings = fleet.Settings(
        scripts.target(target), down, lock_timeout, lock_rounds, online=online
    )
    with ExitStack() as stack:
        executor: Executor | None = None
        if processes:
            context = multiprocessing.get_context("spawn")
            executor = stack.enter_context(ProcessPoolExecutor(workers, mp_context=context))
        on_outcome = stack.enter_context(render.progress("migrate", len(known), quiet=as_json))
        result = fleet.migrate_tenants(
            tenancy,
            scripts,
            tenants=known,
            settings=settings,
            workers=workers,
            per_server=per_server,
            canary=canary,
            wave=wave,
            failure_budget=failure_budget or 0,
            journal=None if dry_run else stack.enter_context(find_journal(journal)),
            executor=executor,
            source=application.source if processes else None,
            dry_run=dry_run,
            on_outcome=on_outcome,
        )
    if as_json:
        render.report("migrate", result, as_json=True)
        return
    unchanged = len(result.of("unchanged"))
    shown = [each for each in result.outcomes if each.status != "unchanged"]
    if unchanged > 20:
        render.say(f"migrate: {unchanged} tenants stand there already")
    else:
        shown = result.outcomes
    rows = [
        [each.tenant_id, each.status, f"{each.seconds:.2f} s", each.error or _went(each.value)]
        for each in sorted(shown, key=lambda each: each.tenant_id)
    ]
    if rows:
        render.table(["tenant", "status", "took", "revision"], rows)
    render.summary("migrate", result)
    render.finish(result.exit_code)


def _went(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    words = f"{value.get('revision', '')}"
    if value.get("applied"):
        words += f" ({value['applied']} step{'s' if value['applied'] > 1 else ''})"
    if value.get("online"):
        words += f", live: {', '.join(value['online'])}"
    return words


@click.command()
@selection_options
@config_option
@click.option("--to", "target", metavar="REVISION", help="Compare with this; else the newest.")
@click.option("--drift", is_flag=True, help="Also say whose tables are not those of its revision.")
@workers_option
@json_option
@application_options
@pass_application
def status(
    application: Application,
    /,
    drift: bool,
    config: str | None,
    target: str | None,
    workers: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Say where every tenant stands: revision, steps behind, state.

    Asks one set-based query per database where the server can. Ends with 1 if a tenant is
    behind, missing, within a revision, or (with --drift) unlike its revision.
    """
    began = time.perf_counter()
    known = chosen(application, options)
    scripts = fleet.Scripts(find_config(config))
    found = fleet.migration_status(
        application.tenancy, scripts, tenants=known, target=target, workers=workers
    )
    unlike = _unlike(application, scripts, found) if drift else set()
    behind = [
        each
        for each in found
        if each.behind != 0 or each.standing.interrupted or each.tenant.id in unlike
    ]
    if as_json:
        render.document(
            {
                "verb": "status",
                "ok": not behind,
                "heads": list(scripts.heads()),
                "seconds": round(time.perf_counter() - began, 3),
                "tenants": [
                    {
                        "tenant": each.tenant.id,
                        "state": each.tenant.state.value,
                        "revision": each.standing.revision,
                        "behind": each.behind,
                        "interrupted": each.standing.interrupted,
                        "drift": each.tenant.id in unlike if drift else None,
                        "error": each.standing.error,
                    }
                    for each in found
                ],
            }
        )
    else:
        rows = [
            [
                each.tenant.id,
                each.tenant.state.value,
                each.standing.revision,
                "?" if each.behind is None else each.behind,
                _note(each, unlike),
            ]
            for each in found
        ]
        render.table(["tenant", "state", "revision", "behind", "note"], rows)
        render.say(
            f"status: {len(found)} tenants, {len(behind)} not at {', '.join(scripts.heads())}, "
            f"in {time.perf_counter() - began:.2f} s"
        )
    render.finish(1 if behind else 0)


def _note(status_: fleet.MigrationStatus, unlike: set[str]) -> str:
    if status_.standing.error:
        return status_.standing.error
    if status_.standing.interrupted:
        return "within a revision"
    return "drift: see tenantry doctor --drift" if status_.tenant.id in unlike else ""


def _unlike(
    application: Application, scripts: fleet.Scripts, found: list[fleet.MigrationStatus]
) -> set[str]:
    """The ids of tenants that are not built like their revision."""
    whole = [each for each in found if each.standing.heads and not each.standing.interrupted]
    with fleet.Access(application.tenancy.servers, keep=4) as access:
        places = access.places([each.tenant for each in whole])
        standing = {each.tenant.id: each.standing.heads or () for each in whole}
        heads = {place.key: standing[place.name] for place in places}
        keys = fleet.Blueprints(access, scripts).unlike(places, heads)
        return {tenant.id for place in places if place.key in keys for tenant in place.tenants}


@click.command()
@click.option("-m", "--message", required=True, help="What the revision does.")
@click.option("--tenant", metavar="ID", help="The tenant to compare with; else the first ready.")
@click.option("--autogenerate", is_flag=True, help="Write what differs from the models.")
@click.option("--head", default="head", show_default=True, help="The revision to build on.")
@config_option
@application_options
@pass_application
def revision(
    application: Application,
    message: str,
    tenant: str | None,
    autogenerate: bool,
    head: str,
    config: str | None,
) -> None:
    """Write a new revision; with --autogenerate, from what a reference tenant lacks."""
    files = fleet.new_revision(
        application.tenancy,
        find_config(config),
        message,
        tenant=tenant,
        autogenerate=autogenerate,
        head=head,
    )
    for file in files:
        click.echo(file)
