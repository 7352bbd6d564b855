"""The error for a tenant whose place is gone, wherever that is noticed."""

from __future__ import annotations

from ..errors import PlacementMissingError
from ..isolation import Target

__all__ = ["missing_place"]


def missing_place(target: Target) -> PlacementMissingError:
    """The error for a tenant whose database or schema is gone."""
    whom = f"tenant {target.tenant.id!r}" if target.tenant is not None else "the shared place"
    return PlacementMissingError(
        f"the database or schema of {whom} does not exist on server {target.server.name!r}; "
        "`tenantry doctor` compares the directory with the servers",
        tenant_id=target.tenant_id,
    )
