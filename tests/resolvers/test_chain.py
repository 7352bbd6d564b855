"""Several sources: which one counts, and when they may not differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tenantry.errors import ConfigurationError, TenantMismatchError
from tenantry.resolvers import (
    Identified,
    RequestFacts,
    all_agree,
    first_of,
    from_claim,
    from_header,
    from_path,
    from_query,
    from_subdomain,
    resolver,
)


def facts(**values: Any) -> RequestFacts:
    claims = {"tenant": values.pop("claim")} if "claim" in values else {}
    headers = {"X-Tenant": values.pop("header")} if "header" in values else {}
    query = {"tenant": values.pop("query")} if "query" in values else {}
    return RequestFacts.of(claims=claims, headers=headers, query=query, **values)


TYPED_FIRST = first_of(from_query(), from_header(), from_claim())
CLAIM_FIRST = first_of(from_claim(), from_query(), from_header())


def test_the_first_answer_counts_and_says_why() -> None:
    for chain in (TYPED_FIRST, CLAIM_FIRST):
        assert chain(facts()) is None
        assert chain(facts(header="uk")) == Identified("uk", "header X-Tenant")
        assert chain(facts(header="uk", query="aus")) == Identified("aus", "query tenant")


def test_a_login_outranks_what_is_typed_wherever_it_stands() -> None:
    for chain in (TYPED_FIRST, CLAIM_FIRST):
        login = Identified("uk", "claim tenant", authenticated=True)
        assert chain(facts(claim="uk")) == login
        assert chain(facts(claim="uk", query="uk")) == login
        for other in ({"query": "aus"}, {"header": "aus"}):
            with pytest.raises(TenantMismatchError, match="names two tenants"):
                chain(facts(claim="uk", **other))


def test_two_logins_must_agree() -> None:
    chain = first_of(from_claim("tenant"), from_claim("org"))
    with pytest.raises(TenantMismatchError):
        chain(RequestFacts(claims={"tenant": "uk", "org": "aus"}))
    assert chain(RequestFacts(claims={"tenant": "uk", "org": "uk"})) is not None


def test_without_a_login_to_come_the_rest_is_not_asked() -> None:
    asked = []

    def late(_: RequestFacts) -> str | None:
        asked.append(1)
        return "uk"

    assert first_of(from_query(), late)(facts(query="aus")) is not None
    assert asked == []


def test_a_chain_in_a_chain_keeps_the_rank_of_a_login() -> None:
    inner = first_of(from_header(), from_claim())
    chain = first_of(from_query(), inner)
    assert chain.authenticated
    with pytest.raises(TenantMismatchError):
        chain(facts(query="aus", claim="uk"))
    found = chain(facts(claim="uk"))
    assert found is not None
    assert found.source == "claim tenant"


def test_all_that_answer_must_agree() -> None:
    chain = all_agree(from_query(), from_header(), from_claim())
    assert chain(facts()) is None
    assert chain(facts(header="uk")) == Identified("uk", "header X-Tenant")
    both = chain(facts(header="uk", query="uk", claim="uk"))
    assert both == Identified("uk", "claim tenant", authenticated=True)
    for other in ({"claim": "aus"}, {"query": "aus"}, {"query": "UK"}):
        with pytest.raises(TenantMismatchError):
            chain(facts(header="uk", **other))


def test_a_path_keeps_its_rest_under_a_login() -> None:
    for chain in (first_of(from_claim(), from_path()), all_agree(from_path(), from_claim())):
        answer = chain(facts(claim="uk", path="/uk/orders"))
        assert answer == Identified("uk", "claim tenant", True, prefix="/uk", rest="/orders")


def test_identifiers_of_one_tenant_may_be_compared_by_what_they_mean() -> None:
    same = {"org-17": "uk", "uk": "uk", "aus": "aus"}
    make: list[Callable[..., Any]] = [first_of, all_agree]
    for chain in make:
        found = chain(from_claim(), from_subdomain("example.com"), key=same.get)
        answer = found(facts(claim="org-17", host="uk.example.com"))
        assert answer == Identified("org-17", "claim tenant", authenticated=True)
        with pytest.raises(TenantMismatchError):
            found(facts(claim="org-17", host="aus.example.com"))


def test_a_plain_function_may_stand_in_a_chain() -> None:
    chain = first_of(lambda _: None, from_query(), resolver(lambda _: "uk", name="fallback"))
    assert chain(facts()) == Identified("uk", "fallback")
    assert "query tenant" in chain.name


def test_an_empty_chain_is_refused() -> None:
    for make in (first_of, all_agree):
        with pytest.raises(ConfigurationError):
            make()
