"""Whose data may this piece of Superset's work read: a guest's tenant, the staff's, or nobody's.

Reads Flask's ``g`` when asked and keeps nothing, so the answer is right in a request, in a
Celery task and in a streamed download that goes on after its request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from flask import g
from werkzeug.local import LocalProxy

from tenantry import events
from tenantry.directory import Directory
from tenantry.errors import (
    ConfigurationError,
    NoTenantError,
    TenantMismatchError,
    TenantryError,
    UnknownTenantError,
)
from tenantry.naming import shown
from tenantry.servers import Server
from tenantry.tenant import Tenant

CLAIMS = ("tenant", "username")
"""Where a guest token may name its tenant, the first that is present decides."""


def signed_in() -> Any | None:
    """Who Superset thinks this is: a guest, an account, an anonymous visitor, or nobody.

    Two places are read. A streamed export copies ``g`` into a new context after the request
    has ended, where ``g.user`` (a proxy for ``flask_login.current_user``) answers ``None`` and
    only ``g._login_user`` still holds the guest. If either place holds a guest, it is a guest:
    a person is never given more than the token in hand allows.
    """
    try:
        context = g._get_current_object()
    except RuntimeError:  # outside of any application
        return None
    login = context.get("_login_user")
    if is_guest(login):
        return login
    user = _behind(context.get("user"))
    return user if user is not None else login


def is_guest(user: Any) -> bool:
    """Whether *user* came with a guest token."""
    return bool(getattr(user, "is_guest_user", False))


def _behind(user: Any) -> Any | None:
    if isinstance(user, LocalProxy):
        try:
            return user._get_current_object()
        except RuntimeError:  # the proxy has no context to read
            return None
    return user


@dataclass(frozen=True)
class Visitors:
    """Which tenant a visitor of Superset may read.

    *reference* is the tenant that staff accounts read, ``None`` for none at all. *claims* are
    the places of a guest token that may name the tenant: ``"tenant"``, a claim of that name,
    and ``"username"``, the name of the token's user. Safe to call from any thread.
    """

    directory: Directory
    servers: Mapping[str, Server]
    reference: str | None = None
    claims: tuple[str, ...] = CLAIMS

    def of_token(self, token: Mapping[str, Any]) -> Tenant:
        """The tenant that a verified guest token names.

        Raises:
            UnknownTenantError: It names none, or no tenant that exists.
            TenantMismatchError: It was made for an earlier tenant of the same id.
            TenantSuspendedError: And its siblings: the tenant serves no requests.
        """
        person = token.get("user")
        username = person.get("username") if isinstance(person, Mapping) else None
        if username is not None and (type(username) is not str or not username):
            # Superset takes a guest with an empty name for nobody and skips its checks.
            raise UnknownTenantError("the guest token's user has no usable name")
        tenant = self.named(self._claim(token, username))
        key = token.get("tenant_key")
        if key is not None and key != tenant.key:
            raise TenantMismatchError(
                f"the guest token was made for an earlier tenant {tenant.id!r}; ask for a new one",
                tenant_id=tenant.id,
            )
        return tenant

    def _claim(self, token: Mapping[str, Any], username: str | None) -> object:
        if "tenant" in self.claims and "tenant" in token:
            return token["tenant"]
        return username if "username" in self.claims else None

    def named(self, value: object) -> Tenant:
        """The tenant with exactly this id, if it serves requests.

        Raises:
            UnknownTenantError: There is none, or *value* is no string.
            TenantSuspendedError: And its siblings: the tenant serves no requests.
        """
        if type(value) is not str:
            raise UnknownTenantError(f"no tenant {shown(value)}; the guest token names none")
        tenant = self.directory.get(value)
        tenant.check_serving()
        return tenant

    def guest_tenant(self) -> Tenant | None:
        """The tenant of the guest whose work this is; ``None`` if it is no guest's.

        Raises:
            UnknownTenantError: And its siblings: the guest may read nothing.
        """
        user = signed_in()
        if not is_guest(user):
            return None
        token = getattr(user, "guest_token", None)
        if not isinstance(token, Mapping):
            raise UnknownTenantError("the guest has no token")
        return self.of_token(token)

    def tenant(self) -> Tenant:
        """The tenant whose database this piece of work reads. There is no default.

        Raises:
            NoTenantError: Nobody is signed in.
            ConfigurationError: A staff account, and no reference tenant is configured.
            UnknownTenantError: And its siblings: the guest may read nothing.
        """
        try:
            return self._tenant()
        except TenantryError as error:
            if events.listening():
                events.emit(events.Refused(error.tenant_id, type(error).__name__))
            raise

    def _tenant(self) -> Tenant:
        tenant = self.guest_tenant()
        if tenant is not None:
            return tenant
        user = signed_in()
        if user is None or not getattr(user, "is_authenticated", False):
            raise NoTenantError(
                "nobody is signed in, so no tenant's database is read; embed with a guest token"
            )
        if self.reference is None:
            raise ConfigurationError(
                "staff accounts read no tenant until one is chosen for them; "
                "say configure(..., reference='<tenant id>')"
            )
        return self.named(self.reference)

    def scope(self) -> str:
        """What the keys of this piece of work carry in every cache.

        ``t:<id>:<key>.<generation>:`` for a guest; ``s:...`` for staff, who never share entries
        with the guests of the reference tenant; ``-:`` for work that is nobody's.

        Raises:
            UnknownTenantError: And its siblings: the guest may read nothing.
        """
        tenant = self.guest_tenant()
        if tenant is not None:
            return scope_of(tenant)
        user = signed_in()
        if user is None or not getattr(user, "is_authenticated", False):
            return "-:"
        if self.reference is None:
            return "s:-:"
        return _scope("s", self.directory.get(self.reference))

    def template_name(self) -> str:
        """``{{ tenant() }}``: the id of the tenant that is read, for templates."""
        return self.tenant().id


def scope_of(tenant: Tenant) -> str:
    """The part of a cache key that belongs to the guests of *tenant* alone."""
    return _scope("t", tenant)


def _scope(kind: str, tenant: Tenant) -> str:
    return f"{kind}:{tenant.id}:{_quoted(tenant.key)}.{tenant.generation}:"


@lru_cache(maxsize=4096)
def _quoted(key: str) -> str:
    # Without what separates keys or means something in a Redis pattern.
    return quote(key, safe="")
