"""``tenantry doctor``: the directory compared with the servers."""

from __future__ import annotations

from typing import Any

import click

from .. import fleet
from . import render
from .migrations import config_option, find_config
from .options import (
    Application,
    application_options,
    chosen,
    find_metadata,
    json_option,
    metadata_option,
    pass_application,
    selection_options,
    workers_option,
)

__all__ = ["doctor"]


@click.command()
@selection_options
@click.option("--drift", is_flag=True, help="Also compare what is in each place with Alembic.")
@click.option("--repair", is_flag=True, help="Mend drift; what is too much is never dropped.")
@metadata_option
@config_option
@workers_option
@json_option
@application_options
@pass_application
def doctor(
    application: Application,
    /,
    drift: bool,
    repair: bool,
    metadata_name: str | None,
    config: str | None,
    workers: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare the directory with the servers.

    Is every tenant's place reachable, no other tenant's, and what it claims to be? The servers
    themselves are asked, so two names of one machine or two links to one file are found. Where
    tenants share tables on PostgreSQL, every known way around row-level security is looked for,
    as `tenantry rows check` does. With --drift each table, column, index, constraint, policy and
    grant is compared with what a new tenant at the same revision has. Ends with 1 if something is
    wrong.
    """
    tenancy = application.tenancy
    selected = any(options.values())
    known = chosen(application, options)
    diagnosis = fleet.diagnose(
        tenancy,
        known,
        workers=workers,
        orphans=not selected,
        metadata=find_metadata(metadata_name),
    )
    if drift or repair:
        sick = {each.tenant_id for each in diagnosis.findings if each.severity == "error"}
        with fleet.Access(tenancy.servers, keep=workers) as access:
            blueprints = fleet.Blueprints(access, fleet.Scripts(find_config(config)))
            whole = [each for each in known if each.id not in sick]
            diagnosis.findings += fleet.drifted(
                tenancy, blueprints, whole, repair=repair, workers=workers
            )
    if as_json:
        render.document(
            {
                "verb": "doctor",
                "ok": diagnosis.ok,
                "tenants": diagnosis.tenants,
                "servers": diagnosis.servers,
                "seconds": round(diagnosis.seconds, 3),
                "findings": [each.as_dict() for each in diagnosis.findings],
            }
        )
        render.finish(diagnosis.exit_code)
        return
    for name, version in sorted(diagnosis.servers.items()):
        render.say(f"server {name}: {version}")
    if diagnosis.findings:
        rows = [
            [each.severity, each.code, each.tenant_id, each.message] for each in diagnosis.findings
        ]
        render.table(["severity", "finding", "tenant", "what"], rows)
        for line in dict.fromkeys(line for each in diagnosis.findings for line in each.repair):
            render.say(f"repair: {line}")
    left_out = "" if drift or repair else "; --drift compares their tables too"
    wrong = sum(each.severity == "error" for each in diagnosis.findings)
    render.say(
        f"doctor: {diagnosis.tenants} tenants, {wrong} errors, "
        f"{len(diagnosis.findings) - wrong} other findings in {diagnosis.seconds:.1f} s{left_out}"
    )
    render.finish(diagnosis.exit_code)
