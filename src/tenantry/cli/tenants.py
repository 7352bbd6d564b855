"""``tenantry list``, ``show``, ``create``, ``suspend``, ``resume``, ``delete``, ``sweep``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from .. import fleet
from ..directory import MappingDirectory
from ..errors import CallerError, TenantryError, UnknownTenantError
from ..fleet import (
    Access,
    Outcome,
    Report,
    attempt,
    authority,
    import_named,
    project_settings,
    run_all,
)
from ..orm import TenantSession
from ..tenancy import Tenancy
from ..tenant import Isolation, State, Tenant
from . import render
from .migrations import config_option, find_config
from .options import (
    Application,
    application_options,
    budget_option,
    chosen,
    dry_run_option,
    json_option,
    pairs,
    pass_application,
    selection_options,
    workers_option,
)

__all__ = ["clone", "create", "delete", "list_", "resume", "show", "spares", "suspend", "sweep"]


def as_dict(tenant: Tenant) -> dict[str, Any]:
    """A tenant for JSON."""
    placement = tenant.placement
    return {
        "id": tenant.id,
        "state": tenant.state.value,
        "server": placement.server,
        "isolation": placement.isolation.value,
        "database": placement.database,
        "schema": placement.schema,
        "attributes": dict(tenant.attributes),
        "identifiers": list(tenant.identifiers),
        "key": tenant.key,
        "generation": tenant.generation,
    }


@click.command("list")
@selection_options
@json_option
@application_options
@pass_application
def list_(application: Application, /, as_json: bool, **options: Any) -> None:
    """List tenants: where each lives, and its state.

    TENANTS are ids or globs; without any, all are listed.
    """
    tenants = chosen(application, options)
    if as_json:
        render.document([as_dict(tenant) for tenant in tenants])
        return
    rows = [
        [
            tenant.id,
            tenant.state.value,
            tenant.placement.server,
            tenant.placement.isolation.value,
            tenant.placement.database,
            tenant.placement.schema,
            " ".join(f"{key}={value}" for key, value in sorted(tenant.attributes.items())),
        ]
        for tenant in tenants
    ]
    columns = ["tenant", "state", "server", "isolation", "database", "schema", "attributes"]
    render.table(columns, rows)
    render.say(f"{len(tenants)} tenants")


@click.command()
@click.argument("tenant")
@json_option
@application_options
@pass_application
def show(application: Application, tenant: str, as_json: bool) -> None:
    """Show one tenant and its place.

    TENANT is an id, or another identifier of the tenant such as a host name.
    """
    known = application.tenancy.find(tenant)
    with Access(application.tenancy.servers) as access:
        place = access.place(known)
        try:
            found = "yes" if fleet.place_exists(access, place) else "no"
        except TenantryError as error:
            found = f"unknown: {error}"
    content = {**as_dict(known), "address": place.server.address, "exists": found}
    if as_json:
        render.document(content)
    else:
        rows = [[key, render.brief(value)] for key, value in content.items()]
        render.table(["field", "value"], rows)


@click.command()
@click.argument("tenants", nargs=-1, required=False)
@click.option("--all", "everybody", is_flag=True, help="Every tenant of the directory.")
@click.option("--server", metavar="NAME", help="On which server; the only one by default.")
@click.option(
    "--isolation",
    type=click.Choice([each.value for each in Isolation]),
    default=Isolation.DATABASE.value,
    show_default=True,
    help="What keeps a new tenant apart.",
)
@click.option("--database", metavar="NAME", help="Its database or file; else named by its id.")
@click.option("--schema", metavar="NAME", help="Its schema; else named by its id.")
@click.option(
    "--attribute", "attributes", multiple=True, metavar="KEY=VALUE", help="May be repeated."
)
@click.option(
    "--identifier", "identifiers", multiple=True, metavar="NAME", help="A host name, for instance."
)
@click.option("--empty", is_flag=True, help="Make the place only, without any table.")
@click.option("--spare", is_flag=True, help="Take one from the warm pool, if there is one.")
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    metavar="MODULE:FUNCTION",
    help="Called with a session of each new tenant before it opens; may be repeated.",
)
@config_option
@workers_option
@dry_run_option
@json_option
@application_options
@pass_application
def create(
    application: Application,
    /,
    tenants: tuple[str, ...],
    everybody: bool,
    workers: int,
    dry_run: bool,
    as_json: bool,
    attributes: tuple[str, ...],
    empty: bool,
    spare: bool,
    seeds: tuple[str, ...],
    config: str | None,
    **options: Any,
) -> None:
    """Create tenants, or finish what a crash interrupted.

    A tenant that the directory knows (from a TOML file, for instance) gets the place that is
    written there; a new one is recorded first. Whoever is whole already is left as it is. Where
    there is an Alembic project (--config, or `alembic` under [tool.tenantry]), the tenant gets
    its newest tables from a blueprint and is compared with it before it opens.
    """
    tenancy = application.tenancy
    if everybody == bool(tenants):
        raise CallerError("name the tenants to create, or say --all")
    ids = [each.id for each in authority(tenancy).tenants()] if everybody else list(tenants)
    if (options["database"] or options["schema"]) and len(ids) > 1:
        raise CallerError("--database and --schema are for one tenant at a time")
    if not fleet.is_durable(tenancy):
        for each in ids:
            _must_be_known(application, each)
    given = dict(options, attributes=pairs(attributes))

    with Access(tenancy.servers, keep=workers) as access:
        blueprints = None if empty else _blueprints(access, config)
        fill: list[Any] = [blueprints.filling] if blueprints is not None else []
        fill += [_seed(import_named(name, "the seed")) for name in seeds]

        def step(tenant_id: str) -> Outcome:
            began = time.perf_counter()
            try:
                if spare and blueprints is not None and not dry_run and not seeds:
                    claimed = _claim(tenancy, blueprints, tenant_id, given, began)
                    if claimed is not None:
                        return claimed
                return fleet.create(
                    tenancy, tenant_id, fill=fill, dry_run=dry_run, access=access, **given
                )
            except TenantryError as error:
                if len(ids) == 1:
                    raise
                return _failed(tenant_id, error, began)

        with render.progress("create", len(ids), quiet=as_json) as on_outcome:
            result = run_all(ids, step, workers=workers, on_outcome=on_outcome)
    render.report("create", result, as_json=as_json, detail="place")


def _blueprints(access: Access, config: str | None) -> fleet.Blueprints | None:
    """From the Alembic project, if one is named."""
    if config is None and "alembic" not in project_settings()[0]:
        return None
    return fleet.Blueprints(access, fleet.Scripts(find_config(config)))


def _claim(
    tenancy: Tenancy,
    blueprints: fleet.Blueprints,
    tenant_id: str,
    given: dict[str, Any],
    began: float,
) -> Outcome | None:
    try:
        authority(tenancy).get(tenant_id)
        return None  # known: whatever is missing of it is finished in its own place
    except UnknownTenantError:
        pass
    server = given["server"] or next(iter(tenancy.servers))
    tenant = fleet.claim(
        tenancy,
        blueprints,
        tenant_id,
        server=server,
        isolation=given["isolation"],
        attributes=given["attributes"],
        identifiers=given["identifiers"],
    )
    if tenant is None:
        return None
    value = {"server": server, "spare": tenant.placement.schema or tenant.placement.database}
    return Outcome(tenant_id, "done", time.perf_counter() - began, value)


def _seed(function: Callable[[TenantSession], Any]) -> Callable[..., Any]:
    """*function* as a step of creation: with a session of the tenant, though it is not open yet."""

    def seed(tenancy: Tenancy, _access: Access, place: fleet.Place) -> None:
        # A Tenancy of its own, in which just this tenant is ready: sessions and engine work as
        # always, and nobody else gets in.
        tenant = place.tenants[0].with_state(State.READY)
        alone = Tenancy(MappingDirectory([tenant], servers=tenancy.servers), tenancy.servers)
        try:
            with alone.use(tenant), alone.session() as session:
                function(session)
                session.commit()
        finally:
            alone.close()

    return seed


@click.command()
@click.argument("source")
@click.argument("tenant")
@click.option("--no-rows", is_flag=True, help="Copy how it is built, and no row.")
@click.option("--server", metavar="NAME", help="On which server; that of the source by default.")
@click.option("--attribute", "attributes", multiple=True, metavar="KEY=VALUE")
@dry_run_option
@json_option
@application_options
@pass_application
def clone(
    application: Application,
    source: str,
    tenant: str,
    no_rows: bool,
    server: str | None,
    attributes: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Create TENANT as a copy of SOURCE: built alike, with its rows or without.

    Rows are read in one snapshot; SOURCE serves on. Files, caches and queues are not copied.
    """
    tenancy = application.tenancy
    known = authority(tenancy).get(source)
    if not fleet.is_durable(tenancy):
        _must_be_known(application, tenant)
    began = time.perf_counter()
    with Access(tenancy.servers) as access:
        copy = fleet.copying(access.place(known), rows=not no_rows, keep=("alembic_version",))
        outcome = fleet.create(
            tenancy,
            tenant,
            server=server or (known.placement.server if fleet.is_durable(tenancy) else None),
            isolation=known.placement.isolation,
            attributes={**known.attributes, **pairs(attributes)},
            fill=[copy],
            dry_run=dry_run,
            access=access,
        )
    result = Report([outcome], time.perf_counter() - began)
    render.report("clone", result, as_json=as_json, detail="place")


@click.command()
@click.option("--server", required=True, metavar="NAME", help="On which server.")
@click.option(
    "--isolation",
    type=click.Choice([Isolation.DATABASE.value, Isolation.SCHEMA.value]),
    default=Isolation.DATABASE.value,
    show_default=True,
    help="What the spares are.",
)
@click.option("--count", type=click.IntRange(0), required=True, help="How many shall be ready.")
@config_option
@json_option
@application_options
@pass_application
def spares(
    application: Application,
    server: str,
    isolation: str,
    count: int,
    config: str | None,
    as_json: bool,
) -> None:
    """Keep a warm pool: have so many places ready for ``tenantry create --spare``.

    Spares of an older revision are dropped and made anew.
    """
    tenancy = application.tenancy
    began = time.perf_counter()
    with Access(tenancy.servers, keep=2) as access:
        blueprints = fleet.Blueprints(access, fleet.Scripts(find_config(config)))
        outcomes = fleet.fill_spares(
            tenancy, blueprints, server=server, isolation=isolation, count=count
        )
    result = Report(outcomes, time.perf_counter() - began)
    render.report("spares", result, as_json=as_json)


@click.command()
@click.argument("tenants", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-place", is_flag=True, help="Forget the tenants, but drop nothing.")
@workers_option
@dry_run_option
@json_option
@application_options
@pass_application
def delete(
    application: Application,
    tenants: tuple[str, ...],
    yes: bool,
    keep_place: bool,
    workers: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Drop tenants' databases, schemas or files for good, and forget the tenants.

    TENANTS are ids or globs. Asks before it does, unless --yes. A tenant from a TOML file stays
    in the file: take it out there too.
    """
    tenancy = application.tenancy
    known = fleet.Selection(ids=tenants).of(authority(tenancy).tenants())
    if not yes and not dry_run and known:
        names = ", ".join(each.id for each in known[:10])
        more = f" and {len(known) - 10} more" if len(known) > 10 else ""
        what = "Forget" if keep_place else "Drop all data of"
        if not click.confirm(f"{what} {names}{more}?", err=True):
            raise CallerError("nothing was deleted; say --yes where nobody can be asked")

    with Access(tenancy.servers) as access:

        def step(tenant: Tenant) -> Outcome:
            began = time.perf_counter()
            try:
                return fleet.delete(
                    tenancy, tenant, keep_place=keep_place, dry_run=dry_run, access=access
                )
            except TenantryError as error:
                return _failed(tenant.id, error, began)

        with render.progress("delete", len(known), quiet=as_json) as on_outcome:
            result = run_all(known, step, workers=workers, on_outcome=on_outcome)
    render.report("delete", result, as_json=as_json, detail="place")


def _state_command(verb: str, change: Callable[..., Outcome], help_: str) -> click.Command:
    @click.command(verb, help=help_)
    @selection_options
    @workers_option
    @budget_option
    @dry_run_option
    @json_option
    @application_options
    @pass_application
    def command(
        application: Application,
        /,
        workers: int,
        failure_budget: int | None,
        dry_run: bool,
        as_json: bool,
        **options: Any,
    ) -> None:
        if not any(options.values()):
            raise CallerError(f"name the tenants to {verb}, or select them by an option")
        tenancy = application.tenancy
        known = chosen(application, options)

        def step(tenant: Tenant) -> Outcome:
            def body() -> Any:
                done = change(tenancy, tenant, dry_run=dry_run)
                return done.status, done.value

            return attempt(tenant.id, body)

        with render.progress(verb, len(known), quiet=as_json) as on_outcome:
            result = run_all(
                known,
                step,
                workers=workers,
                failure_budget=failure_budget,
                on_outcome=on_outcome,
            )
        render.report(verb, result, as_json=as_json)

    return command


suspend = _state_command(
    "suspend", fleet.suspend, "Let tenants serve no requests; their data stays."
)
resume = _state_command(
    "resume", fleet.resume, "Let suspended (or read-only) tenants serve requests again."
)


@click.command()
@dry_run_option
@json_option
@application_options
@pass_application
def sweep(application: Application, dry_run: bool, as_json: bool) -> None:
    """Mend what crashes left: finish deletions, take back creations that nobody works on.

    To finish a creation in place of taking it back, run ``tenantry create`` for it again.
    """
    began = time.perf_counter()
    outcomes = fleet.sweep(application.tenancy, dry_run=dry_run)
    result = Report(outcomes, time.perf_counter() - began)
    render.report("sweep", result, as_json=as_json)


def _must_be_known(application: Application, tenant_id: str) -> None:
    try:
        application.tenancy.get(tenant_id)
    except UnknownTenantError as error:
        raise UnknownTenantError(
            f"{error}. This directory is read from a file or the environment: write the tenant "
            "there first, then create its place"
        ) from None


def _failed(tenant_id: str, error: TenantryError, began: float) -> Outcome:
    return Outcome(
        tenant_id,
        "failed",
        time.perf_counter() - began,
        error=" ".join(str(error).split()),
        error_type=type(error).__name__,
    )
