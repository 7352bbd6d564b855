"""The Superset environment: one virtual environment from the lock, made once and kept.

Standard library only. Superset pins SQLAlchemy 1.4, so it cannot share one with anything else.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
NEWEST = "6.1.0"
_ASKED = os.environ.get("TENANTRY_SUPERSET", "")
RELEASE = _ASKED if "." in _ASKED else NEWEST
"""The release of Superset: one that has a lock, or the newest that has."""

LOCK = CHECKOUT / "requirements" / f"superset{f'-{RELEASE}' * (RELEASE != NEWEST)}.txt"
BUILD = CHECKOUT / ".build"

_RUNS = "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))"


def superset_python() -> Path:
    """The interpreter of the Superset environment, which is made if it is not there.

    Raises:
        SystemExit: It cannot be made; the message says what to install.
    """
    if not LOCK.exists():
        raise SystemExit(f"there is no lock for Superset {RELEASE}; make lock-superset makes one")
    directory = BUILD / f"superset-venv-{digest(LOCK)}"
    python = directory / "bin" / "python"
    if (directory / "complete").exists():
        return python
    shutil.rmtree(directory, ignore_errors=True)
    base = base_python()
    print(f"making {directory.relative_to(CHECKOUT)} from the lock, about a minute", flush=True)
    uv = shutil.which("uv")
    if uv and subprocess.run([uv, "--version"], capture_output=True, check=False).returncode:
        uv = None  # a shim for a version that is not there
    # The lock holds everything; pip would look beside it for what is asked for with an extra.
    exactly = ("install", "--quiet", "--no-deps", "--require-hashes", "-r", LOCK)
    if uv:
        run(uv, "venv", "--quiet", "--python", base, directory)
        run(uv, "pip", *exactly, "--python", python)
    else:
        make_environment(base, directory)
        run(python, "-m", "pip", *exactly)
    site = next((directory / "lib").glob("python3.*/site-packages"))
    (site / "tenantry-checkout.pth").write_text(f"{CHECKOUT / 'src'}\n")
    (directory / "complete").touch()
    return python


def make_environment(base: str, directory: Path) -> None:
    """A virtual environment with pip; a Debian Python may come without what makes one.

    Raises:
        SystemExit: There is no way here; the message says what to install.
    """
    ways: list[list[list[str | Path]]] = [
        [[base, "-m", "venv", directory]],
        [
            [base, "-m", "venv", "--without-pip", directory],
            [base, "-m", "pip", "--python", directory / "bin" / "python", "install", "pip"],
        ],
    ]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        install: list[str | Path] = ["apt-get", "install", "-y", "--no-install-recommends"]
        ways.append([["apt-get", "update"], [*install, "python3-venv"], *ways[0]])
    for way in ways:
        shutil.rmtree(directory, ignore_errors=True)
        if all(
            subprocess.run(command, capture_output=True, check=False).returncode == 0
            for command in way
        ):
            return
    shutil.rmtree(directory, ignore_errors=True)
    raise SystemExit(
        f"cannot make a virtual environment with {base}; install its venv module first "
        "(on Debian and Ubuntu: sudo apt-get install python3-venv), then repeat this command"
    )


def base_python() -> str:
    """A Python that Superset and the locks run on.

    Raises:
        SystemExit: There is none; the message says what to install.
    """
    named = [os.environ["PYTHON"]] if os.environ.get("PYTHON") else []
    for name in [*named, "python3.11", "python3.12", "python3.10", "python3", sys.executable]:
        path = shutil.which(name)
        if (
            path
            and subprocess.run([path, "-c", _RUNS], capture_output=True, check=False).returncode
            == 0
        ):
            return path
    raise SystemExit("Superset needs Python 3.10 to 3.12; install one, or name it with PYTHON=...")


def digest(*files: Path, more: str = "") -> str:
    """A short name for the content of *files*."""
    content = hashlib.sha256(more.encode())
    for file in files:
        content.update(file.read_bytes())
    return content.hexdigest()[:12]


def run(*command: str | Path) -> None:
    """Run a command that must succeed.

    Raises:
        SystemExit: It failed; its own words are above.
    """
    code = subprocess.run([str(part) for part in command], check=False).returncode
    if code:
        raise SystemExit(f"`{' '.join(str(part) for part in command)}` ended with {code}")


if __name__ == "__main__":
    print(superset_python())
