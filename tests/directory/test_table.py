"""What only the table directory has: its tables, its version, its errors."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, inspect, text
from sqlalchemy.engine import make_url

from tenantry import Isolation, Placement, Server, Tenant
from tenantry.directory import TableDirectory
from tenantry.errors import (
    ConfigurationError,
    DirectoryUnavailableError,
    DuplicatePlacementError,
    MissingVariableError,
    TenantryError,
    UnknownTenantError,
)
from tests.canary import CANARY, sightings
from tests.directory.conftest import CONTROLS, MakeTable
from tests.directory.counting import tenant


def refused(kind: type[TenantryError], call: Callable[..., Any], *args: Any) -> TenantryError:
    with pytest.raises(kind) as caught:
        call(*args)
    assert sightings(caught.value) == []
    return caught.value


def test_tables_are_named_after_the_first(control_url: str) -> None:
    directory = TableDirectory(control_url, table_name="acme_tenants")
    directory.create_tables()
    engine = create_engine(control_url)
    names = inspect(engine).get_table_names()
    engine.dispose()
    directory.close()
    assert set(names) == {
        "acme_identifiers",
        "acme_tenants",
        "acme_tombstones",
        "acme_version",
    }


def test_many_may_create_the_tables_at_once(control_url: str) -> None:
    directories = [TableDirectory(control_url) for _ in range(6)]
    start = threading.Barrier(6)

    def create(directory: TableDirectory) -> int:
        start.wait()
        directory.create_tables()
        return directory.version()

    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(create, directories)) == {1}
    directories[0].add(tenant("uk"))
    assert {directory.get("uk").id for directory in directories} == {"uk"}
    for each in directories:
        each.close()


def test_every_write_counts_the_version_up_and_a_refused_one_does_not(
    make_table: MakeTable,
) -> None:
    directory = make_table()
    versions = [directory.version()]
    uk = directory.add(tenant("uk"))
    versions.append(directory.version())
    uk = directory.replace(uk.with_state("suspended"), expected=uk)
    versions.append(directory.version())
    refused(DuplicatePlacementError, directory.add, tenant("uk"))
    assert directory.version() == versions[-1]
    directory.remove(uk)
    versions.append(directory.version())
    assert versions == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "options",
    [
        {"isolation_level": "AUTOCOMMIT"},
        {"execution_options": {"isolation_level": "AUTOCOMMIT"}},
    ],
    ids=["made so", "by option"],
)
def test_an_engine_without_transactions_is_refused(
    control_url: str, options: dict[str, Any]
) -> None:
    """There the lock on the version's row ends with its statement, and two are given one place."""
    engine = create_engine(control_url, **options)
    for given in (engine, engine.execution_options(logging_token="x")):
        with pytest.raises(ConfigurationError, match="give one without that"):
            TableDirectory(given)
    TableDirectory(engine.execution_options(isolation_level="READ UNCOMMITTED")).close()
    engine.dispose()


def test_without_tables_the_next_step_is_told(control_url: str) -> None:
    directory = TableDirectory(control_url)
    for call in (directory.version, directory.tenants, lambda: directory.add(tenant("uk"))):
        assert "create_tables()" in str(refused(DirectoryUnavailableError, call))
    directory.close()


def test_servers_show_that_two_names_are_one_machine(tmp_path: Path) -> None:
    servers = {
        "eu": Server.from_url("eu", "postgresql://app@db/app"),
        "europe": Server.from_url("europe", "postgresql://other@db:5432/app"),
        "files": Server.from_url("files", f"sqlite:///{tmp_path}/files"),
        "same": Server.from_url("same", f"sqlite:///{tmp_path}/files"),
    }
    directory = TableDirectory(f"sqlite:///{tmp_path}/control.db", servers=servers)
    directory.create_tables()
    directory.add(Tenant("uk", Placement("eu", database="uk")))
    directory.add(Tenant("own", Placement("eu")))
    directory.add(Tenant("file", Placement("files", database="a.db")))
    for place in (
        Placement("europe", database="uk"),
        Placement("europe"),
        Placement("europe", database="app"),
        Placement("eu", database="app"),
        Placement("same", database="a.db"),
    ):
        refused(DuplicatePlacementError, directory.add, Tenant("x", place))
    for place in (Placement("mian"), Placement("files", database="../x.db")):
        refused(ConfigurationError, directory.add, Tenant("x", place))
    directory.add(Tenant("x", Placement("europe", database="x")))


def test_a_database_tenant_is_in_no_database_of_others(tmp_path: Path) -> None:
    servers = {
        "eu": Server.from_url("eu", "postgresql://app@db/app"),
        "again": Server.from_url("again", "postgresql://other@db:5432/app"),
        "far": Server.from_url("far", "postgresql://app@far/app"),
        "my": Server.from_url("my", "mysql://app@db/app"),
        "files": Server.from_url("files", f"sqlite:///{tmp_path}/files"),
    }
    schema, rows = Isolation.SCHEMA, Isolation.ROWS
    crowds = [
        (Placement("eu"), Placement("again", schema, database="app", schema="a")),
        (Placement("eu", database="app"), Placement("eu", rows)),
        (Placement("again"), Placement("eu", rows, schema="shop")),
        (Placement("eu", rows), Placement("again", schema, schema="public")),
        (Placement("my", database="a"), Placement("my", schema, schema="a")),
        (Placement("my", rows), Placement("my", schema, schema="app")),
        (Placement("files", database="a.db"), Placement("files", schema, schema="a")),
        (
            Placement("files", rows, database="a.db"),
            Placement("files", schema, database="a.db", schema="x"),
        ),
    ]
    fine = [
        (Placement("far"), Placement("eu", schema, schema="a")),
        (Placement("eu", database="b"), Placement("eu", rows)),
        (Placement("eu", rows), Placement("eu", schema, schema="a")),
        (Placement("eu", schema, schema="b"), Placement("again", schema, schema="a")),
        (Placement("my"), Placement("my", schema, schema="a")),
        (Placement("files", database="b.db"), Placement("files", schema, schema="a")),
    ]
    directory = TableDirectory(f"sqlite:///{tmp_path}/control.db", servers=servers)
    directory.create_tables()
    for pair in crowds + fine:
        for one, other in (pair, pair[::-1]):
            first = directory.add(Tenant("a", one))
            if pair in crowds:
                refused(DuplicatePlacementError, directory.add, Tenant("b", other))
            else:
                directory.remove(directory.add(Tenant("b", other)))
            directory.remove(first)
    directory.close()


def test_who_was_recorded_in_a_crowd_can_still_be_suspended(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/control.db")
    directory = TableDirectory(engine)
    directory.create_tables()
    uk = directory.add(Tenant("uk", Placement("eu", database="app")))
    directory.add(Tenant("aus", Placement("eu", Isolation.SCHEMA, "aus", "aus")))
    with engine.begin() as connection:
        connection.execute(text("UPDATE tenantry_tenants SET database = 'app' WHERE id = 'aus'"))
    away = directory.replace(uk.with_state("suspended"), expected=uk)
    elsewhere = directory.replace(
        replace(away, placement=Placement("eu", database="uk")), expected=away
    )
    refused(DuplicatePlacementError, partial(directory.replace, expected=elsewhere), away)
    engine.dispose()


def test_attributes_that_json_cannot_hold_are_refused(make_table: MakeTable) -> None:
    directory = make_table()
    for value in (object(), float("nan"), {1, 2}):
        refused(ConfigurationError, directory.add, tenant("uk", attributes={"x": value}))
    refused(ConfigurationError, directory.add, tenant("uk", identifiers=("A b",)))
    assert directory.tenants() == []


def test_comparison_is_byte_for_byte(make_table: MakeTable) -> None:
    """MySQL's own collation would find any of these."""
    directory = make_table()
    directory.add(tenant("uk", identifiers=("zoe",)))
    for name in ("zo\u00eb", "Zoe", "zoe ", "ZOE"):
        with pytest.raises(UnknownTenantError):
            directory.find(name)
    directory.add(tenant("u-k"))
    directory.add(tenant("u_k"))
    assert [each.id for each in directory.tenants()] == ["u-k", "u_k", "uk"]


@pytest.mark.parametrize("control_url", CONTROLS[1:], indirect=True)
def test_a_connection_that_was_cut_is_replaced_quietly(control_url: str) -> None:
    """As after a restart of the server; reads and writes, once each."""
    directory = TableDirectory(control_url)
    directory.create_tables()
    for call in (directory.version, lambda: directory.add(tenant("uk"))):
        directory.version()
        cut(control_url)
        call()
    directory.close()


def cut(url: str) -> None:
    """End every other session in the database."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            ).all()
        else:
            sessions = connection.execute(
                text(
                    "SELECT id FROM information_schema.processlist "
                    "WHERE db = database() AND id <> connection_id()"
                )
            ).scalars()
            for session in list(sessions):
                connection.execute(text(f"KILL {session}"))
    engine.dispose()


def test_a_read_is_one_statement(control_url: str) -> None:
    engine = create_engine(control_url, future=True)
    directory = TableDirectory(engine)
    directory.create_tables()
    directory.add(tenant("uk", identifiers=("a", "b", "c")))
    statements: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def count(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    for call in (lambda: directory.get("uk"), lambda: directory.find("b"), directory.tenants):
        statements.clear()
        call()
        assert len(statements) == 1
    directory.close()  # an engine that was given is left alone
    assert directory.get("uk").id == "uk"
    engine.dispose()


def test_a_new_tenant_is_few_statements(control_url: str) -> None:
    """A sign-up waits for it: count up, look who has what, record. On PostgreSQL all at once."""
    engine = create_engine(control_url, future=True)
    directory = TableDirectory(engine)
    directory.create_tables()
    directory.add(tenant("first"))
    statements: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def count(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement.split()[0])

    added = directory.add(tenant("uk", attributes={"plan": "gold", "seats": 1.0}))
    at_once = engine.dialect.name == "postgresql"
    returning = getattr(engine.dialect, "insert_returning", False)
    wanted = ["UPDATE", "SELECT", "INSERT", *["SELECT"] * (not returning)]
    assert statements == (["WITH"] if at_once else wanted)
    assert directory.get("uk") == added
    statements.clear()
    added = directory.add(tenant("aus", identifiers=("b", "a")))
    assert statements.count("INSERT") == (0 if at_once else 2)
    assert statements.count("WITH") == at_once
    assert directory.get("aus") == added
    engine.dispose()


def test_identifiers_that_nobody_owns_are_not_a_new_tenant_s(control_url: str) -> None:
    """What a half-restored table holds is not handed to whoever comes with the id."""
    engine = create_engine(control_url, future=True)
    directory = TableDirectory(engine)
    directory.create_tables()
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO tenantry_identifiers VALUES ('old.example.com', 'uk', 0)")
        )
    directory.add(tenant("uk"))
    assert directory.get("uk").identifiers == ()
    with pytest.raises(UnknownTenantError):
        directory.find("old.example.com")
    engine.dispose()


def test_a_server_brings_its_password_at_each_connection(
    control_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = make_url(control_url)
    if url.get_backend_name() == "sqlite":
        server = Server.from_url("main", f"sqlite:///{tmp_path}/root")
        (tmp_path / "root").mkdir()
        directory = TableDirectory(server, database="own.db")
        directory.create_tables()
        assert (tmp_path / "root" / "own.db").exists()
        return
    monkeypatch.setenv("CONTROL_PASS", str(url.password))
    bare = url.set(password="")._replace(password=None)
    server = Server.from_url("main", bare, password_env="CONTROL_PASS")
    directory = TableDirectory(server)
    directory.create_tables()
    directory.close()
    monkeypatch.delenv("CONTROL_PASS")
    error = refused(MissingVariableError, directory.version)
    assert "CONTROL_PASS" in str(error)
    monkeypatch.setenv("CONTROL_PASS", str(url.password))
    assert directory.version() == 1
    directory.close()


def closed_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+psycopg2", "mysql+pymysql"])
@pytest.mark.parametrize("query", ["", f"?password={CANARY}"])
def test_a_server_that_is_away_shows_no_password(driver: str, query: str) -> None:
    if query and driver.startswith("mysql"):
        query = ""
    url = f"{driver}://app:{CANARY}@127.0.0.1:{closed_port()}/x{query}"
    directory = TableDirectory(url)
    for call in (
        directory.create_tables,
        directory.version,
        directory.tenants,
        lambda: directory.get("uk"),
        lambda: directory.find("uk"),
        lambda: directory.add(tenant("uk")),
    ):
        error = refused(DirectoryUnavailableError, call)
        assert "127.0.0.1" in str(error)
        assert error.__cause__ is not None
        assert error.__cause__.__traceback__ is None
    assert sightings(directory) == []


@pytest.mark.parametrize("control_url", CONTROLS[1:], indirect=True)
def test_a_wrong_password_is_not_shown(control_url: str) -> None:
    url = make_url(control_url)
    directory = TableDirectory(url.set(password=CANARY))
    if url.get_backend_name() == "postgresql":
        create = create_engine(control_url, isolation_level="AUTOCOMMIT")
        role = f"nobody_{os.getpid()}"
        with create.connect() as connection:
            connection.execute(text(f"CREATE ROLE {role}"))
        try:
            directory = TableDirectory(url.set(username=role, password=CANARY))
            refused(DirectoryUnavailableError, directory.version)
        finally:
            with create.connect() as connection:
                connection.execute(text(f"DROP ROLE {role}"))
            create.dispose()
    else:
        refused(DirectoryUnavailableError, directory.version)
    directory.close()


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (f"postgres//{CANARY}", "is not a database URL"),
        (f"nope://u:{CANARY}@h/x", "no driver 'nope'"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        (f"postgresql+asyncpg://u:{CANARY}@h/x", "synchronous driver"),
        (f"postgresql://u:{CANARY}@h:port/x", "is not a database URL"),
    ],
)
def test_what_is_no_control_database_is_refused(where: str, words: str) -> None:
    assert words in str(refused(ConfigurationError, TableDirectory, where))


@pytest.mark.parametrize("name", ["", "a b", "x; drop table y", "a.b", "1a", "a" * 49, "t\u00e9"])
def test_what_is_no_table_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="plain table name"):
        TableDirectory(f"sqlite:///{tmp_path}/x.db", table_name=name)


def test_writers_wait_for_each_other(make_table: MakeTable) -> None:
    """80 writes by 8 threads on 4 tenants: none is lost, each counts."""
    directory = make_table()
    for number in range(4):
        directory.add(tenant(f"t{number}", attributes={"count": 0}))
    before = directory.version()

    def work(number: int) -> int:
        done = 0
        while done < 10:
            found = directory.get(f"t{number % 4}")
            more = {"count": found.attributes["count"] + 1}
            changed = tenant(found.id, attributes=more, key=found.key)
            try:
                directory.replace(changed, expected=found)
            except UnknownTenantError:
                continue
            done += 1
        return done

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(8))) == 80
    assert sum(each.attributes["count"] for each in directory.tenants()) == 80
    assert directory.version() == before + 80
