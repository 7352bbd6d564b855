"""Sessions and models: plain SQLAlchemy, pinned to a tenant."""

from .models import bind_key_of, is_shared, mark_shared
from .session import AsyncTenantSession, TenantSession

__all__ = ["AsyncTenantSession", "TenantSession", "bind_key_of", "is_shared", "mark_shared"]
