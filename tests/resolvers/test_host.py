"""The host name, and who may say another one."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tenantry.errors import ConfigurationError, TenantMismatchError, VisitorError
from tenantry.resolvers import Identified, RequestFacts, Resolver, from_domain, from_subdomain


def named(resolver: Resolver, host: str, **facts: object) -> str | None:
    answer = resolver(RequestFacts.of(host=host, **facts))  # type: ignore[arg-type]
    return answer.identifier if answer is not None else None


@pytest.mark.parametrize(
    ("host", "tenant"),
    [
        ("uk.example.com", "uk"),
        ("UK.Example.COM", "uk"),
        ("uk.example.com:8443", "uk"),
        ("uk.example.com.", "uk"),
        ("uk.example.com.:80", "uk"),
        ("north-west.example.com", "north-west"),
        ("north_west.example.com", "north_west"),
        ("xn--bcher-kva.example.com", "xn--bcher-kva"),
        ("uk.example.org", "uk"),
        ("example.com", None),
        ("www.example.com", None),
        ("a.b.example.com", None),
        ("uk.example.com.evil.net", None),
        ("ukexample.com", None),
        ("evil.net", None),
        ("", None),
        (".example.com", None),
        ("uk..example.com", None),
        ("-uk.example.com", None),
        ("uk.example.com:", None),
        ("uk.example.com:123456", None),
        ("uk.example.com:80:80", None),
        ("user@uk.example.com", None),
        ("uk.example.com/path", None),
        ("uk.example.com\n", None),
        ("uk.example.com\0", None),
        (" uk.example.com", None),
        ("uk.example.com, aus.example.com", None),
        ("\u212ak.example.com", None),
        ("b\u00fccher.example.com", None),
        ("uk\u3002example.com", None),
        ("127.0.0.1", None),
        ("[::1]:80", None),
    ],
)
def test_a_subdomain(host: str, tenant: str | None) -> None:
    assert named(from_subdomain(["example.com", ".example.org"]), host) == tenant


def test_a_subdomain_has_a_name() -> None:
    resolver = from_subdomain("example.com")
    facts = RequestFacts(host="uk.example.com")
    assert resolver(facts) == Identified("uk", "subdomain")


def test_names_to_ignore() -> None:
    resolver = from_subdomain("localhost", ignore=("admin", "www"))
    assert named(resolver, "admin.localhost:5000") is None
    assert named(resolver, "uk.localhost:5000") == "uk"


def test_domains_of_tenants() -> None:
    known = from_domain({"shop.example.org": "acme", "Shop.Example.NET.": "zoe"})
    assert named(known, "SHOP.example.org:443") == "acme"
    assert named(known, "shop.example.net") == "zoe"
    assert named(known, "other.example.org") is None
    assert named(known, "") is None


def test_domains_that_are_looked_up() -> None:
    some = from_domain(["shop.example.org"])
    assert named(some, "shop.example.org") == "shop.example.org"
    assert named(some, "evil.example.org") is None
    every = from_domain()
    assert named(every, "Any.example.org.:80") == "any.example.org"
    # A tenant's id could stand alone as a host; that would be typing it.
    assert named(every, "uk") is None
    assert named(every, "127.0.0.1:80") is None


FORWARDED = {"X-Forwarded-Host": "aus.example.com"}


def test_a_forwarded_host_counts_from_trusted_proxies_only() -> None:
    nobody = from_subdomain("example.com")
    proxies = from_subdomain("example.com", trusted_proxies=["10.0.0.0/8", "::1", "192.0.2.7"])
    host = "uk.example.com"
    for client in ("10.1.2.3", "::1", "192.0.2.7", "::ffff:10.1.2.3"):
        assert named(nobody, host, headers=FORWARDED, client=client) == "uk"
        assert named(proxies, host, headers=FORWARDED, client=client) == "aus"
        assert named(proxies, host, client=client) == "uk"
    strangers = ("11.0.0.1", "192.0.2.8", "::2", "", "unix:", "10.1.2.3.4", None)
    for stranger in strangers:
        assert named(proxies, host, headers=FORWARDED, client=stranger) == "uk"


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Forwarded-Host", "uk.example.com, aus.example.com")],
        [("X-Forwarded-Host", "uk.example.com"), ("x-forwarded-host", "aus.example.com")],
        [("X-Forwarded-Host", "uk.example.com, ???")],
    ],
)
def test_several_forwarded_hosts_are_refused(headers: list[tuple[str, str]]) -> None:
    resolver = from_subdomain("example.com", trusted_proxies=["10.0.0.1"])
    with pytest.raises(TenantMismatchError):
        named(resolver, "uk.example.com", headers=headers, client="10.0.0.1")


def test_two_host_headers_are_refused() -> None:
    headers = [("Host", "uk.example.com"), ("Host", "aus.example.com")]
    with pytest.raises(TenantMismatchError):
        named(from_subdomain("example.com"), "uk.example.com", headers=headers)
    same = [("Host", "uk.example.com:80"), ("Host", "UK.example.com")]
    assert named(from_subdomain("example.com"), "uk.example.com", headers=same) == "uk"


def test_200_ways_to_forward_a_host_switch_no_tenant() -> None:
    """What a visitor sends besides the host changes nothing, or refuses."""
    resolver = from_subdomain("example.com")
    names = ("X-Forwarded-Host", "X-Host", "Forwarded", "X-Original-Host", "X-Forwarded-Server")
    values = ("aus.example.com", "host=aus.example.com", "aus.example.com, uk.example.com", "", "*")
    tried = 0
    for name in names:
        for value in values:
            for client in (None, "10.0.0.1", "127.0.0.1", "::1"):
                for again in (False, True):
                    headers = [(name, value)] * (2 if again else 1)
                    found = named(resolver, "uk.example.com", headers=headers, client=client)
                    assert found == "uk"
                    tried += 1
    assert tried == 200


@pytest.mark.parametrize(
    "domain", ["", "exa mple.com", "b\u00fccher.example", "http://x", "a" * 300]
)
def test_what_is_no_domain_is_refused(domain: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a domain name"):
        from_subdomain(["example.com", domain])
    with pytest.raises(ConfigurationError, match="is not a domain name"):
        from_domain([domain])
    with pytest.raises(ConfigurationError, match="not a string"):
        from_domain(domain)


@pytest.mark.parametrize("proxies", [["10.0.0.0/99"], ["proxy"], [""], "10.0.0.1"])
def test_what_is_no_network_is_refused(proxies: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="trusted_proxies"):
        from_subdomain("example.com", trusted_proxies=proxies)


RESOLVERS = [
    from_subdomain("example.com", trusted_proxies=["10.0.0.0/8"]),
    from_domain(),
    from_domain(["example.com"], trusted_proxies=["10.0.0.0/8"]),
]
TEXTS = st.text() | st.binary().map(lambda raw: raw.decode("latin-1"))
HOSTS = TEXTS | TEXTS.map(lambda text: f"{text}.example.com") | st.sampled_from(["uk.example.com"])


@given(HOSTS, HOSTS, TEXTS)
@example("\ud800.example.com", "\0", "10.0.0.1")
def test_no_host_crashes_a_resolver(host: str, forwarded: str, client: str) -> None:
    for resolver in RESOLVERS:
        for who in (client, "10.0.0.1", None):
            facts = RequestFacts.of(
                host=host, headers=[("X-Forwarded-Host", forwarded)], client=who
            )
            try:
                answer = resolver(facts)
            except VisitorError:
                continue
            if answer is not None:
                assert set(answer.identifier) <= set(string.ascii_lowercase + string.digits + "._-")


@given(HOSTS)
def test_what_a_subdomain_says_was_typed_so(host: str) -> None:
    """No spelling is turned into another tenant's, apart from the case of ASCII letters."""
    tenant = named(from_subdomain("example.com"), host)
    if tenant is not None:
        assert host.lower().startswith(f"{tenant}.example.com")
        assert host.isascii()
