"""The servers that this test run brings: they run, and their accounts work."""

from __future__ import annotations

import json
import secrets

import psycopg
import redis
import sqlalchemy

from tenantry.testing.address import ServerAddress


def test_postgresql_runs_with_room_for_many_connections(postgresql: ServerAddress) -> None:
    assert postgresql.execute("SHOW server_version")[0][0].startswith(postgresql.version)
    assert int(postgresql.execute("SHOW max_connections")[0][0]) >= 300


def test_mariadb_runs_and_makes_databases(mariadb: ServerAddress) -> None:
    name = f"servers_{secrets.token_hex(4)}"
    mariadb.execute(f"CREATE DATABASE {name}")
    assert mariadb.execute("SELECT DATABASE(), '100%'", name) == [(name, "100%")]
    mariadb.execute(f"DROP DATABASE {name}")


def test_mariadb_has_no_account_without_a_password(mariadb: ServerAddress) -> None:
    privileges = mariadb.execute("SELECT User, Priv FROM mysql.global_priv")
    open_accounts = [
        user
        for user, text in privileges
        if not (given := json.loads(text)).get("account_locked")
        and not given.get("authentication_string")
    ]
    assert open_accounts == []


def test_redis_keeps_a_value(redis_server: ServerAddress) -> None:
    with redis.Redis.from_url(redis_server.url().render_as_string(hide_password=False)) as client:
        client.set("servers-test", "kept", ex=60)
        assert client.get("servers-test") == b"kept"


def test_pgbouncer_lets_a_new_role_into_a_new_database(
    postgresql: ServerAddress, pgbouncer: ServerAddress
) -> None:
    name = f"servers_{secrets.token_hex(4)}"
    postgresql.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'test-only'")
    postgresql.execute(f"CREATE DATABASE {name} OWNER {name}")
    url = pgbouncer.url(database=name).set(username=name, password="test-only")
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        row = connection.exec_driver_sql("SELECT current_user, current_database()").one()
    assert tuple(row) == (name, name)
    # Its own console proves that it is PgBouncer which answered.
    console = pgbouncer.url("postgresql", "pgbouncer").render_as_string(hide_password=False)
    with psycopg.Connection.connect(console, autocommit=True) as admin:
        databases = {row[0] for row in admin.execute("SHOW DATABASES")}
    assert name in databases
