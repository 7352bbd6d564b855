"""One Apache Superset dashboard, every tenant's own database.

The last line of ``superset_config.py`` calls :func:`configure` with ``globals()``. In the host
application that embeds the dashboard, :class:`GuestTokens` makes the tokens. From outside,
:func:`check` asks a running Superset whether anything leaks, :func:`warm` fills and
:func:`purge` empties one tenant's caches.

Everything here imports under SQLAlchemy 1.4, which Superset pins, and each name brings in only
what it needs itself: a host application needs no Superset, and Superset needs no HTTP client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenantry.integrations.superset.caches import purge
    from tenantry.integrations.superset.config import configure
    from tenantry.integrations.superset.probe import Finding, Report, check
    from tenantry.integrations.superset.tokens import AsyncGuestTokens, GuestTokens, mint
    from tenantry.integrations.superset.visitor import Visitors
    from tenantry.integrations.superset.warm import warm

__all__ = [
    "AsyncGuestTokens",
    "Finding",
    "GuestTokens",
    "Report",
    "Visitors",
    "check",
    "configure",
    "mint",
    "purge",
    "warm",
]

_HOMES = {
    "AsyncGuestTokens": "tokens",
    "Finding": "probe",
    "GuestTokens": "tokens",
    "Report": "probe",
    "Visitors": "visitor",
    "check": "probe",
    "configure": "config",
    "mint": "tokens",
    "purge": "caches",
    "warm": "warm",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
