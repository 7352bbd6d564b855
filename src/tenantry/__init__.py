"""One Python backend, many tenants, each request on its own tenant's data.

Values, context, directories and resolvers import under SQLAlchemy 1.4 too; what routes
connections needs SQLAlchemy 2 and is loaded at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import errors, events
from .context import carry, current, in_shared, require, shared, use
from .errors import TenantryError
from .servers import Secret, Server
from .tenant import Isolation, Placement, State, Tenant

if TYPE_CHECKING:
    from .orm import AsyncTenantSession, TenantSession
    from .tenancy import Tenancy

__all__ = [
    "AsyncTenantSession",
    "Isolation",
    "Placement",
    "Secret",
    "Server",
    "State",
    "Tenancy",
    "Tenant",
    "TenantSession",
    "TenantryError",
    "carry",
    "current",
    "errors",
    "events",
    "in_shared",
    "require",
    "shared",
    "use",
]

_NEED_SQLALCHEMY_2 = {
    "Tenancy": "tenancy",
    "TenantSession": "orm",
    "AsyncTenantSession": "orm",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_SQLALCHEMY_2:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    import sqlalchemy

    if sqlalchemy.__version__.startswith("1."):
        raise errors.UnsupportedError(
            f"tenantry.{name} needs SQLAlchemy 2.0 or newer, {sqlalchemy.__version__} is "
            "installed; run `pip install 'sqlalchemy>=2.0'`"
        )
    value = getattr(importlib.import_module(f".{_NEED_SQLALCHEMY_2[name]}", __name__), name)
    globals()[name] = value
    return value
