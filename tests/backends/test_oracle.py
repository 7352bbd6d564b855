"""Oracle: every statement, and what a target makes of them."""

from __future__ import annotations

import pytest

from tenantry import Server
from tenantry.backends import Oracle, Pointing, backend_of
from tenantry.errors import ConfigurationError, MissingDependencyError, UnsupportedError
from tenantry.tenant import Switch
from tests.backends.support import DriverError, server, target, tenant

oracle = Oracle()


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("acme", "ACME"),
        ("acme$2", "ACME$2"),
        ("acme-1", "acme-1"),  # only quotes can hold it
        ("user", "user"),  # a reserved word
        ("Acme", "Acme"),
    ],
)
def test_names_are_written_as_sqlalchemy_writes_them(name: str, stored: str) -> None:
    assert oracle.stored(name) == stored
    assert oracle.quote(name) == f'"{stored}"'
    oracle.check_schema_name(server("oracle"), name)


@pytest.mark.parametrize("name", ["", "ACME", 'a"b', "a.b", "a b", "a@b", "a\0", "x" * 129, "ä"])
def test_a_schema_with_two_spellings_or_a_dangerous_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError):
        oracle.check_schema_name(server("oracle"), name)


@pytest.mark.parametrize("name", ["", "a)(ADDRESS=(HOST=evil))", "a b", "1a", "a/b", "a\0"])
def test_a_service_cannot_change_the_connect_descriptor(name: str) -> None:
    with pytest.raises(ConfigurationError):
        oracle.check_database_name(server("oracle"), name)


def test_a_database_is_a_service_and_never_a_sid() -> None:
    by_sid = Server.from_url("main", "oracle+oracledb://app@db:1521/XE")
    assert dict(oracle.url(by_sid, "uk", "oracledb").query) == {"service_name": "uk"}
    assert not oracle.url(by_sid, "uk", "oracledb").database
    url = oracle.url(server("oracle"), "uk", "oracledb")
    assert not url.database
    assert dict(url.query) == {"service_name": "uk"}
    assert oracle.url(server("oracle"), None, "oracledb").query["service_name"] == "main"


def test_a_plain_schema_costs_no_round_trip() -> None:
    assert oracle.schema_pointing("acme") == Pointing(attributes={"current_schema": "ACME"})
    assert oracle.current_schema_statement("acme") == 'ALTER SESSION SET CURRENT_SCHEMA = "ACME"'


def test_a_schema_that_needs_quotes_is_set_by_a_statement() -> None:
    assert oracle.schema_pointing("acme-1") == Pointing(
        statements=('ALTER SESSION SET CURRENT_SCHEMA = "acme-1"',)
    )


def test_rows_are_marked_by_the_client_identifier() -> None:
    assert oracle.row_pointing("k1") == Pointing(attributes={"client_identifier": "k1"})
    for key in ("k" * 65, "a\nb"):
        with pytest.raises(ConfigurationError):
            oracle.row_pointing(key)


def test_a_schema_is_created_and_dropped() -> None:
    assert list(oracle.create_schema("acme")) == [
        'CREATE USER "ACME" NO AUTHENTICATION',
        'GRANT UNLIMITED TABLESPACE TO "ACME"',
    ]
    (drop,) = oracle.drop_schema("acme")
    assert drop == (
        "BEGIN EXECUTE IMMEDIATE 'DROP USER \"ACME\" CASCADE'; EXCEPTION WHEN OTHERS THEN "
        "IF SQLCODE != -1918 THEN RAISE; END IF; END;"
    )
    assert oracle.schema_exists("acme") == (
        "SELECT 1 FROM all_users WHERE username = :name",
        {"name": "ACME"},
    )


def test_a_pluggable_database_is_made_by_whoever_runs_the_server() -> None:
    for make in (oracle.create_database, oracle.drop_database):
        with pytest.raises(UnsupportedError):
            make("uk")
    query, parameters = oracle.database_exists("uk")
    assert "v$services" in query
    assert parameters == {"name": "uk"}


@pytest.mark.parametrize(
    ("text", "missing", "read_only"),
    [
        ("ORA-12514: TNS:listener does not currently know of service requested", True, False),
        ('DPY-6001: Service "uk" is not registered with the listener at host "db"', True, False),
        ("DPY-6003: SID is not registered", True, False),
        ("DPY-6005: cannot connect to database (CONNECTION_ID=x). [Errno 111]", False, False),
        ("ORA-01456: may not perform insert in READ ONLY transaction", False, True),
        ("ORA-16000: database or pluggable database open for read-only access", False, True),
        ("ORA-01017: invalid credential or not authorized; logon denied", False, False),
    ],
)
def test_errors_are_told_apart_by_their_codes(text: str, missing: bool, read_only: bool) -> None:
    error = DriverError(text)
    assert oracle.is_missing_database(error) is missing
    assert oracle.is_read_only_refusal(error) is read_only


def test_a_dirty_connection_is_closed_and_a_read_only_tenant_is_refused() -> None:
    assert oracle.reset_statement("oracledb") is None
    with pytest.raises(UnsupportedError):
        oracle.read_only_statements()


def test_a_schema_is_pointed_at_and_written_out() -> None:
    made = target(server("oracle"), tenant(schema="acme"))
    assert made.pointing == Pointing(attributes={"current_schema": "ACME"})
    assert made.translate == "acme"  # reflection and SQLAlchemy's own statements
    assert made.bucket == ("main", None, "schema")
    assert made.arm is None
    assert made.settings == {}


def test_a_connection_of_its_own_is_in_a_bucket_of_its_own() -> None:
    made = target(server("oracle", Switch.CONNECT), tenant(schema="acme"))
    assert made.bucket == ("main", None, "k1.1")


def test_a_login_of_its_own_must_find_itself_in_its_schema() -> None:
    made = target(
        server("oracle"), tenant(untrusted_sql=True, schema="acme", switch="role", role="acme")
    )
    assert made.url.username == "acme"
    assert made.expect_schema == "acme"
    assert made.pointing is None
    with pytest.raises(UnsupportedError, match="untrusted_sql"):
        target(server("oracle"), tenant(untrusted_sql=True, schema="acme"))


def test_rows_are_filtered_and_marked() -> None:
    made = target(server("oracle"), tenant(isolation="rows"))
    assert made.filter_rows
    assert made.pointing == Pointing(attributes={"client_identifier": "k1"})


def test_the_driver_is_oracledb_for_threads_and_asyncio() -> None:
    assert list(oracle.sync_drivers) == list(oracle.async_drivers) == ["oracledb"]
    with pytest.raises(UnsupportedError, match="cx_oracle"):
        oracle.driver(Server.from_url("o", "oracle+cx_oracle://db"), is_async=False)


def test_a_missing_driver_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry.backends.base.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"tenantry\[oracledb\]"):
        backend_of(server("oracle")).driver(server("oracle"), is_async=False)
