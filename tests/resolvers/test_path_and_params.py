"""The path, and what a visitor can type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import (
    ConfigurationError,
    InvalidTenantIdError,
    TenantMismatchError,
    VisitorError,
)
from tenantry.resolvers import (
    Identified,
    RequestFacts,
    Resolver,
    all_agree,
    first_of,
    from_claim,
    from_cookie,
    from_domain,
    from_header,
    from_path,
    from_query,
    from_session,
    from_subdomain,
)


@pytest.mark.parametrize(
    ("prefix", "path", "tenant", "consumed", "rest"),
    [
        ("", "/uk/orders/7", "uk", "/uk", "/orders/7"),
        ("", "/uk/", "uk", "/uk", "/"),
        ("", "/uk", "uk", "/uk", "/"),
        ("/", "/uk", "uk", "/uk", "/"),
        ("/t", "/t/uk/orders", "uk", "/t/uk", "/orders"),
        ("/t/", "/t/uk", "uk", "/t/uk", "/"),
        ("/a/b", "/a/b/uk//x", "uk", "/a/b/uk", "//x"),
    ],
)
def test_a_path_names_the_tenant_and_keeps_the_rest(
    prefix: str, path: str, tenant: str, consumed: str, rest: str
) -> None:
    answer = from_path(prefix)(RequestFacts(path=path))
    assert answer == Identified(tenant, "path", prefix=consumed, rest=rest)
    assert (answer.prefix or "") + (answer.rest or "") in (path, path + "/")


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        ("", ""),
        ("", "/"),
        ("", "//uk"),
        ("", "uk"),
        ("", "/static/x.css"),
        ("/t", "/t"),
        ("/t", "/t/"),
        ("/t", "/tt/uk"),
        ("/t", "/uk/t"),
    ],
)
def test_other_paths_say_nothing(prefix: str, path: str) -> None:
    assert from_path(prefix, ignore=("static",))(RequestFacts(path=path)) is None


@pytest.mark.parametrize("prefix", ["t", "/a b", "/t?x", "/\u00fc", "/t//u"])
def test_what_is_no_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError):
        from_path(prefix)


TYPED: list[tuple[Resolver, str, str]] = [
    (from_header("X-Tenant"), "headers", "X-Tenant"),
    (from_query("tenant"), "query", "tenant"),
    (from_cookie("tenant"), "cookies", "tenant"),
]


@pytest.mark.parametrize(("resolver", "where", "name"), TYPED)
def test_what_is_typed(resolver: Resolver, where: str, name: str) -> None:
    def ask(*values: str) -> Identified | None:
        return resolver(RequestFacts.of(**{where: [(name, value) for value in values]}))

    assert ask() is None
    assert ask("") is None
    assert ask("uk") == ask("uk", "uk") == Identified("uk", resolver.name)
    assert name in resolver.name
    assert not resolver.authenticated
    for values in (("uk", "aus"), ("uk", "uk "), ("uk", ""), ("uk", "UK")):
        with pytest.raises(TenantMismatchError):
            ask(*values)


def test_a_session_says_what_it_holds() -> None:
    resolver = from_session("org", authenticated=True)
    assert resolver(RequestFacts(session={})) is None
    assert resolver(RequestFacts(session={"org": None})) is None
    found = resolver(RequestFacts(session={"org": "uk"}))
    assert found == Identified("uk", "session org", authenticated=True)
    for value in (7, ["uk"], {"uk": 1}, b"uk"):
        with pytest.raises(InvalidTenantIdError):
            resolver(RequestFacts(session={"org": value}))


EVERY: list[Callable[[RequestFacts], Any]] = [
    from_header(),
    from_query(),
    from_cookie(),
    from_session(),
    from_path(),
    from_path("/t"),
    from_claim(),
    from_claim(["org", "id"]),
    from_subdomain("example.com"),
    from_domain(),
]
EVERY += [first_of(*EVERY), all_agree(*EVERY)]

TEXTS = st.text() | st.binary().map(lambda raw: raw.decode("latin-1"))
PAIRS = st.lists(
    st.tuples(
        st.sampled_from(["X-Tenant", "tenant", "x-tenant", "Host"]) | TEXTS, TEXTS | st.binary()
    )
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)
MAPPINGS = st.dictionaries(st.sampled_from(["tenant", "org"]) | st.text(), VALUES, max_size=3)


@given(
    facts=st.builds(
        RequestFacts.of,
        method=TEXTS,
        scheme=TEXTS,
        host=TEXTS,
        path=TEXTS | TEXTS.map(lambda text: f"/t/{text}"),
        headers=PAIRS,
        query=PAIRS,
        cookies=PAIRS,
        session=MAPPINGS,
        claims=MAPPINGS,
        client=st.none() | TEXTS,
    )
)
def test_no_request_crashes_a_resolver(facts: RequestFacts) -> None:
    for resolver in EVERY:
        said = asked(resolver, facts)
        if isinstance(said, VisitorError):
            assert str(said).isprintable()
        else:
            assert said is None or (said.identifier and isinstance(said.identifier, str))


def asked(
    resolver: Callable[[RequestFacts], Identified | None], facts: RequestFacts
) -> Identified | VisitorError | None:
    try:
        return resolver(facts)
    except VisitorError as refusal:
        return refusal
