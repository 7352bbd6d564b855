"""Starts a server process in a directory of its own, so that it cannot stay behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import ServerUnavailableError

KEEPER = Path(__file__).with_name("keeper.py")
START_TIMEOUT_SECONDS = 60.0


def account() -> tuple[int, int]:
    """User and group id that servers run as: our own, or ``nobody`` where we are root.

    PostgreSQL and PgBouncer refuse to run as root, and the others warn of it.
    """
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    import pwd

    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """A new directory that only the servers' account (and root) can enter; removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="tenantry-"))
    try:
        os.chown(directory, *account())
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that only the servers' account (and root) can read."""
    path.touch(mode=0o600)
    path.write_text(text)
    os.chown(path, *account())


def reachable(path: Path) -> bool:
    """Whether the servers' account can enter every directory down to *path*."""
    if os.getuid() != 0 or account()[0] == 0:
        return True
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)


def run_once(
    command: Sequence[str | Path],
    directory: Path,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a command that ends by itself, as the servers' account.

    *environment* is added to our own.

    Raises:
        ServerUnavailableError: It failed; the message ends with what it said last.
    """
    uid, gid = account()
    other = uid != os.getuid()
    done = subprocess.run(
        [str(part) for part in command],
        cwd=directory,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        user=uid if other else None,
        group=gid if other else None,
        extra_groups=[] if other else None,
        check=False,
    )
    if done.returncode != 0:
        raise ServerUnavailableError(
            f"{Path(command[0]).name} ended with {done.returncode}: {_ending(done.stdout)}"
        )


@contextlib.contextmanager
def kept_process(
    command: Sequence[str | Path],
    *,
    directory: Path,
    ready: Callable[[], bool],
    stop_signal: signal.Signals = signal.SIGTERM,
    environment: Mapping[str, str] | None = None,
    run_as: tuple[int, int] | None = None,
) -> Iterator[None]:
    """Run a server for the length of the block, in *directory*.

    The block begins once *ready* says yes. When it ends, or this process does, by whatever
    cause, the server gets *stop_signal* and the directory is removed. *environment* is added
    to our own; *run_as* is a user and a group id, ``None`` the servers' account.

    Raises:
        ServerUnavailableError: The server ended, or was not ready in a minute; the message
            ends with the end of its log.
    """
    uid, gid = run_as or account()
    keeper = subprocess.Popen(
        [
            *(sys.executable, "-I", str(KEEPER), str(directory)),
            *(str(int(stop_signal)), str(uid), str(gid)),
            *(str(part) for part in command),
        ],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us; the server's end is our decision
    )
    owner = os.getpid()
    try:
        _wait_until(ready, directory, Path(command[0]).name)
        yield
    finally:
        # A forked child that leaves this block is not the owner.
        if os.getpid() == owner:
            # Written and not only closed: a forked child may still hold a copy of the pipe.
            with contextlib.suppress(BrokenPipeError):
                keeper.communicate(b".")
            keeper.wait()


def answers_on(port: int) -> bool:
    """Whether somebody accepts connections on this port of 127.0.0.1."""
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _wait_until(ready: Callable[[], bool], directory: Path, name: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not ready():
        if (directory / "exited").exists():
            cause = "ended while starting"
        elif time.monotonic() > deadline:
            cause = f"was not ready after {START_TIMEOUT_SECONDS:.0f} seconds"
        else:
            time.sleep(0.02)
            continue
        log = (directory / "log").read_text(errors="replace")
        raise ServerUnavailableError(f"{name} {cause}: {_ending(log)}")


def _ending(text: str) -> str:
    return " / ".join(text.strip().splitlines()[-5:]) or "it said nothing"
