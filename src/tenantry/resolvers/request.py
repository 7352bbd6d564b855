"""What a resolver reads, what it answers, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError, TenantMismatchError
from ..naming import shown

__all__ = ["Identified", "RequestFacts", "Resolver", "Values", "resolver"]

Text = str | bytes
Pairs = Iterable[tuple[Text, Text]] | Mapping[str, str | Iterable[str]]


class Values:
    """Names with one or more values each: the headers, arguments or cookies of a request.

    *source* is pairs, a mapping (a value may be a list), or a function that returns one of both
    and is called at the first look, so that nothing is built for a request that nobody asks.
    Bytes are read as Latin-1, as WSGI does (PEP 3333). With *fold_case* names are found whatever
    their case, as those of headers are (RFC 9110, 5.1).
    """

    __slots__ = ("_fold", "_found", "_source")

    def __init__(
        self, source: Pairs | Callable[[], Pairs] = (), *, fold_case: bool = False
    ) -> None:
        self._source = source
        self._fold = fold_case
        self._found: dict[str, tuple[str, ...]] | None = None

    def all(self, name: str) -> tuple[str, ...]:
        """Every value of *name*, in order; empty if there is none."""
        if self._found is None:
            self._found = self._read()
        return self._found.get(_folded(name) if self._fold else name, ())

    def one(self, name: str, what: str) -> str | None:
        """The value of *name*; ``None`` if there is none or it is empty.

        Raises:
            TenantMismatchError: It is given more than once with different values; *what* says
                where. Which of them counts would differ from one program to the next.
        """
        values = set(self.all(name))
        if len(values) > 1:
            raise TenantMismatchError(
                f"the request gives {what} {shown(name)} {len(values)} different values; send one"
            )
        return next(iter(values), None) or None

    def _read(self) -> dict[str, tuple[str, ...]]:
        source = self._source() if callable(self._source) else self._source
        found: dict[str, list[str]] = {}
        for name, value in _pairs(source):
            found.setdefault(_folded(name) if self._fold else name, []).append(value)
        return {name: tuple(values) for name, values in found.items()}

    def __repr__(self) -> str:
        return "<Values>"  # headers and cookies hold secrets


def _pairs(source: Pairs) -> Iterator[tuple[str, str]]:
    if isinstance(source, Mapping):
        for name, value in source.items():
            for each in [value] if isinstance(value, (str, bytes)) else value:
                yield _text(name), _text(each)
    else:
        for name, each in source:
            yield _text(name), _text(each)


def _text(value: Text) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _folded(name: str) -> str:
    # Only ASCII is folded: "K".lower() of the Kelvin sign would make two names one.
    return name.lower() if name.isascii() else name


def _headers(source: Any) -> Any:
    return source if isinstance(source, Values) else Values(source, fold_case=True)


_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class RequestFacts:
    """What a request shows, in the terms of no framework; integrations build it.

    *host* is the Host header as it came, with its port if one was given; *path* is decoded;
    *client* is the address of the machine that connected, ``None`` if unknown. *session* is the
    framework's own mapping. *claims* are those of a token or login that was **verified** already.
    *headers*, *query* and *cookies* take whatever :class:`Values` takes.
    """

    method: str = "GET"
    scheme: str = "http"
    host: str = ""
    path: str = "/"
    headers: Values = field(default_factory=Values)
    query: Values = field(default_factory=Values)
    cookies: Values = field(default_factory=Values)
    session: Mapping[str, Any] = field(default_factory=lambda: _NOTHING, repr=False)
    claims: Mapping[str, Any] = field(default_factory=lambda: _NOTHING, repr=False)
    client: str | None = None

    @classmethod
    def of(
        cls,
        *,
        headers: Pairs | Callable[[], Pairs] = (),
        query: Pairs | Callable[[], Pairs] = (),
        cookies: Pairs | Callable[[], Pairs] = (),
        **facts: Any,
    ) -> RequestFacts:
        """Facts from plain pairs or mappings, wrapped into :class:`Values`."""
        return cls(
            headers=Values(headers, fold_case=True),
            query=Values(query),
            cookies=Values(cookies),
            **facts,
        )


@dataclass(frozen=True)
class Identified:
    """What a resolver answers: the *identifier*, and the *source* that showed it.

    *authenticated* says that the visitor could not simply type it. For a path, *prefix* is the
    part that named the tenant (``/uk``) and *rest* the path below it; ``None`` for other sources.
    """

    identifier: str
    source: str
    authenticated: bool = False
    prefix: str | None = None
    rest: str | None = None


Answer = Identified | str | None


@dataclass(frozen=True)
class Resolver:
    """A named function from request facts to an identifier; ``None`` if they say nothing.

    *authenticated* marks what the visitor cannot simply type. Calling one never fails on
    anything that a request may hold, other than with an error of ours.
    """

    name: str
    read: Callable[[RequestFacts], Answer] = field(repr=False)
    authenticated: bool = False

    def __call__(self, facts: RequestFacts) -> Identified | None:
        """The identifier that the request shows, or ``None``.

        Raises:
            VisitorError: The request contradicts itself, or shows a bad token.
            ConfigurationError: The function returned something that is no identifier.
        """
        answer = self.read(facts)
        if answer is None or isinstance(answer, Identified):
            return answer
        if not isinstance(answer, str):
            raise ConfigurationError(
                f"the resolver {self.name!r} returned a {type(answer).__name__}; "
                "return a string, or None if the request says nothing"
            )
        return Identified(answer, self.name, self.authenticated) if answer else None


def resolver(
    function: Callable[[RequestFacts], Answer],
    *,
    name: str | None = None,
    authenticated: bool = False,
) -> Resolver:
    """Any callable as a resolver. *name* is what an app shows; ``None`` takes the function's."""
    if isinstance(function, Resolver):
        return function
    own = getattr(function, "__name__", type(function).__name__)
    return Resolver(name or own, function, authenticated)
