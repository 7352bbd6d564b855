"""The host name: a subdomain of ours, or a domain of the tenant's own.

A visitor types the host, and whatever stands between may pass on another one in
``X-Forwarded-Host``. That header counts only when it comes from a proxy named here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache

from ..errors import ConfigurationError, TenantMismatchError
from .request import RequestFacts, Resolver

__all__ = ["from_domain", "from_subdomain"]

_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
# A host, perhaps with the dot of the root and a port; user names, paths and brackets do not fit.
_HOST = re.compile(rf"({_LABEL}(?:\.{_LABEL})*)\.?(?::[0-9]{{1,5}})?")
_ADDRESS = re.compile(r"[0-9.]+")
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def from_subdomain(
    base_domain: str | Sequence[str],
    *,
    ignore: Collection[str] = ("www",),
    trusted_proxies: Sequence[str] = (),
) -> Resolver:
    """``uk`` from ``uk.example.com`` when *base_domain* is ``example.com`` (or several such).

    Says nothing for other hosts, for the base domain itself, for the names in *ignore* and for
    names of several labels. ``xn--`` labels stay as they are. *trusted_proxies* are addresses or
    networks (``10.0.0.0/8``) whose ``X-Forwarded-Host`` is believed.

    Raises:
        ConfigurationError: A domain or network cannot be one.
    """
    bases = [base_domain] if isinstance(base_domain, str) else list(base_domain)
    endings = tuple(f".{_known(base)}" for base in bases)
    host_of = _host_reader(trusted_proxies)

    def read(facts: RequestFacts) -> str | None:
        host = host_of(facts)
        for ending in endings if host else ():
            if host.endswith(ending):
                label = host[: -len(ending)]
                return label if "." not in label and label not in ignore else None
        return None

    return Resolver("subdomain", read)


def from_domain(
    domains: Mapping[str, str] | Collection[str] | None = None,
    *,
    trusted_proxies: Sequence[str] = (),
) -> Resolver:
    """The whole host name, as ``shop.example.org`` for a tenant with a domain of its own.

    A mapping gives the tenant of each domain; a list says which ones are looked up in the
    directory; with ``None`` any domain name is looked up among the tenants' identifiers, and the
    directory is the list of trusted ones. Addresses and names without a dot say nothing.

    Raises:
        ConfigurationError: A domain or network cannot be one.
    """
    if isinstance(domains, str):
        raise ConfigurationError("from_domain takes a list of domains or a mapping, not a string")
    known: dict[str, str] | None = None
    if domains is not None:
        named = domains if isinstance(domains, Mapping) else {each: each for each in domains}
        known = {_known(domain): identifier for domain, identifier in named.items()}
        if not isinstance(domains, Mapping):
            known = {domain: domain for domain in known}
    host_of = _host_reader(trusted_proxies)

    def read(facts: RequestFacts) -> str | None:
        host = host_of(facts)
        if known is not None:
            return known.get(host)
        return host if "." in host and _ADDRESS.fullmatch(host) is None else None

    return Resolver("domain", read)


def _host_reader(trusted_proxies: Sequence[str]) -> Callable[[RequestFacts], str]:
    """A function that gives the host in lower case without port, ``""`` if there is none."""
    if isinstance(trusted_proxies, str):
        raise ConfigurationError("trusted_proxies is a list of addresses or networks")
    try:
        networks = tuple(ipaddress.ip_network(each, strict=False) for each in trusted_proxies)
    except ValueError:
        raise ConfigurationError(
            "trusted_proxies holds addresses and networks such as 10.0.0.0/8 only"
        ) from None

    def host_of(facts: RequestFacts) -> str:
        hosts = {facts.host, *facts.headers.all("host")} - {""}
        if networks and _is_within(facts.client or "", networks):
            forwarded = {
                each.strip()
                for value in facts.headers.all("x-forwarded-host")
                for each in value.split(",")
            }
            hosts = forwarded - {""} or hosts
        names = {_name(host) for host in hosts}
        if len(names) > 1:
            raise TenantMismatchError(
                "the request gives several host names; a proxy must pass on exactly one"
            )
        return names.pop() if names else ""

    return host_of


def _name(host: str) -> str:
    # Host names know no case (RFC 4343), but only ASCII may be folded: the Kelvin sign is no k.
    match = _HOST.fullmatch(host.lower()) if host.isascii() and len(host) <= 260 else None
    return match[1] if match is not None else ""


def _known(domain: object) -> str:
    name = _name(domain.removeprefix(".")) if isinstance(domain, str) else ""
    if not name:
        raise ConfigurationError(
            f"{domain!r} is not a domain name; write it in ASCII, an international one as xn--"
        )
    return name


@lru_cache(maxsize=1024)
def _is_within(address: str, networks: tuple[_Network, ...]) -> bool:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(known, "ipv4_mapped", None)
    return any((mapped or known) in network for network in networks)
