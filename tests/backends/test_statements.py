"""PostgreSQL, MySQL and SQLite: every statement, and what is common to all servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tenantry import Isolation, Placement, Server
from tenantry.backends import Backend, MySQL, PostgreSQL, SQLite, backend_of
from tenantry.backends.places import places_of
from tenantry.errors import ConfigurationError, PlacementMissingError, UnsupportedError
from tests.backends.support import URLS, DriverError, server

postgresql, mysql, sqlite = PostgreSQL(), MySQL(), SQLite()
EVERY = [backend_of(server(kind)) for kind in URLS] + [sqlite]

each_backend = pytest.mark.parametrize("backend", EVERY, ids=lambda each: each.kind)


class StateError(DriverError):
    def __init__(self, sqlstate: str) -> None:
        super().__init__("in the server's own words")
        self.sqlstate = sqlstate


# Every backend


@each_backend
def test_what_a_quoted_name_holds_stays_in_it(backend: Backend) -> None:
    for name in ("a", 'a"b', "a`b", "a]b", "a'b", "x; DROP TABLE y --", "ä", "select"):
        quoted = backend.quote(name)
        opening, closing = quoted[0], quoted[-1]
        inner = quoted[1:-1]
        assert closing == {"[": "]"}.get(opening, opening)
        assert closing not in inner.replace(closing * 2, "")
        assert inner.replace(closing * 2, closing) == backend.stored(name)


@each_backend
def test_a_driver_that_cannot_work_is_refused_by_name(backend: Backend) -> None:
    wrong = Server.from_url("main", f"{backend.kind}+nonsense://app@db/app")
    for is_async in (False, True):
        with pytest.raises(UnsupportedError, match="nonsense"):
            backend.driver(wrong, is_async=is_async)


@each_backend
def test_names_without_content_or_too_long_are_refused(backend: Backend) -> None:
    place = server(backend.kind) if backend.kind in URLS else Server.from_url("main", "sqlite:///.")
    for name in ("", "a\0b"):
        with pytest.raises(ConfigurationError):
            backend.check_database_name(place, name)
        with pytest.raises(ConfigurationError):
            backend.check_schema_name(place, name)
    with pytest.raises(ConfigurationError):
        backend.check_schema_name(place, "x" * (backend.max_name_bytes + 1))
    backend.check_schema_name(place, "x" * backend.max_name_bytes)


def test_an_unknown_kind_of_server_names_the_known_ones() -> None:
    with pytest.raises(UnsupportedError, match="mssql, mysql, oracle, postgresql, sqlite"):
        backend_of(Server.from_url("main", "firebird://db/app"))


@each_backend
def test_every_backend_has_its_places(backend: Backend) -> None:
    assert places_of(backend).kind == backend.kind


def test_what_a_backend_cannot_do_is_refused() -> None:
    class Plain(Backend):
        kind = "plain"

    plain = Plain()
    refusals: list[Callable[[], object]] = [
        lambda: plain.path("a", None),
        lambda: plain.arm(path="a", session=False),
        lambda: plain.read_only_statements(),
        lambda: plain.create_database("a"),
        lambda: plain.drop_database("a"),
        lambda: plain.database_exists("a"),
        lambda: plain.create_schema("a"),
        lambda: plain.drop_schema("a"),
        lambda: plain.schema_exists("a"),
        lambda: plain.schema_file(server("mysql"), Placement("main")),
    ]
    for refused in refusals:
        with pytest.raises(UnsupportedError, match=r"plain|schemas"):
            refused()
    assert plain.reset_statement() is None
    assert plain.schema_pointing("a") is None
    assert plain.row_pointing("a") is None
    assert plain.empty_path() == {}
    assert not plain.is_missing_database(DriverError())
    assert not plain.is_read_only_refusal(DriverError())


# PostgreSQL


def test_postgresql_the_path_is_the_tenants_schema_and_temporary_objects_last() -> None:
    assert postgresql.path("acme", None) == '"acme", pg_temp'
    assert postgresql.path("acme", "common") == '"acme", "common", pg_temp'
    assert postgresql.path('a", public; --', None) == '"a"", public; --", pg_temp'
    assert postgresql.empty_path() == {"search_path": ""}


def test_postgresql_is_armed_for_a_transaction_or_a_session() -> None:
    path = postgresql.path("acme", None)
    assert postgresql.arm(path=path, session=False) == 'SET LOCAL search_path TO "acme", pg_temp'
    assert (
        postgresql.arm(path=path, session=True, tenant_key="k1")
        == "SET SESSION search_path TO \"acme\", pg_temp; SET SESSION tenantry.tenant TO 'k1'"
    )


@pytest.mark.parametrize("key", ["a'b", "a\\b", "ä", "a\nb", "a\0"])
def test_postgresql_a_key_that_could_leave_its_quotes_is_refused(key: str) -> None:
    with pytest.raises(ConfigurationError):
        postgresql.arm(path="p", session=False, tenant_key=key)


def test_postgresql_settings_reach_each_driver_in_its_own_way() -> None:
    settings = {"search_path": '"a b\\", pg_temp'}
    for driver in ("psycopg", "psycopg2"):
        parameters: dict[str, Any] = {"options": "-c geqo=off"}
        postgresql.add_settings(parameters, driver, settings, False)
        # Blanks and backslashes take a backslash (libpq, options).
        assert parameters["options"] == '-c geqo=off -c search_path="a\\ b\\\\",\\ pg_temp'
    parameters = {"server_settings": {"geqo": "off"}}
    postgresql.add_settings(parameters, "asyncpg", settings, False)
    assert parameters == {"server_settings": {"geqo": "off", **settings}}


def test_postgresql_behind_a_pooler_asyncpg_prepares_nothing_under_a_fixed_name() -> None:
    parameters: dict[str, Any] = {}
    postgresql.add_settings(parameters, "asyncpg", {}, True)
    assert parameters["statement_cache_size"] == parameters["prepared_statement_cache_size"] == 0
    name = parameters["prepared_statement_name_func"]
    assert name() != name()


def test_postgresql_the_reset_takes_off_all_but_the_drivers_own_statements() -> None:
    reset = postgresql.reset_statement("psycopg")
    assert reset is not None
    for part in (
        "SET SESSION AUTHORIZATION DEFAULT",
        "RESET ALL",
        "CLOSE ALL",
        "UNLISTEN *",
        "pg_advisory_unlock_all()",
        "DISCARD TEMP",
        "DISCARD SEQUENCES",
        "WHERE from_sql",
    ):
        assert part in reset
    assert "DISCARD ALL" not in reset


def test_postgresql_statements_of_places() -> None:
    assert list(postgresql.create_database("uk")) == ['CREATE DATABASE "uk"']
    assert list(postgresql.drop_database("uk")) == ['DROP DATABASE IF EXISTS "uk" WITH (FORCE)']
    assert postgresql.database_exists("uk")[1] == {"name": "uk"}
    assert list(postgresql.read_only_statements()) == [
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
    ]
    places = places_of(postgresql)
    assert list(places.create_schema("acme", owner="app")) == [
        'CREATE SCHEMA "acme" AUTHORIZATION "app"'
    ]
    assert list(places.drop_schema("acme")) == ['DROP SCHEMA IF EXISTS "acme" CASCADE']
    assert list(places.rename_schema("a", "b")) == ['ALTER SCHEMA "a" RENAME TO "b"']
    assert list(places.rename_database("a", "b")) == ['ALTER DATABASE "a" RENAME TO "b"']
    created = places.create_database("uk", owner="app", template="base")
    assert list(created) == [
        'CREATE DATABASE "uk" OWNER "app" TEMPLATE "base"',
        'REVOKE CONNECT, TEMPORARY ON DATABASE "uk" FROM PUBLIC',
    ]


def test_postgresql_errors_are_told_apart() -> None:
    assert postgresql.is_missing_database(StateError("3D000"))
    assert postgresql.is_missing_database(DriverError('database "uk" does not exist'))
    assert not postgresql.is_missing_database(StateError("28P01"))
    assert postgresql.is_read_only_refusal(StateError("25006"))
    wrapped = DriverError()
    wrapped.__cause__ = StateError("25006")
    assert postgresql.is_read_only_refusal(wrapped)


# MySQL and MariaDB


def test_mysql_statements() -> None:
    assert mysql.quote("a`b") == "`a``b`"
    assert list(mysql.create_database("uk")) == ["CREATE DATABASE `uk`"]
    assert list(mysql.drop_database("uk")) == ["DROP DATABASE IF EXISTS `uk`"]
    assert mysql.database_exists("uk")[1] == {"name": "uk"}
    assert list(mysql.read_only_statements()) == ["SET SESSION TRANSACTION READ ONLY"]
    assert mysql.reset_statement("pymysql") is None
    assert mysql.max_name_bytes == 64


def test_mysql_errors_are_told_apart() -> None:
    assert mysql.is_missing_database(DriverError(1049, "Unknown database 'uk'"))
    assert not mysql.is_missing_database(DriverError(1045, "Access denied"))
    assert mysql.is_read_only_refusal(DriverError(1792, "Cannot execute"))
    assert mysql.is_read_only_refusal(DriverError(1290, "--read-only"))
    assert not mysql.is_read_only_refusal(DriverError())


def test_mysql_a_url_may_point_at_no_database() -> None:
    assert not mysql.url(server("mysql"), "", "pymysql").database
    assert mysql.url(server("mysql"), None, "pymysql").database == "app"


# SQLite


def test_sqlite_a_file_stays_below_the_root(tmp_path: Path) -> None:
    root = Server.from_url("main", f"sqlite:///{tmp_path}/")
    assert sqlite.file(root, "uk.db") == tmp_path / "uk.db"
    assert sqlite.file(root, "a/b.db") == tmp_path / "a" / "b.db"
    (tmp_path / "away").symlink_to(tmp_path.parent)
    (tmp_path / "link.db").symlink_to(tmp_path.parent / "uk.db")
    (tmp_path / "other.db").symlink_to(tmp_path / "uk.db")
    assert sqlite.file(root, "other.db") == tmp_path / "uk.db"
    names = ("../uk.db", "..", "/etc/passwd", "away/uk.db", "away", "link.db", ".", "", "a\0", None)
    for name in names:
        with pytest.raises(ConfigurationError):
            sqlite.file(root, name)


def test_sqlite_a_schema_is_a_file_and_the_main_database_is_empty(tmp_path: Path) -> None:
    root = Server.from_url("main", f"sqlite:///{tmp_path}/")
    assert sqlite.schema_url(root, None, "pysqlite").database == ":memory:"
    placement = Placement("main", Isolation.SCHEMA, schema="acme")
    assert sqlite.schema_file(root, placement) == str(tmp_path / "acme.db")


def test_sqlite_a_missing_file_is_not_made_unless_asked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/"
    with pytest.raises(PlacementMissingError):
        sqlite.before_connect(Server.from_url("main", url), str(tmp_path / "uk.db"))
    sqlite.before_connect(
        Server.from_url("main", url, create_missing=True), str(tmp_path / "uk.db")
    )


def test_sqlite_statements_and_settings() -> None:
    assert list(sqlite.read_only_statements()) == ["PRAGMA query_only = ON"]
    assert sqlite.is_read_only_refusal(DriverError("attempt to write a readonly database"))
    parameters: dict[str, Any] = {}
    sqlite.add_settings(parameters, "pysqlite", {}, False)
    assert parameters == {"check_same_thread": False}
