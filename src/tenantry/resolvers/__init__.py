"""Who is asking? From the facts of a request to the identifier of a tenant."""

from .chain import all_agree, first_of
from .claims import from_claim, jwt_claims
from .host import from_domain, from_subdomain
from .params import from_cookie, from_header, from_query, from_session
from .path import from_path
from .request import Identified, RequestFacts, Resolver, Values, resolver

__all__ = [
    "Identified",
    "RequestFacts",
    "Resolver",
    "Values",
    "all_agree",
    "first_of",
    "from_claim",
    "from_cookie",
    "from_domain",
    "from_header",
    "from_path",
    "from_query",
    "from_session",
    "from_subdomain",
    "jwt_claims",
    "resolver",
]
