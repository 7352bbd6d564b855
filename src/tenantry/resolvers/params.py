"""What a visitor can type: a header, an argument, a cookie; and what the session remembers."""

from __future__ import annotations

from ..errors import InvalidTenantIdError
from ..naming import shown
from .request import RequestFacts, Resolver

__all__ = ["from_cookie", "from_header", "from_query", "from_session"]


def from_header(name: str = "X-Tenant") -> Resolver:
    """The header *name*, whatever its case. Repeated with different values it is refused (403)."""

    def read(facts: RequestFacts) -> str | None:
        return facts.headers.one(name, "the header")

    return Resolver(f"header {name}", read)


def from_query(name: str = "tenant") -> Resolver:
    """The argument ``?tenant=uk``. Repeated with different values it is refused (403)."""

    def read(facts: RequestFacts) -> str | None:
        return facts.query.one(name, "the argument")

    return Resolver(f"query {name}", read)


def from_cookie(name: str = "tenant") -> Resolver:
    """The cookie *name*. Repeated with different values it is refused (403)."""

    def read(facts: RequestFacts) -> str | None:
        return facts.cookies.one(name, "the cookie")

    return Resolver(f"cookie {name}", read)


def from_session(name: str = "tenant", *, authenticated: bool = False) -> Resolver:
    """What the framework's session holds under *name*.

    Say *authenticated* when only a login writes it there, and never what a visitor typed; then it
    outranks the rest as a claim does.
    """

    def read(facts: RequestFacts) -> str | None:
        value = facts.session.get(name)
        if value is None or isinstance(value, str):
            return value
        raise InvalidTenantIdError(
            f"the session holds {shown(type(value).__name__)} under {name!r}, not a tenant's name"
        )

    return Resolver(f"session {name}", read, authenticated)
