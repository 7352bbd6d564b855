"""Guest tokens for the host application: who may see which dashboard, of which tenant.

The tenant is the current one, never anything that a browser sent. Tokens are short-lived and
not revocable; the embedded SDK asks the host application for a new one before one expires.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tenantry import require
from tenantry.errors import (
    ConfigurationError,
    MissingDependencyError,
    ServerUnavailableError,
    UnknownTenantError,
)
from tenantry.integrations.superset.account import Account, Steps, asend, http, send
from tenantry.servers import Secret

if TYPE_CHECKING:
    import httpx

AUDIENCE = "http://0.0.0.0:8080/"
"""The audience that Superset expects unless ``GUEST_TOKEN_JWT_AUDIENCE`` says another."""

LIFETIME_SECONDS = 300.0

Rule = str | Mapping[str, Any]


def mint(
    *dashboards: str,
    secret: str | Secret,
    person: str,
    rules: Sequence[Rule] = (),
    audience: str = AUDIENCE,
    lifetime_seconds: float = LIFETIME_SECONDS,
    now: float | None = None,
) -> str:
    """Make a guest token for the current tenant without asking Superset.

    *dashboards* are embedding ids; *secret* is Superset's ``GUEST_TOKEN_JWT_SECRET`` and
    *audience* its ``GUEST_TOKEN_JWT_AUDIENCE``. *person* goes to Superset's logs. *rules* are
    further SQL conditions, or mappings with ``clause`` and ``dataset`` (an id). *now* is in
    seconds since 1970; ``None`` asks the clock.

    Raises:
        NoTenantError: No tenant is current.
        ConfigurationError: No dashboard, an empty person, or a short secret.
        MissingDependencyError: PyJWT is not installed.
    """
    try:
        import jwt
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "making guest tokens needs PyJWT; run `pip install 'tenantry[jwt]'`"
        ) from None
    key = secret.reveal() if isinstance(secret, Secret) else secret
    if len(key.encode()) < 32:  # RFC 7518, 3.2
        raise ConfigurationError("the guest token secret is shorter than 32 bytes")
    issued = time.time() if now is None else now
    asked = _asked(dashboards, person, rules)
    claims = {
        "user": {"username": person, "first_name": person, "last_name": ""},
        "tenant": asked["user"]["tenant"],
        "resources": asked["resources"],
        "rls_rules": asked["rls"],
        "iat": issued,
        "exp": issued + lifetime_seconds,
        "aud": audience,
        "type": "guest",
    }
    return jwt.encode(claims, key, algorithm="HS256")


def _asked(dashboards: Sequence[str], person: str, rules: Sequence[Rule]) -> dict[str, Any]:
    tenant = require()
    if not dashboards:
        raise ConfigurationError("a guest token needs at least one dashboard's embedding id")
    if not person:
        raise ConfigurationError("a guest token needs a person, for Superset's logs")
    return {
        "user": {
            "username": person,
            "first_name": person,
            "last_name": "",
            "tenant": tenant.id,
        },
        "resources": [{"type": "dashboard", "id": str(each)} for each in dashboards],
        "rls": [{"clause": rule} if isinstance(rule, str) else dict(rule) for rule in rules],
    }


class _Tokens:
    def __init__(self, url: str, username: str, password: str | Secret) -> None:
        self._account = Account(url, username, password)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._account!r})"

    def _steps(self, dashboards: Sequence[str], person: str, rules: Sequence[Rule]) -> Steps:
        body = _asked(dashboards, person, rules)
        return self._account.request("POST", "/api/v1/security/guest_token/", json=body)


def _token(response: httpx.Response) -> str:
    if response.status_code == 200:
        token: str = response.json()["token"]
        return token
    if response.status_code == 400:
        tenant = require()
        raise UnknownTenantError(
            f"Superset makes no guest token for tenant {tenant.id!r}; it does not know it, or the "
            "dashboard's embedding id",
            tenant_id=tenant.id,
        )
    if response.status_code in (401, 403):
        raise ConfigurationError(
            "the account may not make guest tokens; give its role `can grant guest token`"
        )
    raise ServerUnavailableError(
        f"Superset made no guest token (HTTP {response.status_code})", server="superset"
    )


class GuestTokens(_Tokens):
    """Asks Superset for guest tokens, in the name of an account that may make them.

    One object serves all threads of a process. The account's role needs ``can grant guest
    token`` and ``can read`` on ``SecurityRestApi``; the secret stays in Superset.
    *timeout_seconds* holds for each request.
    """

    def __init__(
        self, url: str, username: str, password: str | Secret, *, timeout_seconds: float = 10.0
    ) -> None:
        super().__init__(url, username, password)
        self._client: httpx.Client = http().Client(timeout=timeout_seconds)

    def token(self, *dashboards: str, person: str, rules: Sequence[Rule] = ()) -> str:
        """A guest token for the current tenant; the arguments are those of :func:`mint`.

        Raises:
            NoTenantError: No tenant is current.
            UnknownTenantError: Superset does not know the tenant, or the dashboard.
            ConfigurationError: The account may not make tokens.
            ServerUnavailableError: Superset does not answer.
        """
        return _token(send(self._client, self._steps(dashboards, person, rules)))

    def close(self) -> None:
        """Close the connections to Superset."""
        self._client.close()


class AsyncGuestTokens(_Tokens):
    """As :class:`GuestTokens`, for asyncio."""

    def __init__(
        self, url: str, username: str, password: str | Secret, *, timeout_seconds: float = 10.0
    ) -> None:
        super().__init__(url, username, password)
        self._client: httpx.AsyncClient = http().AsyncClient(timeout=timeout_seconds)

    async def token(self, *dashboards: str, person: str, rules: Sequence[Rule] = ()) -> str:
        """See :meth:`GuestTokens.token`."""
        return _token(await asend(self._client, self._steps(dashboards, person, rules)))

    async def aclose(self) -> None:
        """Close the connections to Superset."""
        await self._client.aclose()
