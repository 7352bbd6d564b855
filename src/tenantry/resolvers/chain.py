"""Several resolvers as one, with the rule that a login outranks what a visitor can type."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from ..errors import ConfigurationError, TenantMismatchError
from ..naming import shown
from .request import Answer, Identified, RequestFacts, Resolver, resolver

__all__ = ["all_agree", "first_of"]

Key = Callable[[str], Hashable]


def first_of(*resolvers: Callable[[RequestFacts], Answer], key: Key | None = None) -> Resolver:
    """The first answer, in the order given; but one of a login outranks the others.

    When the login and the first other answer differ, the request is refused. *key* says what is
    compared, when one tenant has several identifiers: ``lambda name: directory.find(name).id``.
    ``None`` compares the identifiers themselves.

    Raises:
        TenantMismatchError: (on a request) The login's tenant is not the one asked for.
    """
    known = _resolvers(resolvers)
    # Whoever may still outrank the others has to be asked, the rest need not.
    last = max((place for place, each in enumerate(known) if each.authenticated), default=-1)

    def read(facts: RequestFacts) -> Identified | None:
        typed: Identified | None = None
        login: Identified | None = None
        for place, each in enumerate(known):
            if typed is not None and place > last:
                break
            answer = each(facts)
            if answer is None:
                continue
            if not answer.authenticated:
                typed = typed or answer
            elif login is None:
                login = answer
            else:
                _compare(login, answer, key)
        if login is not None and typed is not None:
            return _compare(login, typed, key)
        return login or typed

    return Resolver(_name("first of", known), read, last >= 0)


def all_agree(*resolvers: Callable[[RequestFacts], Answer], key: Key | None = None) -> Resolver:
    """The one answer that all resolvers give which answer at all; *key* as in :func:`first_of`.

    Raises:
        TenantMismatchError: (on a request) Two of them differ.
    """
    known = _resolvers(resolvers)

    def read(facts: RequestFacts) -> Identified | None:
        agreed: Identified | None = None
        for each in known:
            answer = each(facts)
            if answer is None:
                continue
            agreed = answer if agreed is None else _compare(agreed, answer, key)
        return agreed

    return Resolver(_name("all of", known), read, any(each.authenticated for each in known))


def _compare(one: Identified, other: Identified, key: Key | None) -> Identified:
    """The answer that counts of two that mean the same tenant, with what the path told."""
    mine: Any = key(one.identifier) if key is not None else one.identifier
    yours: Any = key(other.identifier) if key is not None else other.identifier
    if mine != yours:
        raise TenantMismatchError(
            f"the request names two tenants: {one.source} says {shown(one.identifier)}, "
            f"{other.source} says {shown(other.identifier)}; log in to the one that is asked for"
        )
    first, second = (other, one) if other.authenticated and not one.authenticated else (one, other)
    return Identified(
        first.identifier,
        first.source,
        first.authenticated,
        first.prefix if first.prefix is not None else second.prefix,
        first.rest if first.rest is not None else second.rest,
    )


def _resolvers(given: Sequence[Callable[[RequestFacts], Answer]]) -> tuple[Resolver, ...]:
    if not given:
        raise ConfigurationError("a chain needs at least one resolver")
    return tuple(resolver(each) for each in given)


def _name(word: str, known: Sequence[Resolver]) -> str:
    return f"{word} ({', '.join(each.name for each in known)})"
