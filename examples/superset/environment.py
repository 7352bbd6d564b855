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
LOCK = CHECKOUT / "requirements" / "superset.txt"
BUILD = CHECKOUT / ".build"

_RUNS = "import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))"


def superset_python() -> Path:
    """The interpreter of the Superset environment, which is made if it is not there."""
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
    if uv:
        run(uv, "venv", "--quiet", "--python", base, directory)
        run(uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", LOCK)
    else:
        run(base, "-m", "venv", directory)
        run(python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", LOCK)
    site = next((directory / "lib").glob("python3.*/site-packages"))
    (site / "tenantry-checkout.pth").write_text(f"{CHECKOUT / 'src'}\n")
    (directory / "complete").touch()
    return python


def base_python() -> str:
    """A Python that Superset 6.1 and the lock run on.

    Raises:
        SystemExit: There is none; the message says what to install.
    """
    named = [os.environ["PYTHON"]] if os.environ.get("PYTHON") else []
    for name in [*named, "python3.11", "python3.12", "python3", sys.executable]:
        path = shutil.which(name)
        if (
            path
            and subprocess.run([path, "-c", _RUNS], capture_output=True, check=False).returncode
            == 0
        ):
            return path
    raise SystemExit("Superset needs Python 3.11 or 3.12; install one, or name it with PYTHON=...")


def digest(*files: Path, more: str = "") -> str:
    """A short name for the content of *files*."""
    content = hashlib.sha256(more.encode())
    for file in files:
        content.update(file.read_bytes())
    return content.hexdigest()[:12]


def run(*command: str | Path) -> None:
    """Run a command that must succeed."""
    subprocess.run([str(part) for part in command], check=True)


if __name__ == "__main__":
    print(superset_python())
