"""Ids and the names made from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import InvalidTenantIdError
from tenantry.naming import (
    RESERVED,
    check_tenant_id,
    is_identifier,
    is_tenant_id,
    physical_name,
    shown,
)
from tests.hostile import Unspeakable, hostile_ids

IDS = st.from_regex(r"[a-z][a-z0-9_-]{0,47}", fullmatch=True).filter(is_tenant_id)
GENERATIONS = st.integers(1, 999_999)


@pytest.mark.parametrize("value", ["u", "uk", "a" * 48, "north-west", "north_west", "t-", "x1"])
def test_ids(value: str) -> None:
    assert is_tenant_id(value)
    assert check_tenant_id(value) is value


@pytest.mark.parametrize("value", [*sorted(RESERVED), "pg_x", "a" * 49, "1a", "_a", "-a", "uk\n"])
def test_no_ids(value: str) -> None:
    assert not is_tenant_id(value)
    with pytest.raises(InvalidTenantIdError):
        check_tenant_id(value)


def test_the_message_is_one_short_line_whatever_it_was() -> None:
    for value in [*hostile_ids(500), "x" * 10_000, Unspeakable()]:
        with pytest.raises(InvalidTenantIdError) as caught:
            check_tenant_id(value)
        assert str(caught.value).isascii()
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 200


@given(st.text() | st.binary() | st.integers() | st.none() | st.lists(st.text()))
def test_no_value_crashes_the_checks(value: object) -> None:
    assert is_tenant_id(value) in (True, False)
    assert is_identifier(value) in (True, False)
    assert shown(value).isprintable()


@pytest.mark.parametrize(
    "value",
    ["uk", "shop.example.org", "xn--bcher-kva.example", "9d0c", "a_b.c-d", "x" * 63, "a.b.c"],
)
def test_identifiers(value: str) -> None:
    assert is_identifier(value)


@pytest.mark.parametrize(
    "value",
    ["", "Shop.example.org", "a..b", ".a", "a.", "-a", "a b", "a/b", "x" * 64, "x." * 127 + "x",
     "postgres", "pg_x.y", "a\n", None, 7, "z\u00fcrich.example"],
)  # fmt: skip
def test_no_identifiers(value: object) -> None:
    assert not is_identifier(value)


@given(IDS, GENERATIONS, st.sampled_from(["", "t", "tenant_", "t_2"]))
def test_a_physical_name_fits_every_server(tenant_id: str, generation: int, prefix: str) -> None:
    name = physical_name(tenant_id, prefix=prefix, generation=generation)
    assert len(name.encode()) <= 63
    assert name == name.lower()
    assert name.startswith(prefix + tenant_id)


@given(st.tuples(IDS, GENERATIONS), st.tuples(IDS, GENERATIONS))
def test_no_two_tenants_share_a_physical_name(one: tuple[str, int], other: tuple[str, int]) -> None:
    names = {physical_name(name, generation=generation) for name, generation in (one, other)}
    assert (len(names) == 1) == (one == other)


def test_10000_ids_with_a_long_common_start_share_no_name() -> None:
    """PostgreSQL cuts at 63 bytes with a notice only; nothing may be left to cut."""
    ids = [f"{'a' * 44}{number:x}"[:48] for number in range(0x1000, 0x1000 + 5_000)]
    names = {
        physical_name(each, prefix="tenant_x", generation=g)[:63] for each in ids for g in (1, 2)
    }
    assert len(names) == 2 * len(set(ids)) == 10_000


@pytest.mark.parametrize("generation", [0, -1, 1_000_000])
def test_a_generation_has_bounds(generation: int) -> None:
    with pytest.raises(ValueError, match="generation"):
        physical_name("uk", generation=generation)


@pytest.mark.parametrize("prefix", ["T", "1", "too_long_", 'a"', "a-", "\u00fc"])
def test_a_prefix_is_plain(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        physical_name("uk", prefix=prefix)
