"""10,000 hostile ids: none reaches the directory behind, none leaves a root."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tenantry import Placement, Server, Tenant
from tenantry.directory import (
    CachedDirectory,
    MappingDirectory,
    check_placements,
    from_mapping,
)
from tenantry.errors import ConfigurationError, InvalidTenantIdError, UnknownTenantError
from tenantry.naming import is_identifier, is_tenant_id, physical_name
from tests.directory.counting import Versioned
from tests.hostile import REAL, hostile_ids

HOSTILE = hostile_ids(10_000)


def test_they_are_10000_of_every_kind_and_the_same_each_time() -> None:
    texts = [value for value in HOSTILE if type(value) is str]
    assert len(HOSTILE) == 10_000
    assert len(texts) > 8_000
    assert len(set(texts)) > 2_500
    assert texts == [value for value in hostile_ids(10_000) if type(value) is str]
    assert not set(texts) & set(REAL)


def test_none_is_an_id() -> None:
    for value in HOSTILE:
        assert not is_tenant_id(value)
        with pytest.raises(InvalidTenantIdError):
            Tenant(value, Placement("main"))  # type: ignore[arg-type]


def test_none_gets_a_physical_name() -> None:
    for value in HOSTILE:
        with pytest.raises(InvalidTenantIdError):
            physical_name(value)  # type: ignore[arg-type]


def test_none_reaches_the_directory_behind_a_cache() -> None:
    inner = Versioned(*REAL)
    cached = CachedDirectory(inner, max_age_seconds=3600)
    for name in REAL:
        cached.get(name)
    inner.reached.clear()
    for value in HOSTILE:
        assert cached.peek(value) is None  # type: ignore[arg-type]
        with pytest.raises(UnknownTenantError) as caught:
            cached.get(value)  # type: ignore[arg-type]
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 200
    assert inner.reached == []


def test_as_identifiers_only_what_could_be_a_host_name_is_looked_up() -> None:
    inner = Versioned(*REAL)
    cached = CachedDirectory(inner, max_age_seconds=3600)
    for value in HOSTILE:
        with pytest.raises(UnknownTenantError):
            cached.find(value)  # type: ignore[arg-type]
    for value in inner.reached:
        assert value is None or (is_identifier(value) and re.fullmatch(r"[a-z0-9_.-]+", str(value)))


def test_every_directory_in_memory_refuses_them() -> None:
    directory = MappingDirectory(Tenant(name, Placement("main", database=name)) for name in REAL)
    for value in HOSTILE:
        for question in (directory.get, directory.find):
            with pytest.raises(UnknownTenantError):
                question(value)  # type: ignore[arg-type]
        assert directory.peek(value) is None  # type: ignore[arg-type]


def test_as_file_names_they_stay_below_the_root_or_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "root"
    root.mkdir(parents=True)
    servers = {"main": Server.from_url("main", f"sqlite:///{root}")}
    names = {value for value in HOSTILE if type(value) is str and 0 < len(value) <= 200}
    kept = 0
    for name in names:
        try:
            check_placements([Tenant("uk", Placement("main", database=name))], servers)
        except ConfigurationError:
            continue
        kept += 1
        assert root in (root / name).resolve().parents
    assert kept
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_as_ids_of_a_mapping_they_are_refused_by_name(tmp_path: Path) -> None:
    for value in HOSTILE[:2_000]:
        if value == "shared":
            continue  # a key with a meaning of its own
        try:
            mapping = {value: "sqlite:///uk.db"}
        except TypeError:
            continue  # cannot be a key at all
        with pytest.raises(ConfigurationError, match="is not a tenant id"):
            from_mapping(mapping, folder=tmp_path)
