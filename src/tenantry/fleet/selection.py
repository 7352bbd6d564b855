"""Which tenants a command means: by id or glob, state, server, isolation and attribute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType

from ..directory.base import unknown
from ..tenant import Isolation, State, Tenant

__all__ = ["Selection"]

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Selection:
    """Conditions that a tenant must all meet; an empty one leaves everybody in.

    *ids* are ids or globs (``eu-*``, ``shop-[0-9]``). *attributes* are compared as text.
    """

    ids: tuple[str, ...] = ()
    states: tuple[State, ...] = ()
    servers: tuple[str, ...] = ()
    isolations: tuple[Isolation, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=lambda: _NOTHING, hash=False)

    def of(self, tenants: Iterable[Tenant]) -> list[Tenant]:
        """Those of *tenants* that are meant, in their order.

        Raises:
            UnknownTenantError: An id that is no glob names none of them.
        """
        known = list(tenants)
        names = {tenant.id for tenant in known}
        for wanted in self.ids:
            if not _is_glob(wanted) and wanted not in names:
                raise unknown(wanted)
        return [tenant for tenant in known if self.matches(tenant)]

    def matches(self, tenant: Tenant) -> bool:
        """Whether *tenant* is meant."""
        placement = tenant.placement
        return (
            (not self.ids or any(fnmatchcase(tenant.id, each) for each in self.ids))
            and (not self.states or tenant.state in self.states)
            and (not self.servers or any(fnmatchcase(placement.server, s) for s in self.servers))
            and (not self.isolations or placement.isolation in self.isolations)
            and all(
                key in tenant.attributes and str(tenant.attributes[key]) == value
                for key, value in self.attributes.items()
            )
        )


def _is_glob(text: str) -> bool:
    return any(each in text for each in "*?[")
