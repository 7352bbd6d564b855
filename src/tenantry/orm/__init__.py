"""Sessions and models: plain SQLAlchemy, pinned to a tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .fan_out import fan_out
from .models import TenantRows, bind_key_of, is_shared, mark_shared, tenant_key
from .session import TenantSession

if TYPE_CHECKING:
    from .asession import AsyncTenantSession

__all__ = [
    "AsyncTenantSession",
    "TenantRows",
    "TenantSession",
    "bind_key_of",
    "fan_out",
    "is_shared",
    "mark_shared",
    "tenant_key",
]


def __getattr__(name: str) -> Any:
    if name != "AsyncTenantSession":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .asession import AsyncTenantSession

    return AsyncTenantSession
