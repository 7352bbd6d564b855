"""SQL Server: every statement, and what a target makes of them."""

from __future__ import annotations

import pytest

from tenantry import Server
from tenantry.backends import MSSQL, Pointing
from tenantry.backends.places import places_of
from tenantry.errors import ConfigurationError, MissingDependencyError, UnsupportedError
from tenantry.tenant import Switch
from tests.backends.support import DriverError, server, target, tenant

mssql = MSSQL()

SET_CONTEXT = "EXEC sys.sp_set_session_context N'tenantry.tenant', N'k1', @read_only = 1"


def test_names_are_quoted_in_brackets() -> None:
    assert mssql.quote("uk") == "[uk]"
    assert mssql.quote("a]b; DROP DATABASE x--") == "[a]]b; DROP DATABASE x--]"
    assert mssql.use_database("uk") == "USE [uk]"


@pytest.mark.parametrize("name", ["", "a;PWD=x", "{a}", "a=b", "a]", "uk ", " uk", "x" * 129, "\0"])
def test_a_database_name_cannot_change_the_connection_string(name: str) -> None:
    with pytest.raises(ConfigurationError):
        mssql.check_database_name(server("mssql"), name)


@pytest.mark.parametrize("name", ["", "other.dbo", "[other]", "uk ", "x" * 129, "\0"])
def test_a_schema_name_cannot_reach_another_database(name: str) -> None:
    """SQLAlchemy splits a schema at its dots, into database and owner."""
    with pytest.raises(ConfigurationError):
        mssql.check_schema_name(server("mssql"), name)


def test_usual_names_pass() -> None:
    for name in ("uk", "acme-1", "acme$2", "Sales 2026", "x" * 128):
        mssql.check_database_name(server("mssql"), name)
        mssql.check_schema_name(server("mssql"), name)


def test_the_session_context_is_set_once_and_for_all() -> None:
    assert mssql.row_pointing("k1") == Pointing(statements=(SET_CONTEXT,))
    (statement,) = mssql.row_pointing("a'b\\").statements
    assert "N'a''b\\'" in statement
    with pytest.raises(ConfigurationError):
        mssql.row_pointing("a\nb")


def test_a_connection_is_reset_where_the_driver_can() -> None:
    assert mssql.reset_statement("pyodbc") == "{call sys.sp_reset_connection}"
    assert mssql.reset_statement("aioodbc") == "{call sys.sp_reset_connection}"
    assert mssql.reset_statement("pymssql") is None
    assert mssql.reset_statement() is None
    assert mssql.reset_is_partial


def test_databases_and_schemas_are_created_dropped_and_found() -> None:
    assert list(mssql.create_database("uk")) == ["CREATE DATABASE [uk]"]
    alone, drop = mssql.drop_database("u'k")
    assert alone == (
        "IF DB_ID(N'u''k') IS NOT NULL ALTER DATABASE [u'k] SET SINGLE_USER WITH ROLLBACK IMMEDIATE"
    )
    assert drop == "DROP DATABASE IF EXISTS [u'k]"
    assert mssql.database_exists("uk") == (
        "SELECT 1 FROM sys.databases WHERE name = :name",
        {"name": "uk"},
    )
    assert list(mssql.create_schema("acme")) == ["CREATE SCHEMA [acme]"]
    assert list(mssql.create_schema("acme", owner="app")) == [
        "CREATE SCHEMA [acme] AUTHORIZATION [app]"
    ]
    assert list(mssql.drop_schema("acme")) == ["DROP SCHEMA IF EXISTS [acme]"]
    assert mssql.schema_exists("acme")[1] == {"name": "acme"}


def test_a_lock_is_taken_for_the_session_and_at_once() -> None:
    (take, parameters), (free, _) = places_of(mssql).lock("fleet")
    assert "sp_getapplock" in take
    assert "@LockTimeout = 0" in take
    assert "@LockOwner = 'Session'" in take
    assert "sp_releaseapplock" in free
    assert parameters == {"name": "fleet"}


@pytest.mark.parametrize(
    ("error", "missing", "read_only"),
    [
        # pyodbc: SQLSTATE, then a text with the server's number in parentheses
        (
            DriverError(
                "42000",
                "[42000] [Microsoft][ODBC Driver 18 for SQL Server][SQL Server]Cannot open "
                'database "uk" requested by the login. The login failed. (4060) '
                "(SQLDriverConnect)",
            ),
            True,
            False,
        ),
        (DriverError("28000", "[28000] Login failed for user 'app'. (18456)"), False, False),
        (DriverError("25000", "[25000] Failed to update database. (3906) (SQLExec)"), False, True),
        # pymssql: the number, or at connect a pair of number and text
        (DriverError(4060, b"Cannot open database"), True, False),
        (DriverError((911, b"Database 'uk' does not exist")), True, False),
        (DriverError((20009, b"Unable to connect: server is unavailable")), False, False),
        (DriverError(3906, b"Failed to update database"), False, True),
        (DriverError(), False, False),
    ],
)
def test_errors_are_told_apart_by_their_numbers(
    error: Exception, missing: bool, read_only: bool
) -> None:
    assert mssql.is_missing_database(error) is missing
    assert mssql.is_read_only_refusal(error) is read_only


def test_a_database_has_connections_of_its_own() -> None:
    made = target(server("mssql"), tenant(isolation="database", database="uk"))
    assert made.url.database == "uk"
    assert made.switch_to is None
    assert made.bucket == ("main", "uk", "k1.1")


def test_a_schema_is_written_out_and_nothing_else() -> None:
    made = target(server("mssql", Switch.MAP), tenant(schema="acme"))
    assert made.translate == "acme"
    assert made.pointing is None
    with pytest.raises(UnsupportedError, match="use switch 'map'"):
        target(server("mssql"), tenant(schema="acme"))


def test_a_login_of_its_own_must_find_itself_in_its_schema() -> None:
    made = target(server("mssql"), tenant(schema="acme", switch="role", role="acme_login"))
    assert made.url.username == "acme_login"
    assert made.expect_schema == "acme"
    assert mssql.current_schema == "SELECT SCHEMA_NAME()"


def test_rows_are_filtered_and_the_session_is_marked() -> None:
    made = target(server("mssql"), tenant(isolation="rows"))
    assert made.filter_rows
    assert made.pointing == Pointing(statements=(SET_CONTEXT,))


def test_read_only_tenants_are_refused() -> None:
    with pytest.raises(UnsupportedError):
        mssql.read_only_statements()


def test_the_drivers_and_their_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(mssql.sync_drivers) == ["pyodbc", "pymssql"]
    assert list(mssql.async_drivers) == ["aioodbc"]
    monkeypatch.setattr("tenantry.backends.base.find_spec", lambda name: None)
    for drivername, extra in (("mssql", "pyodbc"), ("mssql+pymssql", "pymssql")):
        named = Server.from_url("s", f"{drivername}://app@db/app")
        with pytest.raises(MissingDependencyError, match=rf"tenantry\[{extra}\]"):
            mssql.driver(named, is_async=False)
