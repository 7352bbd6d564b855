"""The table directory holds its contract under SQLAlchemy 1.4 too, where Superset uses it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg2
import pytest

from tenantry.testing.address import ServerAddress
from tests.directory.conftest import created, dropped
from tests.test_sqlalchemy_14 import python

__all__ = ["python"]

pytestmark = pytest.mark.newest  # an environment of its own; which one asks does not matter

CODE = """
import itertools, sys, tempfile
import sqlalchemy
from tenantry import Placement, Tenant
from tenantry.directory import CachedDirectory, TableDirectory
from tenantry.testing.contracts import WritableDirectoryContract

where, *drivers = sys.argv[1:]
sys.path += drivers
numbers = itertools.count()

class Table(WritableDirectoryContract):
    def make(self, tenants):
        url = where if drivers else f"sqlite:///{tempfile.mkdtemp(dir=where)}/control.db"
        directory = TableDirectory(url, table_name=f"d{next(numbers)}_tenants")
        directory.create_tables()
        for tenant in tenants:
            directory.add(tenant)
        return directory

class Cached(Table):
    def make(self, tenants):
        return CachedDirectory(super().make(tenants))

def tenant(name, **values):
    return Tenant(name, Placement("main", database=name), **values)

assert sqlalchemy.__version__.startswith("1.4.")
if drivers:  # a new tenant is one statement here
    statements = []
    directory = Table().make([])
    sqlalchemy.event.listen(
        directory._control.engine,
        "before_cursor_execute",
        lambda c, cursor, statement, *_: statements.append(statement[:4]),
    )
    directory.add(tenant("uk", identifiers=("x",)))
    assert statements == ["WITH"], statements
ran = 0
for kind in (Table, Cached):
    for name in dir(kind):
        if name.startswith("test_"):
            getattr(kind(), name)()
            ran += 1
print(ran)
"""


def run(python: Path, *arguments: str | Path) -> str:
    done = subprocess.run(
        [python, "-I", "-W", "error", "-c", CODE, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_contract_holds_under_1_4(python: Path, tmp_path: Path) -> None:
    assert int(run(python, tmp_path)) > 30


def test_the_contract_holds_on_postgresql(
    python: Path, tmp_path: Path, postgresql: ServerAddress
) -> None:
    """With the driver of this environment: the other has the same Python and none of its own."""
    package = Path(psycopg2.__file__).parent
    for each in (package, package.with_name("psycopg2_binary.libs")):
        (tmp_path / each.name).symlink_to(each)
    url = created(postgresql, "postgresql+psycopg2")
    assert int(run(python, url, tmp_path)) > 30
    dropped(postgresql, url)
