"""Without its extra, a module of the edges says what to install, and nothing else breaks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.test_arrows import SOURCE, THIRD_PARTIES

INTEGRATIONS = sorted(
    path.stem
    for path in (SOURCE / "integrations").glob("[!_]*")
    if path.suffix == ".py" or (path / "__init__.py").exists()
)
EXTRAS = sorted(frozenset.union(*THIRD_PARTIES.values()) - {"sqlalchemy"})

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
