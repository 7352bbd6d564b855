"""The claims of a login: over what the application verified, or by verifying a token here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import (
    ConfigurationError,
    InvalidTenantIdError,
    InvalidTokenError,
    MissingDependencyError,
    OperatorError,
)
from ..naming import shown
from .request import RequestFacts, Resolver

__all__ = ["from_claim", "jwt_claims"]

Claims = Mapping[str, Any]
Verifier = Callable[[RequestFacts], Claims]
Key = str | bytes | Callable[[str], Any]

_SYMMETRIC = frozenset({"HS256", "HS384", "HS512"})
_ASYMMETRIC = frozenset(
    "RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES256K ES384 ES512 EdDSA".split()  # noqa: SIM905
)


def from_claim(name: str | Sequence[str] = "tenant", *, verify: Verifier | None = None) -> Resolver:
    """The claim *name* of an authenticated visitor; a sequence leads into nested claims.

    Without *verify* the facts' own ``claims`` are read, which the application filled after it
    verified them. A claim that is there but is no text is refused: falling through to what the
    visitor typed would let a broken token choose freely.

    Raises:
        InvalidTokenError: (on a request) *verify* refused the token.
        InvalidTenantIdError: (on a request) The claim is not a text.
    """
    names = (name,) if isinstance(name, str) else tuple(name)

    def read(facts: RequestFacts) -> str | None:
        value: Any = verify(facts) if verify is not None else facts.claims
        for each in names:
            if value is None:
                return None
            if not isinstance(value, Mapping):
                raise _no_text(names, value)
            value = value.get(each)
        if value is None:
            return None
        if not isinstance(value, str) or not value:
            raise _no_text(names, value)
        return value

    return Resolver(f"claim {'.'.join(names)}", read, authenticated=True)


def _no_text(names: tuple[str, ...], value: object) -> InvalidTenantIdError:
    return InvalidTenantIdError(
        f"the claim {shown('.'.join(names))} holds a {type(value).__name__}, not a tenant's name"
    )


def jwt_claims(
    key: Key,
    *,
    algorithms: Sequence[str],
    audience: str | Sequence[str],
    issuer: str | None = None,
    header: str = "Authorization",
    cookie: str | None = None,
    leeway_seconds: float = 0,
) -> Verifier:
    """A verifier for :func:`from_claim`: the claims of a signed JSON Web Token.

    Checked are signature, audience, expiry (which must be there), not-before, and issuer if
    given. Only the *algorithms* named here count, whatever the token's own header says. *key* is
    the secret or the public key, or a function from the token to its key (for a key set:
    ``lambda token: jwks_client.get_signing_key_from_jwt(token).key``). The token is read from
    ``Authorization: Bearer``, or from *cookie*. A request without a token has no claims.

    Raises:
        MissingDependencyError: PyJWT is not installed.
        ConfigurationError: An algorithm is unknown or ``none``, or symmetric and asymmetric ones
            are mixed: then a public key would do as a secret.
        InvalidTokenError: (on a request) The token is not valid.
        OperatorError: (on a request) A function as key could not fetch the key set.
    """
    try:
        jwt = importlib.import_module("jwt")
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "verifying a token needs PyJWT; run `pip install 'tenantry[jwt]'`"
        ) from None
    allowed = _algorithms(algorithms)
    audiences = [audience] if isinstance(audience, str) else list(audience)
    if not audiences or not all(audiences):
        raise ConfigurationError("jwt_claims needs the audience that tokens for this app carry")
    if not jwt.algorithms.has_crypto and not _SYMMETRIC.issuperset(allowed):
        raise MissingDependencyError(
            "signatures with a public key need cryptography; run `pip install 'pyjwt[crypto]'`"
        )
    options: dict[str, Any] = {
        "algorithms": allowed,
        "audience": audiences,
        "issuer": issuer,
        "leeway": leeway_seconds,
        "options": {"require": ["exp"]},
    }
    return _Verifier(jwt, key, options, header, cookie)


class _Verifier:
    """Not a closure: an error's frame would show its variables, and the key is one of them."""

    __slots__ = ("_cookie", "_header", "_jwt", "_key", "_options")

    def __init__(
        self, jwt: Any, key: Key, options: dict[str, Any], header: str, cookie: str | None
    ) -> None:
        self._jwt = jwt
        self._key = key
        self._options = options
        self._header = header
        self._cookie = cookie

    def __call__(self, facts: RequestFacts) -> Claims:
        token = _token(facts, self._header, self._cookie)
        if token is None:
            return {}
        problem = "it cannot be read"
        away = False
        try:
            key = self._key(token) if callable(self._key) else self._key
            claims: Claims = self._jwt.decode(token, key, **self._options)
            return claims
        except self._jwt.PyJWTError as error:
            problem = _PROBLEMS.get(type(error).__name__, problem)
            away = type(error).__name__ == "PyJWKClientConnectionError"
        except (ValueError, TypeError, OverflowError, RecursionError):
            pass  # what a hostile token makes of a parser
        # Raised out here, without what it came from: PyJWT's frames hold the key.
        token = key = None
        if away:
            raise OperatorError("the keys that tokens are checked with cannot be fetched")
        raise InvalidTokenError(f"the token of the request is not valid: {problem}; log in again")


_PROBLEMS = {
    "ExpiredSignatureError": "it has expired",
    "ImmatureSignatureError": "it is not valid yet",
    "InvalidAlgorithmError": "its algorithm is not allowed",
    "InvalidAudienceError": "it is meant for another audience",
    "InvalidIssuerError": "it is from another issuer",
    "InvalidSignatureError": "its signature is wrong",
    "MissingRequiredClaimError": "a claim that it must carry is missing",
}


def _algorithms(algorithms: Sequence[str]) -> list[str]:
    allowed = [algorithms] if isinstance(algorithms, str) else list(algorithms)
    for each in allowed:
        if each not in _SYMMETRIC and each not in _ASYMMETRIC:
            raise ConfigurationError(
                f"the token algorithm {shown(each)} is not one of "
                f"{', '.join(sorted(_SYMMETRIC | _ASYMMETRIC))}"
            )
    kinds = {each in _SYMMETRIC for each in allowed}
    if len(kinds) != 1:
        raise ConfigurationError(
            "name the token algorithms of one kind: either HS256 and its like, or signatures with "
            "a public key; with both, the public key would pass as a secret"
        )
    return allowed


def _token(facts: RequestFacts, header: str, cookie: str | None) -> str | None:
    value = facts.headers.one(header, "the header")
    if value is not None:
        kind, _, token = value.strip().partition(" ")
        if header.lower() != "authorization":
            return value.strip()
        if kind.lower() == "bearer":
            return token.strip()
    return facts.cookies.one(cookie, "the cookie") if cookie is not None else None
