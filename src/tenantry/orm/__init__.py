"""Sessions and models: plain SQLAlchemy, pinned to a tenant."""

from .models import TenantRows, bind_key_of, is_shared, mark_shared, tenant_key
from .session import AsyncTenantSession, TenantSession

__all__ = [
    "AsyncTenantSession",
    "TenantRows",
    "TenantSession",
    "bind_key_of",
    "is_shared",
    "mark_shared",
    "tenant_key",
]
