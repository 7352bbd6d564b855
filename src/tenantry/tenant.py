"""Who a tenant is and where it lives: frozen values, comparable and safe to log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any

from .errors import (
    ConfigurationError,
    TenantDeletedError,
    TenantMovingError,
    TenantNotReadyError,
    TenantryError,
    TenantSuspendedError,
)
from .naming import check_tenant_id

__all__ = ["Isolation", "Placement", "State", "Switch", "Tenant"]


class Isolation(str, Enum):
    """What keeps a tenant apart: an own database, an own schema, or its rows."""

    DATABASE = "database"
    SCHEMA = "schema"
    ROWS = "rows"

    __str__ = str.__str__


class Switch(str, Enum):
    """How a connection is pointed at a tenant's schema (PostgreSQL; elsewhere there is one way).

    ``path``: the search path, set for each transaction in its BEGIN message. ``map``:
    SQLAlchemy's schema translate map, and the path for text, which no map reaches. ``role``: a
    login role of the tenant's own, whose path is set on the server; safe for SQL that the
    tenant's users write. ``connect``: own connections, their path set at connect.
    """

    PATH = "path"
    MAP = "map"
    ROLE = "role"
    CONNECT = "connect"

    __str__ = str.__str__


class State(str, Enum):
    """Where a tenant is in its life. Only ``ready`` and ``read_only`` serve requests."""

    CREATING = "creating"
    READY = "ready"
    SUSPENDED = "suspended"
    READ_ONLY = "read_only"
    MOVING = "moving"
    DELETING = "deleting"
    DELETED = "deleted"

    __str__ = str.__str__


_REFUSALS: Mapping[State, tuple[type[TenantryError], str]] = {
    State.CREATING: (TenantNotReadyError, "is still being created; try again shortly"),
    State.SUSPENDED: (TenantSuspendedError, "is suspended; `tenantry resume` opens it again"),
    State.MOVING: (TenantMovingError, "is being moved; try again shortly"),
    State.DELETING: (TenantDeletedError, "is being deleted"),
    State.DELETED: (TenantDeletedError, "is deleted"),
}
_SERVING = (State.READY, State.READ_ONLY)
_NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Placement:
    """Where a tenant lives. Names are physical and come from the directory, never from a request.

    *server* names a :class:`~tenantry.Server`. *database* is a database name, or for SQLite a
    file name below the server's root; ``None`` means the server's own database. *schema* is
    needed by ``schema`` isolation; with ``rows`` it is where the tables are (``None``: the
    server's usual one). *switch* is how connections are pointed at a schema (``None``: the
    server's way) and *role* the login role for ``Switch.ROLE``.
    """

    server: str
    isolation: Isolation = Isolation.DATABASE
    database: str | None = None
    schema: str | None = None
    switch: Switch | None = None
    role: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "isolation", _isolation(self.isolation))
        if self.switch is not None:
            object.__setattr__(self, "switch", Switch(self.switch))
        if self.switch is Switch.ROLE and not self.role:
            raise ConfigurationError(
                "a placement with switch 'role' needs the login role's name; set role=..."
            )
        if self.isolation is Isolation.SCHEMA and not self.schema:
            raise ConfigurationError(
                "a placement with isolation 'schema' needs the schema's name; set schema=..."
            )

    def __str__(self) -> str:
        place = "/".join(part for part in (self.server, self.database, self.schema) if part)
        return f"{place} ({self.isolation.value})"


def _isolation(value: Isolation | str) -> Isolation:
    try:
        return Isolation(value)
    except ValueError:
        known = ", ".join(repr(each.value) for each in Isolation)
        raise ConfigurationError(f"isolation {value!r} is unknown; use one of {known}") from None


@dataclass(frozen=True)
class Tenant:
    """One tenant: its permanent id, its placement, its state and free attributes.

    *key* is the surrogate key: it never changes and is never used again, so that a tenant
    deleted and created anew under the same id shares nothing with the old one. *generation*
    counts up whenever what was opened before must not be used any more (moved, re-created).
    *attributes* are free strings for the application (plan, region, display name);
    *identifiers* are further names a request may show, domain names for instance.
    *untrusted_sql* says that the tenant's users write SQL of their own.
    """

    id: str
    placement: Placement
    state: State = State.READY
    attributes: Mapping[str, Any] = field(default_factory=lambda: _NO_ATTRIBUTES, hash=False)
    key: str = ""
    generation: int = 1
    identifiers: tuple[str, ...] = ()
    untrusted_sql: bool = False

    def __post_init__(self) -> None:
        check_tenant_id(self.id)
        object.__setattr__(self, "state", State(self.state))
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))
        object.__setattr__(self, "identifiers", tuple(self.identifiers))
        if not self.key:
            object.__setattr__(self, "key", self.id)

    def __str__(self) -> str:
        return self.id

    def __reduce__(self) -> tuple[Callable[..., Tenant], tuple[Any, ...]]:
        return Tenant, (
            self.id,
            self.placement,
            self.state,
            dict(self.attributes),
            self.key,
            self.generation,
            self.identifiers,
            self.untrusted_sql,
        )

    @property
    def stamp(self) -> str:
        """What objects, connections and cache keys of this tenant carry: key and generation."""
        return f"{self.key}.{self.generation}"

    def check_serving(self) -> None:
        """Refuse a tenant that serves no requests now.

        Raises:
            TenantNotReadyError: It is still being created.
            TenantSuspendedError: It is suspended.
            TenantMovingError: It is being moved.
            TenantDeletedError: It is deleted or being deleted.
        """
        if self.state in _SERVING:
            return
        error, words = _REFUSALS[self.state]
        raise error(f"tenant {self.id!r} {words}", tenant_id=self.id)

    def with_state(self, state: State | str) -> Tenant:
        """The same tenant in another state."""
        return replace(self, state=State(state))
