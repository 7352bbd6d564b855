"""Flask-SQLAlchemy's own tests give the same results with the drop-in as with the original.

Their suite is not ours to ship. It comes from the package index by name, in the version that is
installed, and stays below ``.build/``. Their release may be older than the SQLAlchemy beside it,
so some of their tests fail with the original: then they fail with the drop-in as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.servers.session import missing

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[2]
CACHE = CHECKOUT / ".build" / "flask-sqlalchemy"

#: Test -> why its result may differ.
ACCEPTED: dict[str, str] = {}


def their_source(folder: Path) -> Path:
    """The unpacked source release of the installed version; from the cache, else by pip."""
    release = version("flask-sqlalchemy")
    archive = CACHE / f"flask_sqlalchemy-{release}.tar.gz"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", "flask-sqlalchemy", "--disable-pip-version-check"]
        done = subprocess.run(
            [*command, "--dest", str(folder), f"flask-sqlalchemy=={release}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            missing(f"the package index gave no source: {done.stderr.strip()[-300:]}")
        (folder / archive.name).replace(archive)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / f"flask_sqlalchemy-{release}"


def results(source: Path, *options: str) -> dict[str, str]:
    """Test -> how it ended: ``passed``, or how it failed and the class of the error."""
    report = source / "report.xml"
    command = [sys.executable, "-m", "pytest", "tests", "-p", "no:cacheprovider"]
    # Their tests leave engines to the garbage collector, of which Python 3.13 tells.
    command += ["-W", "ignore::ResourceWarning"]
    command += ["-W", "ignore::pytest.PytestUnraisableExceptionWarning"]
    done = subprocess.run(
        [*command, f"--junitxml={report}", *options],
        cwd=source,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-2000:]
    assert ("substituted: MultiTenantSQLAlchemy" in done.stdout) is bool(options)
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        ends = [
            f"{end.tag}: {end.get('message', '').partition(':')[0]}"
            for end in case
            if end.tag in ("failure", "error", "skipped")
        ]
        name = f"{case.get('classname')}::{case.get('name')}"
        found[name] = "; ".join([*found.get(name, "").split("; "), *ends]).strip("; ") or "passed"
    return found


@pytest.mark.timeout(1800)
def test_the_drop_in_gives_the_same_results(tmp_path: Path) -> None:
    source = their_source(tmp_path)
    original = results(source)
    ours = results(source, "-p", "substitute")
    assert len(original) > 400
    assert sum(end == "passed" for end in original.values()) > 250
    different = {
        name: (original.get(name), ours.get(name))
        for name in original.keys() | ours.keys()
        if original.get(name) != ours.get(name) and name not in ACCEPTED
    }
    assert different == {}
    stale = [name for name in ACCEPTED if original.get(name) == ours.get(name)]
    assert stale == [], "these differ no more; take them off the list"
