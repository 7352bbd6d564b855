"""EVERY TENANT: one step, run over many. What the command line does, as typed functions."""

from .access import Access, Place
from .application import Source, find_source, project_settings
from .doctor import Diagnosis, Finding, diagnose
from .places import drop_place, make_place, place_exists
from .provision import Step, create, delete, is_durable, resume, suspend, sweep
from .runner import Outcome, Report, each, map_tenants, run_all
from .selection import Selection
from .work import call, run_program, sql

__all__ = [
    "Access",
    "Diagnosis",
    "Finding",
    "Outcome",
    "Place",
    "Report",
    "Selection",
    "Source",
    "Step",
    "call",
    "create",
    "delete",
    "diagnose",
    "drop_place",
    "each",
    "find_source",
    "is_durable",
    "make_place",
    "map_tenants",
    "place_exists",
    "project_settings",
    "resume",
    "run_all",
    "run_program",
    "sql",
    "suspend",
    "sweep",
]
