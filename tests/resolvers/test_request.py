"""What a resolver reads and answers."""

from __future__ import annotations

import pytest

from tenantry.errors import ConfigurationError, TenantMismatchError
from tenantry.resolvers import Identified, RequestFacts, Resolver, Values, resolver


def test_headers_are_found_whatever_their_case() -> None:
    facts = RequestFacts.of(headers=[("X-Tenant", "uk"), (b"x-tenant", b"aus"), ("Y", "1")])
    assert facts.headers.all("x-TENANT") == ("uk", "aus")
    assert facts.headers.all("missing") == ()


def test_only_ascii_is_folded() -> None:
    facts = RequestFacts.of(headers={"X-\u212aey": "kelvin", "x-key": "ascii"})
    assert facts.headers.all("X-KEY") == ("ascii",)


def test_arguments_and_cookies_are_found_by_exact_name() -> None:
    facts = RequestFacts.of(query={"tenant": ["uk", "aus"], "Tenant": "x"}, cookies={"a": "b"})
    assert facts.query.all("tenant") == ("uk", "aus")
    assert facts.cookies.one("a", "the cookie") == "b"
    assert facts.cookies.one("A", "the cookie") is None


def test_one_value_given_twice_is_one_and_two_are_refused() -> None:
    values = Values([("a", "1"), ("a", "1"), ("b", "1"), ("b", "2"), ("c", "")])
    assert values.one("a", "the argument") == "1"
    assert values.one("c", "the argument") is None
    with pytest.raises(TenantMismatchError, match="argument 'b' 2 different"):
        values.one("b", "the argument")


def test_nothing_is_built_for_a_request_that_nobody_asks() -> None:
    calls = []

    def pairs() -> list[tuple[str, str]]:
        calls.append(1)
        return [("X-Tenant", "uk")]

    facts = RequestFacts.of(headers=pairs)
    assert calls == []
    assert facts.headers.all("x-tenant") == facts.headers.all("X-Tenant") == ("uk",)
    assert calls == [1]


def test_facts_show_no_secrets() -> None:
    facts = RequestFacts.of(
        headers={"Authorization": "hush"},
        cookies={"session": "hush"},
        query={"token": "hush"},
        session={"a": "hush"},
        claims={"a": "hush"},
    )
    assert "hush" not in repr(facts)


def test_any_callable_is_a_resolver() -> None:
    def by_method(facts: RequestFacts) -> str | None:
        return facts.method.lower() if facts.method != "GET" else None

    found = resolver(by_method)
    assert found(RequestFacts()) is None
    assert found(RequestFacts(method="PUT")) == Identified("put", "by_method")
    assert resolver(found) is found
    named = resolver(by_method, name="mine", authenticated=True)
    assert named(RequestFacts(method="PUT")) == Identified("put", "mine", authenticated=True)


def test_an_empty_answer_says_nothing_and_a_strange_one_is_refused() -> None:
    assert Resolver("mine", lambda _: "")(RequestFacts()) is None
    with pytest.raises(ConfigurationError, match=r"'mine' returned a int"):
        Resolver("mine", lambda _: 7)(RequestFacts())  # type: ignore[arg-type, return-value]
