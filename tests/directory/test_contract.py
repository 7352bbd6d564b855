"""Every directory holds the contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tenantry import Isolation, Server, Tenant
from tenantry.directory import (
    CachedDirectory,
    Directory,
    MappingDirectory,
    TableDirectory,
    WritableDirectory,
    from_file,
)
from tenantry.testing.contracts import DirectoryContract, WritableDirectoryContract
from tests.directory.conftest import MakeTable


def filled(directory: TableDirectory, tenants: Sequence[Tenant]) -> TableDirectory:
    for tenant in tenants:
        directory.add(tenant)
    return directory


class TestMapping(WritableDirectoryContract):
    def make(self, tenants: Sequence[Tenant]) -> WritableDirectory:
        return MappingDirectory(tenants)


class TestMappingWithServers(WritableDirectoryContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.servers = {"main": Server.from_url("main", f"sqlite:///{tmp_path}")}

    def make(self, tenants: Sequence[Tenant]) -> WritableDirectory:
        return MappingDirectory(tenants, servers=self.servers)


class TestFile(DirectoryContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make(self, tenants: Sequence[Tenant]) -> Directory:
        path = self.folder / "tenants.toml"
        path.write_text("\n".join(written(tenants)), encoding="utf-8")
        return from_file(path).directory


def written(tenants: Sequence[Tenant]) -> list[str]:
    lines = ["[servers.main]", 'url = "sqlite:///data"']
    for tenant in tenants:
        place = tenant.placement
        lines += [
            f"[tenants.{tenant.id}]",
            f'state = "{tenant.state}"',
            f'isolation = "{place.isolation}"',
            f'database = "{place.database}"',
            f"identifiers = {list(tenant.identifiers)}",
            f"untrusted_sql = {str(tenant.untrusted_sql).lower()}",
        ]
        if place.isolation is Isolation.SCHEMA:
            lines.append(f'schema = "{place.schema}"')
        lines.append(f"[tenants.{tenant.id}.attributes]")
        lines += [f"{key} = {value!r}" for key, value in tenant.attributes.items()]
    return [line.replace('"Zo\u00eb\'s \u2713"', '"Zo\u00eb\'s \u2713"') for line in lines]


class TestTable(WritableDirectoryContract):
    @pytest.fixture(autouse=True)
    def _table(self, make_table: MakeTable) -> None:
        self.make_table = make_table

    def make(self, tenants: Sequence[Tenant]) -> WritableDirectory:
        return filled(self.make_table(), tenants)


class TestCachedMapping(WritableDirectoryContract):
    def make(self, tenants: Sequence[Tenant]) -> WritableDirectory:
        return CachedDirectory(MappingDirectory(tenants))


class TestCachedFile(TestFile):
    def make(self, tenants: Sequence[Tenant]) -> Directory:
        return CachedDirectory(super().make(tenants))


class TestCachedTable(TestTable):
    def make(self, tenants: Sequence[Tenant]) -> WritableDirectory:
        return CachedDirectory(super().make(tenants))


class TestCachedWithoutVersion(WritableDirectoryContract):
    """In front of a directory that cannot say whether it changed."""

    def make(self, tenants: Sequence[Tenant]) -> WritableDirectory:
        return CachedDirectory(WithoutVersion(tenants))


class WithoutVersion(MappingDirectory):
    version = None  # type: ignore[assignment]
