"""The table directory holds its contract under SQLAlchemy 1.4 too, where Superset uses it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.test_sqlalchemy_14 import python

__all__ = ["python"]

pytestmark = pytest.mark.newest  # an environment of its own; which one asks does not matter

CODE = """
import sys, tempfile
import sqlalchemy
from tenantry.directory import CachedDirectory, TableDirectory
from tenantry.testing.contracts import WritableDirectoryContract

class Table(WritableDirectoryContract):
    def make(self, tenants):
        directory = TableDirectory(f"sqlite:///{tempfile.mkdtemp(dir=sys.argv[1])}/control.db")
        directory.create_tables()
        for tenant in tenants:
            directory.add(tenant)
        return directory

class Cached(Table):
    def make(self, tenants):
        return CachedDirectory(super().make(tenants))

assert sqlalchemy.__version__.startswith("1.4.")
ran = 0
for kind in (Table, Cached):
    for name in dir(kind):
        if name.startswith("test_"):
            getattr(kind(), name)()
            ran += 1
print(ran)
"""


def test_the_contract_holds_under_1_4(python: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [python, "-I", "-W", "error", "-c", CODE, tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30
