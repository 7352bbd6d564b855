"""The door for asyncio, loaded when somebody opens it: SQLAlchemy's needs greenlet."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import MissingDependencyError

if find_spec("greenlet") is None:
    raise MissingDependencyError(
        "asyncio needs greenlet, which is not installed; run `pip install 'tenantry[asyncio]'`"
    )

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ..tenant import Tenant
from .session import TenantSession

__all__ = ["AsyncEngine", "AsyncTenantSession"]


class AsyncTenantSession(AsyncSession):
    """SQLAlchemy's AsyncSession over a :class:`TenantSession`."""

    sync_session_class = TenantSession

    @property
    def tenant(self) -> Tenant | None:
        """The session's tenant; ``None`` for a session of the shared place."""
        session = self.sync_session
        assert isinstance(session, TenantSession)
        return session.tenant
