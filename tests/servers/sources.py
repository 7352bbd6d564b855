"""Where a server's or a browser's binaries come from: this machine, its packages, a container."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sqlalchemy.engine import make_url

from tenantry.errors import MissingDependencyError
from tenantry.testing.address import ServerAddress
from tenantry.testing.process import kept_process, private_directory, reachable

CHECKOUT = Path(__file__).parents[2]
FETCHED = CHECKOUT / ".build" / "servers"
"""What was fetched for these tests alone; ``make clean`` removes it."""

# Servers are often kept off an ordinary user's PATH.
_PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/usr/libexec:/opt/homebrew/bin"


@dataclasses.dataclass(frozen=True)
class Installation:
    """Binaries below one root, ``/`` for those of the machine."""

    root: Path

    def find(self, *names: str) -> Path | None:
        """The first of *names* that this installation has."""
        if self.root == Path("/"):
            path = f"{os.environ.get('PATH', '')}:{_PLACES}"
        else:
            path = ":".join(str(self.root / "usr" / part) for part in ("sbin", "bin"))
        for name in names:
            if found := shutil.which(name, path=path):
                return Path(found)
        return None

    def program(self, *names: str) -> Path:
        """As :meth:`find`.

        Raises:
            MissingDependencyError: It has none of them.
        """
        found = self.find(*names)
        if found is None:
            raise MissingDependencyError(f"there is no {' or '.join(names)} below {self.root}")
        return found

    def has(self, programs: Sequence[Sequence[str]]) -> bool:
        """Whether it has each of *programs*, under one of its names."""
        return all(self.find(*names) for names in programs)

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to find the libraries that were fetched with it."""
        if self.root == Path("/"):
            return {}
        folders = sorted({str(library.parent) for library in self.root.glob("**/lib*.so*")})
        return {"LD_LIBRARY_PATH": ":".join(folders)}

    def within_reach(self, directory: Path) -> Installation:
        """This installation, or a copy in *directory* if the servers' account cannot enter it."""
        if reachable(self.root / "usr"):
            return self
        copy = directory / "installation"
        shutil.copytree(self.root, copy, symlinks=True)
        return Installation(copy)


MACHINE = Installation(Path("/"))


def address_from(variable: str, admin_driver: str, version_sql: str) -> ServerAddress | None:
    """The server that the environment names, if it does. It is used, never started or stopped."""
    given = os.environ.get(variable)
    if not given:
        return None
    url = make_url(given)
    address = ServerAddress(
        host=url.host or "127.0.0.1",
        port=url.port or 0,
        user=url.username or "",
        password=url.password or "",
        database=url.database or "",
        version="",
        admin_driver=admin_driver,
    )
    return dataclasses.replace(address, version=str(address.execute(version_sql)[0][0]))


def version_of(
    program: Path, environment: dict[str, str], pattern: str = r"\d+\.\d+(\.\d+)*"
) -> str:
    """The version that a program prints of itself."""
    said = subprocess.run(
        [program, "--version"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    ).stdout
    match = re.search(pattern, said)
    return match[0] if match else said.strip()


def fetch(
    name: str, debian: Sequence[str], others: Sequence[str], programs: Sequence[Sequence[str]]
) -> Installation:
    """Have the system's package manager bring a server that is not on this machine.

    Each of *programs*, under one of its names, is what the packages have to bring.

    On Debian and Ubuntu its packages are only downloaded and unpacked, into the build
    directory: that needs no rights, installs nothing and starts no service. Elsewhere the
    package is installed, where we are root or may become it without a password;
    ``TENANTRY_TEST_INSTALL=0`` forbids both.

    Raises:
        MissingDependencyError: It could not be had; the message says what was tried.
    """
    if os.environ.get("TENANTRY_TEST_INSTALL") == "0":
        raise MissingDependencyError(
            f"no {name} on this machine; TENANTRY_TEST_INSTALL=0 forbids to fetch it"
        )
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        return _unpack_debian(debian, programs)
    install = _package_manager()
    if install is None:
        raise MissingDependencyError(
            f"no {name} on this machine and no package manager that we may use; install {name}, "
            "or give its address in the environment (docs/contributing.md)"
        )
    _run([*install, *others])
    for names in programs:
        MACHINE.program(*names)
    return MACHINE


def container_engine(missing: MissingDependencyError) -> str:
    """``docker`` or ``podman``, if one is installed and its engine answers.

    Raises:
        MissingDependencyError: None does; the message goes on from *missing*.
    """
    for engine in ("docker", "podman"):
        if shutil.which(engine):
            asked = subprocess.run([engine, "info"], capture_output=True, check=False)
            if asked.returncode == 0:
                return engine
    message = f"{missing}; and no container engine answers"
    raise MissingDependencyError(message) from missing


@contextlib.contextmanager
def running_container(command: Sequence[str | Path], ready: Callable[[], bool]) -> Iterator[None]:
    """Run a container in the foreground (``docker run --rm ...``) for the length of the block.

    The client passes the stop signal on, and ``--rm`` removes the container when it has ended.
    """
    # As ourselves, for it is the engine's door that has to open.
    ourselves = (os.getuid(), os.getgid())
    with (
        private_directory() as directory,
        kept_process(command, directory=directory, ready=ready, run_as=ourselves),
    ):
        yield


def _unpack_debian(packages: Sequence[str], programs: Sequence[Sequence[str]]) -> Installation:
    system = platform.freedesktop_os_release()
    release = f"{system['ID']}{system.get('VERSION_ID', '')}-{platform.machine()}"
    wanted = FETCHED / release / "+".join(packages)
    if Installation(wanted).has(programs):
        return Installation(wanted)
    wanted.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FETCHED) as scratch:
        work = Path(scratch)
        for folder in ("state/lists/partial", "cache/archives/partial", "root"):
            (work / folder).mkdir(parents=True)
        # Our own lists and cache, so that no rights are needed and nothing of the system changes;
        # its record of what is installed is read, so that of what the packages need only what is
        # missing comes. They come themselves even if installed: their programs were not found.
        apt = [
            "apt-get",
            *("-qq", "-o", f"Dir::State={work / 'state'}", "-o", f"Dir::Cache={work / 'cache'}"),
            *("-o", "Dir::State::status=/var/lib/dpkg/status"),
            *("-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User="),
        ]
        _run([*apt, "update"])
        bring = ["install", "-y", "--reinstall", "--no-install-recommends", "--download-only"]
        _run([*apt, *bring, *packages])
        for package in sorted((work / "cache" / "archives").glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(work / "root")])
        for names in programs:
            if Installation(work / "root").find(*names) is None:
                raise MissingDependencyError(
                    f"the packages {', '.join(packages)} brought no {' or '.join(names)}; where "
                    "`dpkg -V` misses files of a package that they need, install that one anew"
                )
        (work / "root").chmod(0o755)
        keep(work / "root", wanted, programs)
    return Installation(wanted)


def keep(root: Path, wanted: Path, programs: Sequence[Sequence[str]]) -> None:
    """Put what was unpacked in *root* at *wanted*, unless another run was faster.

    What is there and has lost a program makes room.
    """
    try:
        root.rename(wanted)
    except OSError:
        if Installation(wanted).has(programs):
            return
        wanted.rename(root.with_name("incomplete"))
        root.rename(wanted)


def _package_manager() -> list[str] | None:
    """The command that installs packages here without asking anybody anything."""
    if shutil.which("brew"):
        return ["brew", "install"]
    rights: list[str] = []
    if os.getuid() != 0:
        if not shutil.which("sudo"):
            return None
        rights = ["sudo", "-n"]
        if subprocess.run([*rights, "true"], capture_output=True, check=False).returncode != 0:
            return None
    if shutil.which("dnf"):
        return [*rights, "dnf", "install", "-y"]
    if shutil.which("apk"):
        return [*rights, "apk", "add"]
    return None


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode != 0:
        last = " / ".join(done.stdout.strip().splitlines()[-3:])
        raise MissingDependencyError(f"`{' '.join(command)}` ended with {done.returncode}: {last}")
