"""One new revision, status, and a new tenant, over a thousand tenants; contestants in one run.

``python -m benchmarks fleet`` (``--quick`` for a tenth of the tenants). Own servers, with fsync.
The revision adds a column and an index to a small table. CPU is the server's, per tenant.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import event

from benchmarks import fleet_django
from tenantry import Isolation, Placement, Server, Tenancy, Tenant
from tenantry.directory import MappingDirectory, TableDirectory
from tenantry.fleet import (
    Access,
    Blueprints,
    Scripts,
    Settings,
    claim,
    delete,
    diagnose,
    fill_spares,
    make_place,
    migrate_tenants,
    migration_status,
)
from tenantry.testing.address import ServerAddress
from tenantry.testing.postgresql import find_binaries, running_postgresql
from tests.fleet.fleets import EXAMPLE, project

REVISIONS = {
    "r1": "op.create_table('things', sa.Column('id', sa.Integer, primary_key=True), "
    "sa.Column('name', sa.String(80)))",
    "r2": "op.add_column('things', sa.Column('colour', sa.String(20)))\n"
    "op.create_index('things_colour', 'things', ['colour'])",
}
SQL = """\
ALTER TABLE things ADD COLUMN colour VARCHAR(20);
CREATE INDEX things_colour ON things (colour);
UPDATE alembic_version SET version_num = 'r2' WHERE version_num = 'r1';
"""
#: Rounds of those who bring a fleet on, and of those who make a new tenant.
CONTESTS = 5
ROUNDS = 20
PSQL = "psql -f, a transaction per schema, serial"
UNDO = """\
DO $$ DECLARE s text; BEGIN FOR s IN SELECT nspname FROM pg_namespace WHERE nspname ~ '^t[0-9]' LOOP
EXECUTE format('ALTER TABLE %I.things DROP COLUMN IF EXISTS colour', s);
EXECUTE format('UPDATE %I.alembic_version SET version_num = ''r1''', s);
END LOOP; END $$"""


@contextmanager
def counting() -> Iterator[list[str]]:
    """The statements that SQLAlchemy sends meanwhile."""
    seen: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(sa.Engine, "before_cursor_execute", note)


def server_cpu(port: int) -> float:
    """Seconds of CPU of the PostgreSQL on *port* and all its children, dead ones too."""
    time.sleep(0.5)  # a session that has just ended is counted when its process is gone
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0.0
    stats: dict[int, list[str]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue
            stats[int(folder.name)] = stat.rpartition(")")[2].split()
    for pid, fields in stats.items():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"-p" in words and str(port).encode() in words and b"postgres" in words[0]:
            total += sum(int(each) for each in fields[11:15])
            total += sum(int(f[11]) + int(f[12]) for f in stats.values() if int(f[1]) == pid)
    return total / ticks


def timed(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def row(what: str, seconds: float, count: int, base: float | None, note: str = "") -> None:
    ratio = f"{base / seconds:6.2f}x" if base else "       "
    print(f"{what:<58} {seconds:8.2f} s {count / seconds:9.1f}/s {ratio} {note}", flush=True)


def in_threads(work: Callable[[str], Any], items: Sequence[str], workers: int) -> None:
    """*work* with each of *items* by bare threads: as fast as anybody can be here."""
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, items))


def bare_messages(address: ServerAddress, schemas: Sequence[str]) -> None:
    """The statements alone, ten schemas in a message: no look, no lock, no guard, no report."""
    connections: SimpleQueue[psycopg.Connection[Any]] = SimpleQueue()
    for _ in range(4):
        connections.put(psycopg.connect(address.url("postgresql").render_as_string(False)))
    messages = []
    for start in range(0, len(schemas), 10):
        some = schemas[start : start + 10]
        parts = [f'SET LOCAL search_path TO "{each}";\n{SQL}COMMIT;\n' for each in some]
        later = "BEGIN;\nSET LOCAL synchronous_commit TO off;\n"  # the last waits for all
        messages.append(later + later.join(parts[:-1]) + "BEGIN;\n" + parts[-1])

    def send(message: str) -> None:
        connection = connections.get()
        result = connection.pgconn.exec_(message.encode())
        connections.put(connection)
        assert result.status == psycopg.pq.ExecStatus.COMMAND_OK, result.error_message

    in_threads(send, messages, 4)
    while not connections.empty():
        connections.get().close()


def context_upgrade(arguments: tuple[str, str, list[str]]) -> int:
    """A hand-written migrator: scripts loaded once, one MigrationContext per schema."""
    ini, url, schemas = arguments
    config = Config(ini)
    script = ScriptDirectory.from_config(config)
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        for schema in schemas:
            if engine.dialect.name == "postgresql":
                connection.execute(sa.text(f'SET search_path TO "{schema}"'))
                connection.commit()
            with EnvironmentContext(
                config, script, fn=lambda rev, _: script._upgrade_revs("head", rev)
            ) as environment:
                environment.configure(connection=connection)
                with environment.begin_transaction():
                    environment.run_migrations()
    engine.dispose()
    return len(schemas)


def schemas(count: int) -> None:
    folder = Path(tempfile.mkdtemp())
    ini = project(folder, REVISIONS)
    scripts = Scripts(ini)
    settings = {"fsync": "on", "full_page_writes": "on"}
    with running_postgresql(settings=settings) as address:
        ids = [f"t{number:04}" for number in range(count)]
        server = Server.from_url("main", address.url("postgresql+psycopg"))
        tenants = [Tenant(each, Placement("main", "schema", None, each)) for each in ids]  # type: ignore[arg-type]
        tenancy = Tenancy(MappingDirectory(tenants), {"main": server})
        with Access(tenancy.servers, keep=4) as access:
            made = timed(lambda: [make_place(access, access.place(each)) for each in tenants])
        row(f"create {count} schemas", made, count, None)
        first = Settings("r1")
        row(
            "tenantry migrate, first revision",
            timed(lambda: migrate_tenants(tenancy, scripts, settings=first).raise_if_failed()),
            count,
            None,
        )

        print(f"\nOne revision (column and index), {count} schemas; x: the first, and the last")
        psql = find_binaries() / "psql"
        contestants: dict[str, Callable[[], Any]] = {}
        if psql.exists():
            file = folder / "all.sql"
            file.write_text(
                "".join(f'BEGIN;\nSET LOCAL search_path TO "{e}";\n{SQL}COMMIT;\n' for e in ids)
            )
            contestants[PSQL] = lambda: run_psql(psql, address, file)
        for workers in (1, 4, 8):
            contestants[f"tenantry migrate, {workers} workers"] = partial(
                migrated, tenancy, scripts, workers
            )
        contestants["bare threads, the statements alone, 4 threads"] = partial(
            bare_messages, address, ids
        )
        parts = [ids[number::4] for number in range(4)]
        url = address.url("postgresql+psycopg").render_as_string(hide_password=False)
        plain = plain_project(folder)

        def processes() -> None:
            with ProcessPoolExecutor(4) as pool:
                list(pool.map(context_upgrade, [(str(plain), url, part) for part in parts]))

        contestants["MigrationContext, scripts loaded once, 4 processes"] = processes

        def undo() -> None:
            """All begin alike: what the one before left in the catalog is nobody's burden."""
            address.execute(UNDO)
            address.execute("VACUUM (ANALYZE) pg_class, pg_attribute, pg_index, pg_depend")
            address.execute("CHECKPOINT")

        base = contest(contestants, count, before_each=undo, cpu=partial(server_cpu, address.port))
        some = ids[: max(10, count // 20)]
        config = Config(str(plain))

        def loop() -> None:
            for each in some:
                config.attributes["url"] = address.url("postgresql+psycopg").update_query_dict(
                    {"options": f"-csearch_path={each}"}
                )
                command.upgrade(config, "head")

        address.execute(UNDO)
        seconds = timed(loop)
        row(
            f"loop over command.upgrade ({len(some)} of them)",
            seconds,
            len(some),
            base * len(some) / count,
        )

        migrate_tenants(tenancy, scripts, canary=0).raise_if_failed()
        print(f"\nNothing to do, {count} schemas")
        with counting() as statements:
            seconds = timed(lambda: migration_status(tenancy, scripts))
        row("tenantry status", seconds, count, None, f"{len(statements)} statements")
        with counting() as statements:
            seconds = timed(lambda: migrate_tenants(tenancy, scripts).raise_if_failed())
        row("tenantry migrate", seconds, count, None, f"{len(statements)} statements")
        row(
            "loop over command.upgrade, the same",
            timed(loop) * count / len(some),
            count,
            None,
            f"scaled from {len(some)}",
        )
        row("tenantry doctor", timed(lambda: diagnose(tenancy)), count, None)
        some_schemas = min(count, 300)
        django = fleet_django.measure(address, some_schemas)
        print(f"\ndjango-tenants, an equal revision, {some_schemas} schemas")
        if isinstance(django, str):
            print(f"left out: {django}")
        else:
            for what, seconds in django.items():
                row(f"migrate_schemas, {what}", seconds, some_schemas, None)
        new_tenants(address, folder)


def contest(
    contestants: Mapping[str, Callable[[], Any]],
    count: int,
    *,
    before_each: Callable[[], Any],
    cpu: Callable[[], float] | None = None,
) -> float:
    """Each once in every round, in an order by chance; a ratio is the median of the rounds'.

    Those that the others are compared with are first and last; returns the seconds of the first.
    """
    seconds: dict[str, list[float]] = {what: [] for what in contestants}
    spent: dict[str, list[float]] = {what: [] for what in contestants}
    for _ in range(CONTESTS):
        for what in random.sample(list(contestants), len(contestants)):
            before_each()
            began = cpu() if cpu else 0.0
            seconds[what].append(timed(contestants[what]))
            if cpu:
                spent[what].append((cpu() - began) / count * 1000)

    def ratio(one: list[float], other: list[float]) -> float:
        return median(a / b for a, b in zip(one, other, strict=True))

    first, *_, last = contestants
    for what, took in seconds.items():
        notes = [f"{ratio(seconds[each], took):5.2f}x" for each in (first, last)]
        if cpu:
            more = ratio(spent[what], spent[first])
            notes.append(f"server CPU {median(spent[what]):.2f} ms, {more:.2f}x")
        row(what, median(took), count, None, "  ".join(notes))
    return median(seconds[first])


def migrated(tenancy: Tenancy, scripts: Scripts, workers: int) -> None:
    migrate_tenants(tenancy, scripts, workers=workers, canary=0).raise_if_failed()


def run_client(program: Path, address: ServerAddress, *options: str | Path) -> str:
    """What one of PostgreSQL's own programs printed."""
    where = ("-h", address.host, "-p", str(address.port), "-U", address.user, address.database)
    done = subprocess.run(
        [program, *options, *where],
        env={**os.environ, "PGPASSWORD": address.password},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def run_psql(psql: Path, address: ServerAddress, file: Path, *options: str) -> None:
    run_client(psql, address, "-X", "-q", "-v", "ON_ERROR_STOP=1", *options, "-f", file)


def plain_project(folder: Path) -> Path:
    """The same revisions with an ``env.py`` as Alembic's own template writes it."""
    home = folder / "plain"
    shutil.copytree(folder / "migrations", home)
    (home / "env.py").write_text(
        "from alembic import context\n"
        "from sqlalchemy import create_engine, pool\n"
        "engine = create_engine(context.config.attributes['url'], poolclass=pool.NullPool)\n"
        "with engine.connect() as connection:\n"
        "    context.configure(connection=connection)\n"
        "    with context.begin_transaction():\n"
        "        context.run_migrations()\n"
    )
    ini = folder / "plain.ini"
    ini.write_text(f"[alembic]\nscript_location = {home}\npath_separator = os\n")
    return ini


def new_tenants(address: ServerAddress, folder: Path) -> None:
    """A tenant with 20 tables: the example's thirty revisions."""
    print(f"\nA new tenant with 20 tables, medians of {ROUNDS} in turns")
    sys.path.insert(0, str(EXAMPLE))
    from shop import Base  # type: ignore[import-not-found]

    scripts = Scripts(EXAMPLE / "alembic.ini")
    url = address.url("postgresql+psycopg")
    engine = sa.create_engine(url)
    server = Server.from_url("main", url)
    directory = TableDirectory(url, servers={"main": server})
    directory.create_tables()
    tenancy = Tenancy(directory, {"main": server})
    numbers = iter(range(10_000))

    def create_all() -> None:
        name = f"a{next(numbers)}"
        with engine.begin() as connection:
            connection.execute(sa.text(f"CREATE SCHEMA {name}"))
            connection.execute(sa.text(f"SET LOCAL search_path TO {name}"))
            Base.metadata.create_all(connection)

    with Access(tenancy.servers, keep=4) as access:
        blueprints = Blueprints(access, scripts)

        def place(name: str, isolation: Isolation) -> Any:
            database, schema = (name, None) if isolation is Isolation.DATABASE else (None, name)
            return access.place(Tenant(name, Placement("main", isolation, database, schema)))

        def make() -> None:
            blueprints.make(place(f"b{next(numbers)}", Isolation.SCHEMA))

        def claimed(isolation: Isolation) -> None:
            name = f"c{next(numbers)}"
            claim(tenancy, blueprints, name, server="main", isolation=isolation)

        contest = {"metadata.create_all in a schema": create_all}
        binaries = find_binaries()

        def by_psql(dump: str) -> None:
            file = folder / "one.sql"
            file.write_text(re.sub(r"\bdumped\b", f"p{next(numbers)}", dump))
            run_psql(binaries / "psql", address, file, "-1")

        fill_spares(tenancy, blueprints, server="main", isolation="schema", count=3 * ROUNDS)
        if (binaries / "psql").exists():
            blueprints.make(place("dumped", Isolation.SCHEMA))
            dump = run_client(binaries / "pg_dump", address, "--no-owner", "-n", "dumped")
            contest["psql -1 -f, what pg_dump wrote"] = partial(by_psql, dump)
        contest["tenantry, from the blueprint, compared"] = make
        contest["tenantry, from a warm spare (schema)"] = partial(claimed, Isolation.SCHEMA)
        contest["tenantry, from the next one"] = partial(claimed, Isolation.SCHEMA)
        in_turns(contest, {"tenantry, one after another": partial(claimed, Isolation.SCHEMA)})

        def template() -> None:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql(
                    f"CREATE DATABASE d{next(numbers)} TEMPLATE template_shop"
                )

        blueprints.make(place("template_shop", Isolation.DATABASE))
        access.close()
        fill_spares(tenancy, blueprints, server="main", isolation="database", count=3 * ROUNDS)
        in_turns(
            {
                "CREATE DATABASE ... TEMPLATE": template,
                "tenantry, from a warm spare (database)": partial(claimed, Isolation.DATABASE),
                "tenantry, from the next one": partial(claimed, Isolation.DATABASE),
            },
            {"tenantry, one after another": partial(claimed, Isolation.DATABASE)},
        )
    engine.dispose()


def in_turns(
    contest: Mapping[str, Callable[[], Any]], then: Mapping[str, Callable[[], Any]]
) -> None:
    """Print the median of each, and as a multiple of those before it; *then* without turns."""
    seconds: dict[str, list[float]] = {name: [] for name in contest}
    for _ in range(ROUNDS):
        for name, action in contest.items():
            seconds[name].append(timed(action))
    for name, action in then.items():
        seconds[name] = [timed(action) for _ in range(ROUNDS)]
    before: list[float] = []
    for name, found in seconds.items():
        middle = median(found)
        ratios = "".join(f"{middle / each:8.3f}x" for each in before)
        print(f"{name:<58} {middle * 1000:8.1f} ms{ratios}")
        before.append(middle)


def files(count: int) -> None:
    print(f"\nSQLite, {count} files")
    folder = Path(tempfile.mkdtemp())
    ini = project(folder, REVISIONS)
    scripts = Scripts(ini)
    root = folder / "files"
    root.mkdir()
    server = Server.from_url("main", f"sqlite:///{root}")
    names = [f"t{number:04}" for number in range(count)]
    tenants = [Tenant(each, Placement("main", database=f"{each}.db")) for each in names]
    tenancy = Tenancy(MappingDirectory(tenants), {"main": server})
    with Access(tenancy.servers) as access:
        row(
            "create, empty",
            timed(lambda: [make_place(access, access.place(t)) for t in tenants]),
            count,
            None,
        )
    first = Settings("r1")
    row(
        "tenantry migrate, first revision",
        timed(lambda: migrate_tenants(tenancy, scripts, settings=first).raise_if_failed()),
        count,
        None,
    )
    fresh = folder / "fresh"
    shutil.copytree(root, fresh)

    def again() -> None:
        for each in names:
            shutil.copyfile(fresh / f"{each}.db", root / f"{each}.db")
        os.sync()

    def one(name: str) -> None:
        connection = sqlite3.connect(root / f"{name}.db", isolation_level=None)
        connection.executescript(f"BEGIN;\n{SQL}COMMIT;")
        connection.close()

    def script() -> None:
        for each in names:
            one(each)

    plain = plain_project(folder)

    def contexts() -> None:
        for each in names:
            context_upgrade((str(plain), f"sqlite:///{root / each}.db", [each]))

    print(f"\nOne revision (column and index), {count} files; x: the first, and the last")
    contestants: dict[str, Callable[[], Any]] = {"sqlite3 script, serial": script}
    for workers in (1, 4, 8):
        contestants[f"tenantry migrate, {workers} workers"] = partial(
            migrated, tenancy, scripts, workers
        )
    for workers in (4, 8):
        contestants[f"bare threads, the same script, {workers} threads"] = partial(
            in_threads, one, names, workers
        )
    contestants["MigrationContext, serial"] = contexts
    contest(contestants, count, before_each=again)
    print(f"\nNothing to do, {count} files")
    row("tenantry status", timed(lambda: migration_status(tenancy, scripts)), count, None)
    row(
        "tenantry delete",
        timed(lambda: [delete(tenancy, each) for each in tenancy.tenants()]),
        count,
        None,
    )


def new_files() -> None:
    """A tenant with 20 tables in a file of its own, beside a copy that is on the disk."""
    print("\nA new SQLite tenant with 20 tables, medians of 200, each first in turns")
    root = Path(tempfile.mkdtemp())
    server = Server.from_url("main", f"sqlite:///{root}")
    with Access({"main": server}) as access:
        blueprints = Blueprints(access, Scripts(EXAMPLE / "alembic.ini"))

        def place(name: str) -> Any:
            return access.place(Tenant(name, Placement("main", database=f"{name}.db")))

        blueprints.make(place("first"))

        def copy(name: str) -> None:
            shutil.copyfile(root / "first.db", root / name)
            for each in (root / name, root):
                handle = os.open(each, os.O_RDONLY)
                os.fsync(handle)
                os.close(handle)

        copied: list[float] = []
        made: list[float] = []
        for number in range(200):
            both: list[tuple[list[float], Callable[[], Any]]] = [
                (copied, partial(copy, f"copy{number}")),
                (made, partial(blueprints.make, place(f"t{number}"))),
            ]
            for seconds, action in both if number % 2 else reversed(both):
                seconds.append(timed(action))
    base = median(copied)
    print(f"{'a copy, fsync of file and folder':<58} {base * 1000:8.1f} ms")
    got = median(made)
    print(f"{'tenantry, from the blueprint':<58} {got * 1000:8.1f} ms {got / base:6.3f}x a copy")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tenants")
    count = 100 if parser.parse_args().quick else 1000
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, SQLAlchemy {sa.__version__}")
    schemas(count)
    files(count)
    new_files()


if __name__ == "__main__":
    main()
