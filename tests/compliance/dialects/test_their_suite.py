"""SQLAlchemy's dialect suite gives the same through a routed engine as through a plain one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sqlalchemy import URL

from tenantry.testing.address import ServerAddress

pytestmark = pytest.mark.timeout(900)

_CONFTEST = """
import pytest
pytest.register_assert_rewrite("sqlalchemy.testing.assertions")
from sqlalchemy.testing.plugin.pytestplugin import *
"""
_REQUIREMENTS = """
from sqlalchemy.testing import exclusions
from sqlalchemy.testing.requirements import SuiteRequirements

class Requirements(SuiteRequirements):
    # Further schemas would be files that somebody attaches.
    schemas = exclusions.closed() if {sqlite} else exclusions.open()
    if not hasattr(SuiteRequirements, "array_type"):  # the suite of 2.0 asks for it nevertheless
        array_type = schemas
"""
_SUITE = "from sqlalchemy.testing.suite import *\n"
_SETTINGS = """
[tool:pytest]
addopts = --tb=no -q -p no:warnings -p no:cacheprovider -p no:xdist
python_files = test_*.py

[sqla_testing]
requirement_cls=suite_requirements:Requirements
profile_file=profiles.txt
"""

#: Tests that answer differently, each with its reason.
ACCEPTED: dict[str, str] = {}


def outcomes(folder: Path, url: str, *, routed: bool) -> tuple[dict[str, str], str]:
    """What each test of the suite came to, and the end of what pytest printed."""
    folder.mkdir()
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "test_suite.py").write_text(_SUITE)
    (folder / "setup.cfg").write_text(_SETTINGS)
    requirements = _REQUIREMENTS.format(sqlite=url.startswith("sqlite"))
    (folder / "suite_requirements.py").write_text(requirements)
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "test_suite.py", "--dburi", url]
    command += ["--junitxml", str(report)]
    if routed:
        command += ["-p", "tests.compliance.dialects.routed"]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), str(folder)]),
    }
    run = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert report.exists(), run.stdout[-3000:] + run.stderr[-3000:]
    found = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found[name] = kinds[0] if kinds else "passed"
    return found, run.stdout


def compare(tmp_path: Path, plain_url: str, routed_url: str, *, at_once: int) -> None:
    with ThreadPoolExecutor(at_once) as both:  # each is a process of its own
        waiting = both.submit(outcomes, tmp_path / "plain", plain_url, routed=False)
        ours = both.submit(outcomes, tmp_path / "routed", routed_url, routed=True)
        plain, said = waiting.result()
        routed, said_routed = ours.result()
    engines = re.search(r"routed engines made: (\d+)", said_routed)
    assert engines is not None, said_routed[-2000:]
    assert int(engines.group(1)) > 0, said_routed[-2000:]
    assert sum(outcome == "passed" for outcome in plain.values()) > 300, said[-2000:]
    assert plain.keys() == routed.keys()
    different = {
        name: (plain[name], routed[name])
        for name in plain
        if plain[name] != routed[name] and name not in ACCEPTED
    }
    assert different == {}


def test_sqlite(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{side}/suite.db" for side in ("plain", "routed")]
    compare(tmp_path, *urls, at_once=1)  # two at once remove each other's files


def test_postgresql(tmp_path: Path, postgresql: ServerAddress) -> None:
    urls = []
    for name in ("suite_plain", "suite_routed"):
        postgresql.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        postgresql.execute(f'CREATE DATABASE "{name}"')
        for schema in ("test_schema", "test_schema_2"):
            postgresql.execute(f"CREATE SCHEMA {schema}", name)
        url: URL = postgresql.url("postgresql+psycopg", name)
        urls.append(url.render_as_string(hide_password=False))
    try:
        compare(tmp_path, *urls, at_once=2)
    finally:
        for name in ("suite_plain", "suite_routed"):
            postgresql.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
