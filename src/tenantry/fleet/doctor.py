"""Is every tenant where the directory says, alone there, and what it claims to be?

The servers themselves are asked: two names of one machine, or two links to one file, are one
place, whatever the directory says.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection, MetaData, text
from sqlalchemy.exc import SQLAlchemyError

from ..backends import SQLite
from ..backends.places import places_of
from ..errors import PlacementMissingError, TenantryError
from ..tenant import Isolation, State, Tenant
from .access import Access, Place
from .drift import Difference
from .places import names_on
from .rows import audit_tables, row_tables
from .runner import Outcome, Report, Status, attempt, describe, run_all
from .statements import exec_all

if TYPE_CHECKING:
    from ..tenancy import Tenancy
    from .blueprint import Blueprints

__all__ = ["Diagnosis", "Finding", "diagnose", "drifted"]

#: Names of places that belong to nobody on purpose: see spares and blueprints.
KEPT = ("spare_", "scratch_")

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be. *repair* are commands or statements that mend it."""

    code: str
    severity: Severity
    message: str
    tenant_id: str | None = None
    repair: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "code": self.code,
            "severity": self.severity,
            "tenant": self.tenant_id,
            "message": self.message,
            "repair": list(self.repair),
        }


@dataclass
class Diagnosis:
    """What was looked at, and what was found."""

    tenants: int = 0
    findings: list[Finding] = field(default_factory=list)
    servers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing found is an error."""
        return not any(each.severity == "error" for each in self.findings)

    @property
    def exit_code(self) -> int:
        """0: no errors; 1: some."""
        return 0 if self.ok else 1

    def of(self, code: str) -> list[Finding]:
        """The findings with this code."""
        return [each for each in self.findings if each.code == code]


@dataclass(frozen=True)
class _Seen:
    identity: tuple[Any, ...]
    database: str | None
    version: str


def diagnose(
    tenancy: Tenancy,
    tenants: Sequence[Tenant] | None = None,
    *,
    workers: int = 4,
    orphans: bool = True,
    metadata: MetaData | None = None,
) -> Diagnosis:
    """Look at every place of *tenants* (``None``: all), and at the servers they are on.

    Where tenants live in rows of a PostgreSQL, row-level security is looked at as
    :func:`~tenantry.isolation.audit_rows` does, once in each database. *metadata* is that of the
    models; without it a table that no model knows cannot be told from a shared one.

    Codes: ``unreachable``, ``missing``, ``elsewhere`` (another database than claimed),
    ``duplicate``, ``half_created``, ``half_deleted``, ``orphan`` (a note: nobody is recorded
    there), ``rows_`` and a code of the row audit (a way around row-level security is open),
    ``rows_unknown`` (it could not be looked at), ``rows_models`` (a note: no *metadata*).
    """
    began = time.perf_counter()
    everybody = list(tenancy.tenants())
    chosen = everybody if tenants is None else list(tenants)
    diagnosis = Diagnosis(tenants=len(chosen))
    seen: dict[str, _Seen] = {}
    with Access(tenancy.servers, keep=workers) as access:
        report = _look(access, chosen, workers)
        for outcome in report.outcomes:
            if isinstance(outcome.value, _Seen):
                seen[outcome.tenant_id] = outcome.value
        by_id = {tenant.id: tenant for tenant in chosen}
        for outcome in sorted(report.outcomes, key=lambda each: each.tenant_id):
            diagnosis.findings += _of_one(by_id[outcome.tenant_id], outcome)
        diagnosis.findings += _duplicates(chosen, seen)
        for tenant_id, each in seen.items():
            diagnosis.servers.setdefault(by_id[tenant_id].placement.server, each.version)
        diagnosis.findings += _row_security(access, tenancy, chosen, seen, metadata)
        if orphans:
            diagnosis.findings += _orphans(access, tenancy, everybody)
    diagnosis.seconds = time.perf_counter() - began
    return diagnosis


def drifted(
    tenancy: Tenancy,
    blueprints: Blueprints,
    tenants: Sequence[Tenant],
    *,
    repair: bool = False,
    workers: int = 4,
) -> list[Finding]:
    """How tenants differ from what their own revision is built like (codes ``drift``, ``extra``).

    With *repair* what is missing or different is mended, in one transaction per tenant where
    the server takes DDL back; what is there and should not be is never dropped. A finding that
    was mended is a note.
    """
    access = blueprints.access

    def step(tenant: Tenant) -> Outcome:
        place = access.place(tenant)

        def body() -> tuple[Status, list[Finding]]:
            found = blueprints.drift(place)
            mend = [each for each in found if each.what != "extra" and each.repair]
            if repair and mend:
                with access.enter(place, write=True) as connection:
                    exec_all(connection, *(line for each in mend for line in each.repair))
                    connection.commit()
                left = blueprints.drift(place)
                mended = [
                    Finding("mended", "note", f"tenant {tenant.id!r}: {each.words}", tenant.id)
                    for each in mend
                    if each not in left
                ]
                return "done", [*mended, *(_finding(tenant, each) for each in left)]
            return "done", [_finding(tenant, each) for each in found]

        return attempt(tenant.id, body)

    report = run_all(tenants, step, workers=workers)
    findings: list[Finding] = []
    for outcome in sorted(report.outcomes, key=lambda each: each.tenant_id):
        if outcome.status == "failed":
            findings.append(Finding("unknown", "error", outcome.error or "", outcome.tenant_id))
        else:
            findings += outcome.value
    return findings


def _finding(tenant: Tenant, difference: Difference) -> Finding:
    extra = difference.what == "extra"
    return Finding(
        "extra" if extra else "drift",
        "warning" if extra else "error",
        f"tenant {tenant.id!r}: {difference.words}",
        tenant.id,
        difference.repair,
    )


def _look(access: Access, tenants: Iterable[Tenant], workers: int) -> Report:
    def step(tenant: Tenant) -> Outcome:
        try:
            place = access.place(tenant)
            with access.enter(place) as connection:
                return Outcome(tenant.id, "done", value=_ask(connection, place))
        except PlacementMissingError as error:
            return Outcome(tenant.id, "failed", error=describe(error), error_type="missing")
        except Exception as error:
            return Outcome(tenant.id, "failed", error=describe(error), error_type="unreachable")

    return run_all(tenants, step, workers=workers, group=lambda tenant: tenant.placement.server)


def _ask(connection: Connection, place: Place) -> _Seen:
    """Which place this connection is in, as the server knows it."""
    if isinstance(place.backend, SQLite):
        stat = place.file().stat()
        connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar()
        version = str(connection.execute(text("SELECT sqlite_version()")).scalar())
        return _Seen((stat.st_dev, stat.st_ino), place.database, f"SQLite {version}")
    places = places_of(place.backend)
    query = text(places.identity)
    if ":schema" in places.identity:
        query = query.bindparams(schema=place.schema)
    row = connection.execute(query).one()
    if place.schema is not None and row[2] is None:
        raise PlacementMissingError(
            f"the schema of tenant {place.name!r} does not exist; `tenantry create` makes it",
            tenant_id=place.name,
        )
    assert place.backend.current_database is not None
    now = connection.execute(text(place.backend.current_database)).scalar()
    version = str(connection.execute(text("SELECT version()")).scalar())
    return _Seen(tuple(row), now, " ".join(version.split()[:2]))


def _of_one(tenant: Tenant, outcome: Outcome) -> list[Finding]:
    findings = []
    if tenant.state is State.CREATING:
        findings.append(
            Finding(
                "half_created",
                "warning",
                f"tenant {tenant.id!r} is still being created, or was left so by a crash",
                tenant.id,
                (f"tenantry create {tenant.id}", "tenantry sweep"),
            )
        )
    if tenant.state in (State.DELETING, State.DELETED):
        findings.append(
            Finding(
                "half_deleted",
                "warning",
                f"the deletion of tenant {tenant.id!r} was not finished",
                tenant.id,
                (f"tenantry delete {tenant.id}",),
            )
        )
    if outcome.status == "failed":
        if not findings:
            missing = outcome.error_type == "missing"
            findings.append(
                Finding(
                    "missing" if missing else "unreachable",
                    "error",
                    outcome.error or "",
                    tenant.id,
                    (f"tenantry create {tenant.id}",) if missing else (),
                )
            )
        return findings
    seen: _Seen = outcome.value
    wanted = tenant.placement.database
    if wanted is not None and seen.database != wanted:
        findings.append(
            Finding(
                "elsewhere",
                "error",
                f"tenant {tenant.id!r} claims database {wanted!r}, but connections to it are in "
                f"{seen.database!r}: something between redirects them",
                tenant.id,
            )
        )
    return findings


def _duplicates(tenants: Iterable[Tenant], seen: dict[str, _Seen]) -> list[Finding]:
    findings = []
    first: dict[tuple[Any, ...], Tenant] = {}
    for tenant in tenants:
        if tenant.id not in seen:
            continue
        other = first.setdefault(seen[tenant.id].identity, tenant)
        if other is tenant or _share_rows(tenant, other):
            continue
        findings.append(
            Finding(
                "duplicate",
                "error",
                f"tenants {other.id!r} and {tenant.id!r} live in one place: {other.placement} "
                f"and {tenant.placement} are the same to their server; each sees the other's data",
                tenant.id,
            )
        )
    return findings


def _share_rows(one: Tenant, other: Tenant) -> bool:
    return one.placement.isolation is other.placement.isolation is Isolation.ROWS


def _row_security(
    access: Access,
    tenancy: Tenancy,
    tenants: Iterable[Tenant],
    seen: dict[str, _Seen],
    metadata: MetaData | None,
) -> list[Finding]:
    """Ways around row-level security that are open, where its tenants could be reached."""
    findings = []
    reached = [tenant for tenant in tenants if tenant.id in seen]
    for tables in row_tables(reached, tenancy.servers):
        try:
            found = audit_tables(access, tables, metadata)
        except (SQLAlchemyError, TenantryError) as error:
            words = f"row-level security of {tables} could not be looked at: {describe(error)}"
            findings.append(Finding("rows_unknown", "error", words))
            continue
        for each in found:
            words = f"{tables}: {each.message}"
            findings.append(Finding(f"rows_{each.code}", "error", words, repair=(each.repair,)))
        if metadata is None:
            findings.append(
                Finding(
                    "rows_models",
                    "note",
                    f"{tables}: forgotten and missing tables are found with the models' metadata "
                    "only; give it with --metadata or as `metadata` under [tool.tenantry]",
                )
            )
    return findings


def _orphans(access: Access, tenancy: Tenancy, tenants: Iterable[Tenant]) -> list[Finding]:
    """Databases and files on the tenants' servers that nobody is recorded for."""
    findings = []
    for name, server in tenancy.servers.items():
        here = [tenant for tenant in tenants if tenant.placement.server == name]
        claimed = {access.place(tenant).database for tenant in here}
        claimed.add(server.url.database)
        shared = tenancy._router.shared
        if shared is not None and shared.server == name:
            claimed.add(shared.database)
        try:
            found = names_on(access, server)
        except TenantryError:
            continue  # reported with its tenants
        for database in found:
            if database not in claimed and not database.startswith(KEPT):
                findings.append(
                    Finding(
                        "orphan",
                        "note",
                        f"{database!r} on server {name!r} belongs to no recorded tenant",
                    )
                )
    return findings
