"""Under SQLAlchemy 1.4, which Apache Superset pins, the parts that need no routing work.

They run in an environment of their own, made once from ``requirements/sa14.txt``.
"""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
ENVIRONMENT = CHECKOUT / ".build" / "venv-sa14"

pytestmark = pytest.mark.newest  # an environment of its own; which one asks does not matter


@pytest.fixture(scope="module")
def python() -> Path:
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    with (ENVIRONMENT.parent / "venv-sa14.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests of this file may run in two workers
        subprocess.run(
            [CHECKOUT / ".ci" / "venv", ENVIRONMENT, "requirements/sa14.txt"],
            cwd=CHECKOUT,
            check=True,
        )
    return ENVIRONMENT / "bin" / "python"


def run(python: Path, code: str) -> str:
    done = subprocess.run(
        [python, "-I", "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_is_1_4(python: Path) -> None:
    assert run(python, "import sqlalchemy; print(sqlalchemy.__version__)").startswith("1.4.")


@pytest.mark.parametrize(
    "module",
    ["errors", "tenant", "servers", "naming", "events", "context", "resolvers", "directory"],
)
def test_what_needs_no_routing_imports(python: Path, module: str) -> None:
    run(python, f"import tenantry, tenantry.{module}")


def test_a_tenant_is_found_and_made_current(python: Path) -> None:
    code = """
import tenantry
from tenantry.directory import from_mapping
from tenantry.resolvers import RequestFacts, from_header

loaded = from_mapping({"uk": "sqlite:///uk.db", "aus": "sqlite:///aus.db"})
tenant = loaded.directory.get("uk")
with tenantry.use(tenant):
    print(tenantry.require().id)
"""
    assert run(python, code) == "uk"


@pytest.mark.parametrize("name", ["Tenancy", "TenantSession", "AsyncTenantSession"])
def test_what_needs_2_0_says_so_when_used(python: Path, name: str) -> None:
    code = f"""
import tenantry

try:
    tenantry.{name}
except tenantry.TenantryError as error:
    print(type(error).__name__, error)
"""
    said = run(python, code)
    assert said.startswith("UnsupportedError")
    assert "SQLAlchemy 2.0" in said
    assert "pip install" in said
