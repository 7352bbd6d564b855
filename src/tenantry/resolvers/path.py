"""A part of the path: ``/uk/orders``."""

from __future__ import annotations

import re
from collections.abc import Collection

from ..errors import ConfigurationError
from .request import Identified, RequestFacts, Resolver

__all__ = ["from_path"]

_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")


def from_path(prefix: str = "", *, ignore: Collection[str] = ()) -> Resolver:
    """``uk`` from ``/uk/orders``, or from ``/t/uk/orders`` when *prefix* is ``/t``.

    The answer tells the ``prefix`` that named the tenant and the ``rest`` of the path, which an
    integration moves into the script name and the path. First parts in *ignore* (``static``)
    say nothing.

    Raises:
        ConfigurationError: *prefix* is no path.
    """
    start = prefix.rstrip("/")
    if _PREFIX.fullmatch(start) is None:
        raise ConfigurationError(f"from_path takes a prefix like '/t', not {prefix!r}")
    start += "/"

    def read(facts: RequestFacts) -> Identified | None:
        if not facts.path.startswith(start):
            return None
        identifier, slash, rest = facts.path[len(start) :].partition("/")
        if not identifier or identifier in ignore:
            return None
        return Identified(identifier, "path", prefix=start + identifier, rest=slash + rest or "/")

    return Resolver("path", read)
