"""EVERY TENANT: one step, run over many. What the command line does, as typed functions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError
from .access import Access, Place
from .application import Source, find_source, import_named, project_settings
from .clone import copying
from .doctor import Diagnosis, Finding, diagnose, drifted
from .journal import Journal, Run
from .places import drop_place, make_place, place_exists
from .provision import Fill, Step, authority, create, delete, is_durable, resume, suspend, sweep
from .rows import RowTables, audit_tables, row_tables
from .runner import OnOutcome, Outcome, Report, attempt, each, map_tenants, run_all
from .selection import Selection
from .work import call, run_program, sql

if TYPE_CHECKING:
    from .blueprint import Blueprint, Blueprints
    from .migrate import Scripts, new_revision
    from .rollout import MigrationStatus, Settings, migrate_tenants, migration_status, pause
    from .spares import claim, fill_spares

__all__ = [
    "Access",
    "Blueprint",
    "Blueprints",
    "Diagnosis",
    "Fill",
    "Finding",
    "Journal",
    "MigrationStatus",
    "OnOutcome",
    "Outcome",
    "Place",
    "Report",
    "RowTables",
    "Run",
    "Scripts",
    "Selection",
    "Settings",
    "Source",
    "Step",
    "attempt",
    "audit_tables",
    "authority",
    "call",
    "claim",
    "copying",
    "create",
    "delete",
    "diagnose",
    "drifted",
    "drop_place",
    "each",
    "fill_spares",
    "find_source",
    "import_named",
    "is_durable",
    "make_place",
    "map_tenants",
    "migrate_tenants",
    "migration_status",
    "new_revision",
    "pause",
    "place_exists",
    "project_settings",
    "resume",
    "row_tables",
    "run_all",
    "run_program",
    "sql",
    "suspend",
    "sweep",
]

_NEED_ALEMBIC = {
    "Blueprint": "blueprint",
    "Blueprints": "blueprint",
    "claim": "spares",
    "fill_spares": "spares",
    "MigrationStatus": "rollout",
    "Scripts": "migrate",
    "Settings": "rollout",
    "migrate_tenants": "rollout",
    "migration_status": "rollout",
    "new_revision": "migrate",
    "pause": "rollout",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_ALEMBIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f".{_NEED_ALEMBIC[name]}", __name__)
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("alembic"):
            raise
        raise MissingDependencyError(
            "migrations need Alembic; run `pip install 'tenantry[alembic]'`"
        ) from None
    value = globals()[name] = getattr(module, name)
    return value
