"""Fleets for tests: many tenants on a real server, described by a TOML file as a user's are."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from tenantry import Tenancy, Tenant
from tenantry.directory import TableDirectory
from tenantry.fleet import Access, Place, Scripts, Settings, make_place, migrate_tenants
from tenantry.testing.address import ServerAddress

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "fleet"
PASSWORD = "TENANTRY_TEST_FLEET_PASSWORD"
KINDS = ["sqlite", "postgresql-schema", "postgresql-database", "mariadb"]
_numbers = itertools.count(1)


@dataclass
class Fleet:
    """Tenants on one server; *file* is what ``--file`` takes."""

    kind: str
    folder: Path
    file: Path
    ids: list[str]
    address: ServerAddress | None = None
    database: str = ""
    tenancy: Tenancy = field(init=False)
    access: Access = field(init=False)

    def __post_init__(self) -> None:
        self.tenancy = Tenancy.from_file(self.file)
        self.access = Access(self.tenancy.servers)

    def tenant(self, tenant_id: str) -> Tenant:
        return self.tenancy.get(tenant_id)

    def place(self, tenant_id: str) -> Place:
        return self.access.place(self.tenant(tenant_id))

    def make_places(self, ids: Sequence[str] | None = None) -> None:
        for tenant_id in ids or self.ids:
            make_place(self.access, self.place(tenant_id))

    @contextmanager
    def connect(self, tenant_id: str) -> Iterator[Connection]:
        with self.access.enter(self.place(tenant_id)) as connection:
            yield connection

    def rows(self, tenant_id: str, query: str) -> list[tuple[Any, ...]]:
        with self.connect(tenant_id) as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    def execute(self, tenant_id: str, *statements: str) -> None:
        with self.connect(tenant_id) as connection:
            for statement in statements:
                connection.execute(text(statement))
            connection.commit()

    @contextmanager
    def with_table(self) -> Iterator[Tenancy]:
        """The same servers, with a directory that is a table and knows nobody yet."""
        servers = dict(self.tenancy.servers)
        directory = TableDirectory(f"sqlite:///{self.folder / 'control.db'}", servers=servers)
        directory.create_tables()
        tenancy = Tenancy(directory, servers)
        try:
            yield tenancy
        finally:
            tenancy.close()
            directory.close()

    def environment(self) -> dict[str, str]:
        path = [str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tenantry", *arguments, "--file", str(self.file)]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def drop(self) -> None:
        self.access.close()
        self.tenancy.close()
        if self.address is None:
            return
        names = [self.database] if self.database else []
        if self.kind in ("postgresql-database", "mariadb"):
            names += [self.tenant(each).placement.database or "" for each in self.ids]
        for name in names:
            if self.kind == "mariadb":
                self.address.execute(f"DROP DATABASE IF EXISTS `{name}`")
            else:
                self.address.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextmanager
def fleet_of(
    kind: str, count: int, folder: Path, address: ServerAddress | None, *, make: bool = True
) -> Iterator[Fleet]:
    """*count* tenants ``t000``, ``t001``, ... on a server of this kind; their places are empty."""
    number = next(_numbers)
    ids = [f"t{index:03}" for index in range(count)]
    lines = ["[servers.main]"]
    database = ""
    if address is None:
        lines.append(f'url = "sqlite:///{folder / "data"}"')
    else:
        os.environ[PASSWORD] = address.password
        dialect = "mysql+pymysql" if kind == "mariadb" else "postgresql+psycopg"
        if kind != "mariadb":
            database = f"fleet{os.getpid()}_{number}"
            address.execute(f'CREATE DATABASE "{database}"')
        url = f"{dialect}://{address.user}@{address.host}:{address.port}/{database}"
        lines += [f'url = "{url}"', f'password_env = "{PASSWORD}"']
    for tenant_id in ids:
        lines.append(f"[tenants.{tenant_id}]")
        if kind == "postgresql-schema":
            lines += ['isolation = "schema"', f'schema = "{tenant_id}"']
        elif address is not None:
            lines.append(f'database = "f{os.getpid()}_{number}_{tenant_id}"')
    file = folder / "tenants.toml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    fleet = Fleet(kind, folder, file, ids, address, database)
    try:
        if make:
            fleet.make_places()
        yield fleet
    finally:
        fleet.drop()


def project(folder: Path, revisions: dict[str, str] | None = None) -> Path:
    """An Alembic project: a copy of the example's, or one of *revisions*, in order."""
    if revisions is None:
        target = folder / "example"
        shutil.copytree(EXAMPLE, target, ignore=shutil.ignore_patterns("data", "__pycache__"))
        return target / "alembic.ini"
    home = folder / "migrations"
    (home / "versions").mkdir(parents=True)
    (home / "env.py").write_text(
        "from tenantry.fleet import alembic_env\nalembic_env.run()\n", encoding="utf-8"
    )
    before = "None"
    for name, body in revisions.items():
        (home / "versions" / f"{name}.py").write_text(
            f"import sqlalchemy as sa\nfrom alembic import op\n"
            f"revision = {name!r}\ndown_revision = {before}\n"
            f"def upgrade():\n{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n"
            "def downgrade():\n    pass\n",
            encoding="utf-8",
        )
        before = repr(name)
    ini = folder / "alembic.ini"
    ini.write_text(f"[alembic]\nscript_location = {home}\npath_separator = os\n", encoding="utf-8")
    return ini


def scripts_of(folder: Path, revisions: dict[str, str] | None = None) -> Scripts:
    """The scripts of such a project."""
    return Scripts(project(folder, revisions))


def migrated(
    fleet: Fleet,
    folder: Path,
    revisions: dict[str, str] | None = None,
    *,
    to: str = "heads",
    ids: Sequence[str] | None = None,
) -> Scripts:
    """The scripts of *revisions*, after tenants (``None``: all) have come to the one named *to*."""
    scripts = scripts_of(folder, revisions)
    tenants = [fleet.tenant(each) for each in ids or fleet.ids]
    migrate_tenants(
        fleet.tenancy, scripts, tenants=tenants, settings=Settings(to)
    ).raise_if_failed()
    return scripts


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL, to it and to what it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
