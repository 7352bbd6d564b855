"""Creates and deletes tenants, step by step: each step may be repeated, so any crash is mended.

A tenant is recorded as ``creating`` before anything of it exists, and as ``ready`` when all of
it does; in between no request reaches it. Who creates holds a lock for as long, so
:func:`sweep` can tell what a crash left behind from what is under way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .. import events
from ..directory.base import Directory, WritableDirectory, default_database, lost
from ..directory.cached import CachedDirectory
from ..directory.static import MappingDirectory
from ..errors import (
    CallerError,
    ConfigurationError,
    FleetError,
    ProvisionError,
    TenantryError,
    UnknownTenantError,
)
from ..naming import check_tenant_id, physical_name
from ..servers import Server
from ..tenant import Isolation, Placement, State, Tenant
from .access import Access, Place
from .locks import holding
from .places import drop_place, make_place, place_exists
from .runner import Outcome, Status, describe

if TYPE_CHECKING:
    from ..tenancy import Tenancy

__all__ = ["Step", "create", "delete", "is_durable", "resume", "suspend", "sweep"]

#: One more step of creation, after the place exists: gets the tenancy, the access and the place.
Fill = Callable[["Tenancy", Access, Place], Any]


@dataclass(frozen=True)
class Step(events.Event):
    """A step of fleet work on a tenant: *verb*, *step*, and how it went."""

    verb: str
    step: str
    seconds: float = 0.0
    detail: str = ""


def authority(tenancy: Tenancy) -> Directory:
    """The directory itself, behind any cache: whoever changes must not decide by old news."""
    directory = tenancy.directory
    while isinstance(directory, CachedDirectory):
        directory = directory.inner
    return directory


def is_durable(tenancy: Tenancy) -> bool:
    """Whether what is recorded in this tenancy's directory outlives the process."""
    directory = authority(tenancy)
    return isinstance(directory, WritableDirectory) and not isinstance(directory, MappingDirectory)


def create(
    tenancy: Tenancy,
    tenant_id: str,
    *,
    server: str | None = None,
    isolation: Isolation | str = Isolation.DATABASE,
    database: str | None = None,
    schema: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    identifiers: Sequence[str] = (),
    fill: Sequence[Fill] = (),
    dry_run: bool = False,
    access: Access | None = None,
) -> Outcome:
    """Create a tenant, or finish one whose creation was interrupted; ``unchanged`` if it is whole.

    A tenant that the directory knows already (one from a TOML file) gets the place written
    there. A new one is recorded first, on *server* (``None``: the only one), with *database* or
    *schema* named after its id unless given. *fill* are the further steps, in order: tables,
    rows, what an application needs; each is repeated after a crash, so each must bear that.

    Raises:
        InvalidTenantIdError: *tenant_id* is no tenant id.
        ConfigurationError: The placement is impossible, or the directory takes no new tenant.
        DuplicatePlacementError: The place is taken by another tenant, or by nobody we know.
        ProvisionError: A step failed; the tenant stays ``creating``, and the same call goes on.
    """
    began = time.perf_counter()
    check_tenant_id(tenant_id)
    own = access is None
    access = access or Access(tenancy.servers)
    try:
        known = _known(tenancy, tenant_id)
        while True:
            if known is not None:
                asked = isolation if database or schema else None
                _check_same(known, server, asked, database, schema)
                tenant = known
            else:
                placement = _placement(tenancy, tenant_id, server, isolation, database, schema)
                tenant = Tenant(
                    tenant_id,
                    placement,
                    State.CREATING,
                    attributes or {},
                    identifiers=tuple(identifiers),
                )
            place = access.place(tenant)
            if dry_run:
                return _would_create(tenancy, access, known, tenant, place)
            with holding(access, place, "provision") as got:
                if not got:
                    raise ProvisionError(
                        f"tenant {tenant_id!r} is being created or deleted by another process; "
                        "wait for it",
                        tenant_id=tenant_id,
                    )
                # Recorded only with the lock: a sweep never takes it for a crash's remains.
                known = _known(tenancy, tenant_id)
                if known is not None and access.place(known).key != place.key:
                    continue  # recorded meanwhile, at another place: its lock is the one to hold
                if known is None:
                    _check_new(access, tenant, place)
                    known = _writable(tenancy).add(tenant)
                    _say(known, "create", "record", began)
                place = access.place(known)  # the steps are told the tenant as it is recorded
                whole = _is_whole(access, known, place)
                if not whole:
                    _build(tenancy, access, known, place, fill)
            status: Status = "unchanged" if whole else "done"
            return Outcome(tenant_id, status, time.perf_counter() - began, _plan(known))
    finally:
        if own:
            access.close()


def delete(
    tenancy: Tenancy,
    tenant: str | Tenant,
    *,
    keep_place: bool = False,
    dry_run: bool = False,
    access: Access | None = None,
) -> Outcome:
    """Drop a tenant's database, schema or file, and forget the tenant. May be repeated.

    With *keep_place* only the record goes. A tenant from a TOML file stays in it: take it out
    of the file too.

    Raises:
        UnknownTenantError: There is none.
        UnsupportedError: It lives in rows of shared tables, or in a server's own database.
        ProvisionError: The place could not be dropped; the same call goes on.
    """
    began = time.perf_counter()
    known = authority(tenancy).get(tenant) if isinstance(tenant, str) else tenant
    own = access is None
    access = access or Access(tenancy.servers)
    try:
        place = access.place(known)
        exists = False if keep_place else place_exists(access, place)
        plan = {**_plan(known), "dropped": exists, "forgotten": is_durable(tenancy)}
        if dry_run:
            return Outcome(known.id, "done", value=plan)
        with holding(access, place, "provision", wait_seconds=5.0) as got:
            if not got:
                raise ProvisionError(
                    f"tenant {known.id!r} is being created by another process; wait for it",
                    tenant_id=known.id,
                )
            directory = tenancy.directory
            if isinstance(directory, WritableDirectory):
                # Who waited may come when it is gone, whole after all, or another's with its place.
                if authority(tenancy).get(known.id) != known:
                    raise lost(known)
                if known.state is not State.DELETING:
                    known = directory.replace(known.with_state(State.DELETING), expected=known)
                    _say(known, "delete", "close", began)
            try:
                if not keep_place:
                    drop_place(access, place)
                    _say(known, "delete", "drop", began)
            except TenantryError:
                raise
            except Exception as error:
                raise ProvisionError(
                    f"the place of tenant {known.id!r} could not be dropped "
                    f"({describe(error)}); run `tenantry delete {known.id}` again",
                    tenant_id=known.id,
                ) from error
            if isinstance(directory, WritableDirectory):
                directory.remove(known)
                _say(known, "delete", "forget", began)
        return Outcome(known.id, "done", time.perf_counter() - began, plan)
    finally:
        if own:
            access.close()


def suspend(tenancy: Tenancy, tenant: str | Tenant, *, dry_run: bool = False) -> Outcome:
    """Let a tenant serve no requests any more; its data stays.

    Raises:
        UnknownTenantError: There is none.
        ConfigurationError: The directory cannot record it, or its state does not allow it.
    """
    return _set_state(
        tenancy, tenant, State.SUSPENDED, {State.READY, State.READ_ONLY}, dry_run=dry_run
    )


def resume(tenancy: Tenancy, tenant: str | Tenant, *, dry_run: bool = False) -> Outcome:
    """Let a suspended (or read-only) tenant serve requests again.

    Raises:
        UnknownTenantError: There is none.
        ConfigurationError: The directory cannot record it, or its state does not allow it.
    """
    return _set_state(
        tenancy, tenant, State.READY, {State.SUSPENDED, State.READ_ONLY}, dry_run=dry_run
    )


def sweep(
    tenancy: Tenancy,
    *,
    fill: Sequence[Fill] | None = None,
    dry_run: bool = False,
    access: Access | None = None,
) -> list[Outcome]:
    """Mend what crashes left: finish every deletion, and finish or take back every creation.

    What another process is working on is left alone (``skipped``). With *fill* (the steps that
    :func:`create` was given) creations are finished; with ``None`` they are taken back: the
    place is dropped and the record removed.
    """
    outcomes: list[Outcome] = []
    own = access is None
    access = access or Access(tenancy.servers)
    try:
        for tenant in authority(tenancy).tenants():
            if tenant.state is State.CREATING:
                verb = "create" if fill is not None else "take back"
            elif tenant.state is State.DELETING:
                verb = "delete"
            else:
                continue
            place = access.place(tenant)
            with holding(access, place, "provision") as got:
                pass
            if not got:
                outcomes.append(Outcome(tenant.id, "skipped", error="another process is at it"))
                continue
            if dry_run:
                outcomes.append(Outcome(tenant.id, "done", value={"would": verb}))
                continue
            try:
                if verb == "create":
                    assert fill is not None
                    done = create(tenancy, tenant.id, fill=fill, access=access)
                else:
                    done = delete(tenancy, tenant, access=access)
                outcomes.append(replace(done, value={"swept": verb}))
            except TenantryError as error:
                outcomes.append(
                    Outcome(tenant.id, "failed", error=str(error), error_type=type(error).__name__)
                )
        return outcomes
    finally:
        if own:
            access.close()


def _build(
    tenancy: Tenancy, access: Access, tenant: Tenant, place: Place, fill: Sequence[Fill]
) -> None:
    step = "place"
    began = time.perf_counter()
    try:
        make_place(access, place)
        _say(tenant, "create", step, began)
        for each in fill:
            step = getattr(each, "__name__", type(each).__name__)
            began = time.perf_counter()
            each(tenancy, access, place)
            _say(tenant, "create", step, began)
        step = "open"
        if tenant.state is State.CREATING:
            directory = _writable(tenancy)
            directory.replace(tenant.with_state(State.READY), expected=tenant)
            _say(tenant, "create", step, began)
    except TenantryError:
        raise
    except Exception as error:
        raise ProvisionError(
            f"tenant {tenant.id!r} could not be created: step {step!r} failed "
            f"({describe(error)}); run `tenantry create {tenant.id}` again, or "
            f"`tenantry delete {tenant.id}`",
            tenant_id=tenant.id,
        ) from error


def _known(tenancy: Tenancy, tenant_id: str) -> Tenant | None:
    try:
        return authority(tenancy).get(tenant_id)
    except UnknownTenantError:
        return None


def _writable(tenancy: Tenancy) -> WritableDirectory:
    directory = tenancy.directory
    if isinstance(directory, WritableDirectory):
        return directory
    raise ConfigurationError(
        f"a {type(directory).__name__} records nothing; use a TableDirectory, or write the "
        "tenant where this directory reads it"
    )


def placement_for(
    tenant_id: str,
    server: Server,
    isolation: Isolation,
    *,
    database: str | None = None,
    schema: str | None = None,
    generation: int = 1,
) -> Placement:
    """Where a new tenant goes: names not given are made from its id and generation."""
    if isolation is Isolation.DATABASE:
        database = database or default_database(tenant_id, server, generation)
    elif isolation is Isolation.SCHEMA:
        schema = schema or physical_name(tenant_id, generation=generation)
    return Placement(server.name, isolation, database, schema)


def _placement(
    tenancy: Tenancy,
    tenant_id: str,
    server: str | None,
    isolation: Isolation | str,
    database: str | None,
    schema: str | None,
) -> Placement:
    directory = _writable(tenancy)
    if server is None and len(tenancy.servers) != 1:
        names = ", ".join(sorted(tenancy.servers)) or "none"
        raise CallerError(
            f"say on which server tenant {tenant_id!r} is to live; configured: {names}",
            tenant_id=tenant_id,
        )
    name = server if server is not None else next(iter(tenancy.servers))
    if name not in tenancy.servers:
        names = ", ".join(sorted(tenancy.servers)) or "none"
        raise ConfigurationError(
            f"there is no server {name!r} for tenant {tenant_id!r}; configured: {names}",
            tenant_id=tenant_id,
        )
    return placement_for(
        tenant_id,
        tenancy.servers[name],
        Isolation(isolation),
        database=database,
        schema=schema,
        generation=directory.next_generation(tenant_id),
    )


def _check_new(access: Access, tenant: Tenant, place: Place) -> None:
    """Refuse a place that exists and that nobody recorded: it is somebody else's."""
    if tenant.placement.isolation is not Isolation.ROWS and place_exists(access, place):
        raise ProvisionError(
            f"the place of tenant {tenant.id!r} ({tenant.placement}) exists already, and no "
            "tenant is recorded there; name another, or remove it first",
            tenant_id=tenant.id,
        )


def _is_whole(access: Access, tenant: Tenant, place: Place) -> bool:
    if tenant.state in (State.DELETING, State.DELETED):
        raise ConfigurationError(
            f"tenant {tenant.id!r} is being deleted; finish with `tenantry delete {tenant.id}`",
            tenant_id=tenant.id,
        )
    return tenant.state is not State.CREATING and place_exists(access, place)


def _would_create(
    tenancy: Tenancy, access: Access, known: Tenant | None, tenant: Tenant, place: Place
) -> Outcome:
    if known is None:
        _writable(tenancy)
        _check_new(access, tenant, place)
    elif _is_whole(access, known, place):
        return Outcome(tenant.id, "unchanged", value=_plan(tenant))
    return Outcome(tenant.id, "done", value=_plan(tenant))


def _check_same(
    tenant: Tenant,
    server: str | None,
    isolation: Isolation | str | None,
    database: str | None,
    schema: str | None,
) -> None:
    placement = tenant.placement
    wanted = {
        "server": (server, placement.server),
        "isolation": (None if isolation is None else str(isolation), placement.isolation.value),
        "database": (database, placement.database),
        "schema": (schema, placement.schema),
    }
    for key, (asked, is_now) in wanted.items():
        if asked is not None and asked != is_now:
            raise FleetError(
                f"tenant {tenant.id!r} exists with another {key} ({placement}); "
                "`tenantry move` changes where a tenant lives",
                tenant_id=tenant.id,
            )


def _set_state(
    tenancy: Tenancy,
    tenant: str | Tenant,
    to: State,
    allowed: set[State],
    *,
    dry_run: bool,
) -> Outcome:
    began = time.perf_counter()
    known = authority(tenancy).get(tenant) if isinstance(tenant, str) else tenant
    if known.state is to:
        return Outcome(known.id, "unchanged", value={"state": to.value})
    if known.state not in allowed:
        raise FleetError(
            f"tenant {known.id!r} is {known.state.value}; only one that is "
            f"{' or '.join(sorted(each.value for each in allowed))} becomes {to.value}",
            tenant_id=known.id,
        )
    if not is_durable(tenancy):
        raise ConfigurationError(
            f"the state of tenant {known.id!r} is not recorded by a "
            f"{type(authority(tenancy)).__name__}; write it where that directory reads it, "
            "or use a TableDirectory",
            tenant_id=known.id,
        )
    value = {"state": to.value, "before": known.state.value}
    if not dry_run:
        _writable(tenancy).replace(known.with_state(to), expected=known)
        _say(known, to.value, "state", began)
    return Outcome(known.id, "done", time.perf_counter() - began, value)


def _plan(tenant: Tenant) -> dict[str, Any]:
    placement = tenant.placement
    return {
        key: value
        for key, value in {
            "server": placement.server,
            "isolation": placement.isolation.value,
            "database": placement.database,
            "schema": placement.schema,
        }.items()
        if value is not None
    }


def _say(tenant: Tenant, verb: str, step: str, began: float) -> None:
    if events.listening():
        events.emit(Step(tenant.id, verb, step, time.perf_counter() - began))
