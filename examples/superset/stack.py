"""Starts a Superset from the locked environment, and ends it with the block that started it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import scrypt
from pathlib import Path

from examples.superset.environment import BUILD, LOCK, NEWEST, RELEASE, digest, superset_python
from tenantry.errors import ServerUnavailableError
from tenantry.testing.process import free_port, kept_process, private_directory

HERE = Path(__file__).parent
PATIENCE_SECONDS = 240.0


@dataclass(frozen=True)
class Superset:
    """A running Superset, and how to log in to it."""

    url: str
    guest_secret: str = field(repr=False)
    passwords: Mapping[str, str] = field(repr=False)
    log: Path
    worker_log: Path
    environment: Mapping[str, str] = field(repr=False)
    audience: str = "superset"


@contextlib.contextmanager
def running_superset(
    config: Path = HERE / "superset_config.py",
    *,
    environment: Mapping[str, str],
    accounts: tuple[str, ...] = ("admin:Admin", "embedder:Embedder"),
    port: int | None = None,
    workers: bool = False,
    log: Path | None = None,
) -> Iterator[Superset]:
    """Run Superset with *config* until the block ends.

    *environment* has what the configuration needs besides the secrets and the metadata
    database, which are made here. *workers* starts a Celery worker too. *log* gets what the
    server said; ``None``: it goes with the server.
    """
    python = superset_python()
    prepared = _prepared(python, accounts)
    port = port or free_port()
    with private_directory() as directory, private_directory() as worker_directory:
        directory.chmod(0o755)
        metadata = directory / "metadata.db"
        shutil.copy(prepared, metadata)
        passwords = _set_passwords(metadata, accounts)
        guest_secret = secrets.token_urlsafe(42)
        complete = {
            **_bare_environment(),
            **environment,
            "SUPERSET_CONFIG_PATH": str(config),
            "SUPERSET_SECRET_KEY": secrets.token_urlsafe(42),
            "SUPERSET_GUEST_SECRET": guest_secret,
            "SUPERSET_ASYNC_SECRET": secrets.token_urlsafe(42),
            "SUPERSET_METADATA_URL": f"sqlite:///{metadata}?check_same_thread=false",
            "SUPERSET_HOME": str(directory),
            "FLASK_APP": "superset.app:create_app()",
        }
        ours = (os.getuid(), os.getgid())
        web: list[str | Path] = [
            *(python, "-m", "gunicorn", "superset.app:create_app()"),
            *("--bind", f"127.0.0.1:{port}", "--workers", "1", "--worker-class", "gthread"),
            *("--threads", "8", "--timeout", "300", "--graceful-timeout", "2"),
            # The gunicorn that is locked for older releases has none.
            *(["--no-control-socket"] if RELEASE == NEWEST else []),
        ]
        worker: list[str | Path] = [
            *(python, "-m", "celery", "--app", "superset.tasks.celery_app:app", "worker"),
            *("--pool", "threads", "--concurrency", "4", "--without-gossip", "--without-mingle"),
            *("--loglevel", "info"),
        ]
        with contextlib.ExitStack() as stack:
            if log is not None:
                stack.callback(_keep, directory / "log", log)
            for command, place in [(web, directory)] + ([(worker, worker_directory)] * workers):
                stack.enter_context(
                    kept_process(
                        command,
                        directory=place,
                        ready=lambda: True,  # it takes longer than a database; waited for below
                        environment=complete,
                        run_as=ours,
                    )
                )
            # Leave the end of the log readable: the keepers remove their directories at the end.
            if log is not None:
                stack.callback(_keep, directory / "log", log)
                stack.callback(_keep, worker_directory / "log", log.with_suffix(".worker.log"))
            url = f"http://127.0.0.1:{port}"
            _wait(url, directory)
            logs = (directory / "log", worker_directory / "log")
            yield Superset(url, guest_secret, passwords, *logs, complete)


def _keep(source: Path, target: Path) -> None:
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def _bare_environment() -> dict[str, str]:
    """Our own environment without tenants and Superset settings that somebody exported."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DB_", "SUPERSET_", "PYTHON", "FLASK_", "REDIS_"))
    }


def _wait(url: str, directory: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if (directory / "exited").exists():
            break
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"{url}/health", timeout=5) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.3)
    said = (directory / "log").read_text(errors="replace").strip().splitlines()
    raise ServerUnavailableError("Superset did not start: " + "\n".join(said[-30:]))


def _prepared(python: Path, accounts: tuple[str, ...]) -> Path:
    """An initialised metadata database in SQLite, made once for this lock and these accounts."""
    name = digest(LOCK, HERE / "prepare.py", more=" ".join(accounts))
    prepared = BUILD / f"superset-metadata-{name}.db"
    if prepared.exists():
        return prepared
    print("preparing Superset's metadata database, about two minutes", flush=True)
    BUILD.mkdir(exist_ok=True)
    home = BUILD / f"superset-prepare-{os.getpid()}"
    home.mkdir()
    try:
        unfinished = home / "metadata.db"
        (home / "superset_config.py").write_text(
            f"SECRET_KEY = {secrets.token_urlsafe(42)!r}\n"
            f"SQLALCHEMY_DATABASE_URI = 'sqlite:///{unfinished}'\n"
            "FEATURE_FLAGS = {'EMBEDDED_SUPERSET': True}\n"
        )
        done = subprocess.run(
            [str(python), str(HERE / "prepare.py"), *accounts],
            env={
                **_bare_environment(),
                "SUPERSET_CONFIG_PATH": str(home / "superset_config.py"),
                "SUPERSET_HOME": str(home),
            },
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ServerUnavailableError("Superset was not prepared: " + done.stderr[-3000:])
        unfinished.replace(prepared)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return prepared


def _set_passwords(metadata: Path, accounts: tuple[str, ...]) -> dict[str, str]:
    passwords = {account.split(":")[0]: secrets.token_urlsafe(18) for account in accounts}
    with contextlib.closing(sqlite3.connect(metadata)) as connection, connection:
        for name, password in passwords.items():
            connection.execute(
                "UPDATE ab_user SET password = ? WHERE username = ?", (_hashed(password), name)
            )
    return passwords


def _hashed(password: str) -> str:
    """As Werkzeug's ``generate_password_hash`` writes it: scrypt with N=32768, r=8, p=1."""
    salt = secrets.token_hex(8)
    value = scrypt(
        password.encode(), salt=salt.encode(), n=2**15, r=8, p=1, maxmem=132 * 2**15 * 8 * 2
    )
    return f"scrypt:32768:8:1${salt}${value.hex()}"
