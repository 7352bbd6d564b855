"""Without its extra, a module of the edges says what to install, and nothing else breaks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_arrows import SOURCE, THIRD_PARTIES

INTEGRATIONS = sorted(
    path.stem
    for path in (SOURCE / "integrations").glob("[!_]*")
    if path.suffix == ".py" or (path / "__init__.py").exists()
)
DEPENDENCIES = {"sqlalchemy", "filelock", "tomli"}
EXTRAS = sorted(frozenset.union(*THIRD_PARTIES.values()) - DEPENDENCIES)

WITHOUT_EXTRAS = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_EXTRAS + code],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("module", INTEGRATIONS)
def test_an_integration_names_the_install_command(module: str) -> None:
    """Either at once, or it imports and asks for its framework only when used."""
    done = run(
        "from tenantry.errors import MissingDependencyError\n"
        "try:\n"
        f"    import tenantry.integrations.{module}\n"
        "except MissingDependencyError as error:\n"
        "    print(error)\n"
        "else:\n"
        "    print('imported')\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "imported" or "pip install 'tenantry[" in done.stdout


def test_the_command_line_names_the_install_command() -> None:
    done = run("from tenantry.cli.main import main\nmain()\n")
    assert done.returncode == 2, done.stderr
    assert "pip install 'tenantry[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_clone_needs_no_alembic(tmp_path: Path) -> None:
    done = run(
        "import sqlite3\n"
        "from tenantry import Isolation, Placement, Server, Tenancy, Tenant\n"
        "from tenantry.directory import MappingDirectory\n"
        "from tenantry.fleet import Access, copying, create\n"
        f"server = Server.from_url('main', 'sqlite:///{tmp_path}')\n"
        "tenants = [Tenant(x, Placement('main', database=f'{x}.db')) for x in ('uk', 'aus')]\n"
        "tenancy = Tenancy(MappingDirectory(tenants), {'main': server})\n"
        f"with sqlite3.connect('{tmp_path}/uk.db') as connection:\n"
        "    connection.execute('CREATE TABLE orders (id INTEGER PRIMARY KEY)')\n"
        "    connection.execute('INSERT INTO orders VALUES (7)')\n"
        "with Access(tenancy.servers) as access:\n"
        "    copy = copying(access.place(tenants[0]))\n"
        "    print(create(tenancy, 'aus', fill=[copy], access=access).status)\n"
        f"print(sqlite3.connect('{tmp_path}/aus.db').execute('SELECT id FROM orders').fetchall())\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["done", "[(7,)]"]
