"""The Superset adapter without Superset: under a bare Flask application, on every commit.

What only a real Superset can show is in ``tests/superset``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flask
import jwt
import pytest
import redis
import sqlalchemy
from jinja2 import Environment
from jinja2.sandbox import SandboxedEnvironment
from sqlalchemy.engine import make_url
from werkzeug.local import LocalProxy

from tenantry import Isolation, Placement, Server, State, Tenant, errors, events, use
from tenantry.directory import Directory, MappingDirectory
from tenantry.integrations.superset import Visitors, configure, mint, purge
from tenantry.integrations.superset.caches import (
    FileName,
    TenantPrefix,
    WrappedStore,
    tenant_caches,
)
from tenantry.integrations.superset.mutator import Mutator, check_schema, engine_context, place
from tenantry.integrations.superset.security import guard_answer, mint_hook, secured
from tenantry.integrations.superset.startup import DEFAULT_SECRETS, check_startup
from tenantry.integrations.superset.templates import TenantFunction, also_ours
from tenantry.integrations.superset.visitor import signed_in
from tenantry.testing.address import ServerAddress

SECRET = "a secret of more than thirty-two bytes"


class Guest:
    """What Superset makes of a guest token: a user with the token's whole payload."""

    is_guest_user = True
    is_authenticated = True

    def __init__(self, **token: Any) -> None:
        self.guest_token = {"user": {"username": "alice"}, **token}


ACCOUNT = SimpleNamespace(is_authenticated=True, username="uk")
ANONYMOUS = SimpleNamespace(is_authenticated=False)


@pytest.fixture
def servers(tmp_path: Path) -> dict[str, Server]:
    return {"files": Server.from_url("files", f"sqlite:///{tmp_path}")}


@pytest.fixture
def directory(servers: dict[str, Server]) -> MappingDirectory:
    def tenant(name: str, state: State = State.READY) -> Tenant:
        return Tenant(name, Placement("files", database=f"{name}.db"), state)

    return MappingDirectory(
        [
            *(tenant("uk"), tenant("aus"), tenant("hq")),
            *(tenant("late", State.SUSPENDED), tenant("gone", State.DELETED)),
        ],
        servers=servers,
    )


@pytest.fixture
def visitors(directory: Directory, servers: dict[str, Server]) -> Visitors:
    return Visitors(directory, servers, "hq")


@pytest.fixture
def app() -> Iterator[flask.Flask]:
    app = flask.Flask(__name__)
    with app.app_context():
        yield app


def as_user(user: Any) -> None:
    flask.g.user = user


# --- who it is ------------------------------------------------------------------------------


def test_a_guest_reads_the_tenant_of_the_token(app: flask.Flask, visitors: Visitors) -> None:
    as_user(Guest(tenant="uk"))
    assert visitors.tenant().id == "uk"


def test_without_the_claim_the_name_is_the_tenant_as_in_the_article(
    app: flask.Flask, visitors: Visitors
) -> None:
    as_user(Guest(user={"username": "aus"}))
    assert visitors.tenant().id == "aus"


def test_the_claim_outranks_the_name_even_where_it_is_wrong(
    app: flask.Flask, visitors: Visitors
) -> None:
    as_user(Guest(user={"username": "uk"}, tenant="nosuch"))
    with pytest.raises(errors.UnknownTenantError):
        visitors.tenant()


def test_a_name_can_be_kept_from_naming_the_tenant(
    app: flask.Flask, directory: Directory, servers: dict[str, Server]
) -> None:
    as_user(Guest(user={"username": "uk"}))
    with pytest.raises(errors.UnknownTenantError):
        Visitors(directory, servers, "hq", ("tenant",)).tenant()


@pytest.mark.parametrize(
    "claim",
    ["UK", " uk", "uk\n", "", "nosuch", None, ["uk"], {"uk": 1}, 1, True, "uk;aus", "hq' OR 1=1"],
)
def test_what_is_not_exactly_a_tenant_is_refused(
    app: flask.Flask, visitors: Visitors, claim: object
) -> None:
    as_user(Guest(tenant=claim))
    with pytest.raises(errors.UnknownTenantError):
        visitors.tenant()
    with pytest.raises(errors.UnknownTenantError):
        visitors.scope()


@pytest.mark.parametrize("name", ["", ["uk"], 7, False])
def test_a_guest_whose_name_superset_takes_for_nobody_is_refused(
    app: flask.Flask, visitors: Visitors, name: object
) -> None:
    as_user(Guest(user={"username": name}, tenant="uk"))
    with pytest.raises(errors.UnknownTenantError):
        visitors.tenant()


def test_a_guest_without_a_token_is_refused(app: flask.Flask, visitors: Visitors) -> None:
    as_user(SimpleNamespace(is_guest_user=True, is_authenticated=True, username="uk"))
    with pytest.raises(errors.UnknownTenantError):
        visitors.tenant()


def test_suspended_and_deleted_tenants_are_refused_with_live_tokens(
    app: flask.Flask, visitors: Visitors
) -> None:
    as_user(Guest(tenant="late"))
    with pytest.raises(errors.TenantSuspendedError):
        visitors.tenant()
    as_user(Guest(tenant="gone"))
    with pytest.raises(errors.TenantDeletedError):
        visitors.scope()


def test_a_token_of_an_earlier_tenant_of_the_same_id_is_refused(
    app: flask.Flask, visitors: Visitors
) -> None:
    as_user(Guest(tenant="uk", tenant_key=visitors.directory.get("uk").key))
    assert visitors.tenant().id == "uk"
    as_user(Guest(tenant="uk", tenant_key="another"))
    with pytest.raises(errors.TenantMismatchError):
        visitors.tenant()


def test_an_account_named_like_a_tenant_reads_the_reference(
    app: flask.Flask, visitors: Visitors
) -> None:
    as_user(ACCOUNT)
    assert visitors.tenant().id == "hq"


def test_without_a_reference_staff_read_nothing(
    app: flask.Flask, directory: Directory, servers: dict[str, Server]
) -> None:
    as_user(ACCOUNT)
    with pytest.raises(errors.ConfigurationError, match="reference"):
        Visitors(directory, servers).tenant()


@pytest.mark.parametrize("user", [None, ANONYMOUS])
def test_nobody_reads_nothing_and_refusals_are_told(
    app: flask.Flask, visitors: Visitors, user: Any
) -> None:
    heard: list[events.Event] = []
    stop = events.listen(heard.append)
    as_user(user)
    try:
        with pytest.raises(errors.NoTenantError):
            visitors.tenant()
    finally:
        stop()
    assert heard == [events.Refused(None, "NoTenantError")]


def test_outside_any_application_there_is_nobody(visitors: Visitors) -> None:
    assert signed_in() is None
    with pytest.raises(errors.NoTenantError):
        visitors.tenant()
    assert visitors.scope() == "-:"


def current_user() -> Any:
    """As Flask-Login's proxy: nobody, once the request has ended."""
    return flask.g._login_user if flask.has_request_context() else None


def test_a_streamed_export_still_knows_its_guest(visitors: Visitors) -> None:
    app = flask.Flask(__name__)
    with app.test_request_context():
        flask.g._login_user = Guest(tenant="uk")
        flask.g.user = LocalProxy(current_user)
        assert visitors.tenant().id == "uk"
        copied = dict(flask.g._get_current_object().__dict__)
    with app.app_context():
        for name, value in copied.items():
            setattr(flask.g, name, value)
        assert flask.g.user._get_current_object() is None
        assert visitors.tenant().id == "uk"


def test_a_guest_beside_an_account_is_a_guest(app: flask.Flask, visitors: Visitors) -> None:
    flask.g.user = ACCOUNT
    flask.g._login_user = Guest(tenant="uk")
    assert visitors.tenant().id == "uk"


# --- the connection -------------------------------------------------------------------------

CONFIGURED = make_url("sqlite:///nobody")


def region_of(mutate: Callable[..., Any], **params: Any) -> str:
    """Open what the mutator says, as Superset does, and read whose rows are there."""
    url, kept = mutate(CONFIGURED, {"poolclass": sqlalchemy.pool.NullPool, **params}, "a", None)
    engine = sqlalchemy.create_engine(url, **kept)
    with engine.connect() as connection:
        return str(connection.execute(sqlalchemy.text("SELECT name FROM region")).scalar())


@pytest.fixture
def regions(directory: Directory, servers: dict[str, Server]) -> None:
    for name in ("uk", "aus", "hq"):
        engine = sqlalchemy.create_engine(f"sqlite:///{servers['files'].root / name}.db")
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TABLE region (name text)"))
            connection.execute(sqlalchemy.text(f"INSERT INTO region VALUES ('{name}')"))
        engine.dispose()


@pytest.mark.usefixtures("regions")
def test_every_connection_goes_to_the_tenant(app: flask.Flask, visitors: Visitors) -> None:
    mutate = Mutator(visitors)
    for user, region in [
        (Guest(tenant="uk"), "uk"),
        (Guest(tenant="aus"), "aus"),
        (ACCOUNT, "hq"),
        (Guest(tenant="uk"), "uk"),
    ]:
        as_user(user)
        assert region_of(mutate) == region


def test_nothing_is_connected_to_without_a_tenant(app: flask.Flask, visitors: Visitors) -> None:
    as_user(Guest(tenant="nosuch"))
    with pytest.raises(errors.UnknownTenantError):
        Mutator(visitors)(CONFIGURED, {}, "uk", None, None)


def test_a_database_marked_shared_is_left_alone(app: flask.Flask, visitors: Visitors) -> None:
    as_user(None)
    url, params = Mutator(visitors)(CONFIGURED, {"tenantry": "shared", "echo": True}, None, None)
    assert (url, params) == (CONFIGURED, {"echo": True})
    with pytest.raises(errors.ConfigurationError, match="neither"):
        Mutator(visitors)(CONFIGURED, {"tenantry": "off"}, None, None)


@pytest.mark.usefixtures("regions")
def test_a_mutator_that_was_there_runs_first_and_its_parameters_stay(
    app: flask.Flask, visitors: Visitors
) -> None:
    def theirs(uri: Any, params: Any, username: Any, manager: Any, source: Any) -> Any:
        return "sqlite:///elsewhere", {**params, "echo": False, "connect_args": {"timeout": 7}}

    as_user(Guest(tenant="uk"))
    mutate = Mutator(visitors, theirs)
    _, params = mutate(CONFIGURED, {}, None, None, None)
    assert params["connect_args"] == {"timeout": 7}
    assert params["echo"] is False
    assert region_of(mutate) == "uk"


def tenant_on(server: str, **placement: Any) -> Tenant:
    return Tenant("uk", Placement(server, **placement))


def test_the_url_has_the_configured_driver_and_no_password() -> None:
    server = Server.from_url(
        "eu", "postgresql+psycopg://svc:a%40b@db.internal:5433/main?sslmode=require"
    )
    url, connect_args = place(tenant_on("eu", database="uk"), server, "postgresql+psycopg2")
    assert str(url) == "postgresql+psycopg2://svc@db.internal:5433/uk?sslmode=require"
    assert connect_args == {}


def test_a_schema_of_postgresql_is_the_whole_path() -> None:
    server = Server.from_url("eu", "postgresql://svc@db/main")
    tenant = tenant_on("eu", isolation=Isolation.SCHEMA, schema='a "b\\ c')
    url, connect_args = place(tenant, server, "postgresql+psycopg2")
    assert url.database == "main"
    assert connect_args == {"options": '-csearch_path="a\\ ""b\\\\\\ c",pg_temp'}


def test_a_schema_of_mysql_is_its_database() -> None:
    server = Server.from_url("eu", "mysql+pymysql://svc@db/main")
    tenant = tenant_on("eu", isolation=Isolation.SCHEMA, schema="uk")
    assert place(tenant, server, "mysql+pymysql")[0].database == "uk"
    assert place(tenant, server, "mariadb+pymysql")[0].database == "uk"


@pytest.mark.parametrize(
    ("url", "placement", "error"),
    [
        ("mysql://svc@db/main", {}, errors.ConfigurationError),
        ("postgresql://svc@db/main", {"isolation": Isolation.ROWS}, errors.UnsupportedError),
        ("sqlite:////srv/files", {"database": "../x.db"}, errors.ConfigurationError),
        ("sqlite:////srv/files", {}, errors.ConfigurationError),
    ],
)
def test_what_cannot_be_kept_apart_is_refused(
    url: str, placement: dict[str, Any], error: type[Exception]
) -> None:
    server = Server.from_url("eu", url)
    drivername = "sqlite" if url.startswith("sqlite") else "postgresql"
    with pytest.raises(error):
        place(tenant_on("eu", **placement), server, drivername)


def test_start_up_options_add_up_and_the_path_comes_last(
    app: flask.Flask, directory: Directory
) -> None:
    server = Server.from_url(
        "eu", "postgresql://svc@db/main", connect_args={"options": "-cstatement_timeout=5s"}
    )
    tenants = MappingDirectory([tenant_on("eu", isolation=Isolation.SCHEMA, schema="uk")])
    as_user(Guest(tenant="uk"))
    mutate = Mutator(Visitors(tenants, {"eu": server}))
    params = mutate("postgresql://nobody@tenant.invalid/none", {}, None, None)[1]
    assert params["connect_args"]["options"] == (
        '-cstatement_timeout=5s -csearch_path="uk",pg_temp'
    )


@pytest.fixture(scope="module")
def schemas(postgresql: ServerAddress) -> Iterator[Server]:
    """Two tenants in two schemas of one database, and a login that may read both."""
    for statement in (
        "CREATE ROLE superset_unit LOGIN PASSWORD 'unit@test:'",
        "CREATE DATABASE superset_unit OWNER superset_unit",
    ):
        postgresql.execute(statement)
    url = postgresql.url("postgresql+psycopg2", "superset_unit").set(
        username="superset_unit", password="unit@test:"
    )
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        for name in ("uk", "aus"):
            connection.execute(sqlalchemy.text(f"CREATE SCHEMA {name}"))
            connection.execute(
                sqlalchemy.text(f"CREATE TABLE {name}.region AS SELECT '{name}'::text AS name")
            )
    engine.dispose()
    yield Server.from_url("pg", url)
    postgresql.execute("DROP DATABASE superset_unit")
    postgresql.execute("DROP ROLE superset_unit")


def in_schemas(server: Server) -> Visitors:
    return Visitors(
        MappingDirectory(
            Tenant(name, Placement("pg", Isolation.SCHEMA, schema=name)) for name in ("uk", "aus")
        ),
        {"pg": server},
        "uk",
    )


def test_each_schema_is_read_through_its_path(app: flask.Flask, schemas: Server) -> None:
    mutate = Mutator(in_schemas(schemas))
    for name in ("uk", "aus", "uk"):
        as_user(Guest(tenant=name))
        url, params = mutate("postgresql://nobody@tenant.invalid/none", {}, None, None)
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool, **params)
        assert engine.url.password is None
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.text("SELECT name FROM region")).scalar() == name


def test_a_schema_that_is_gone_is_not_passed_over(app: flask.Flask, schemas: Server) -> None:
    gone = Tenant("uk", Placement("pg", Isolation.SCHEMA, schema="gone"))
    as_user(Guest(tenant="uk"))
    mutate = Mutator(Visitors(MappingDirectory([gone]), {"pg": schemas}))
    url, params = mutate("postgresql://nobody@tenant.invalid/none", {}, None, None)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool, **params)
    with pytest.raises(errors.PlacementMissingError):
        engine.connect()


def test_a_driver_s_words_stay_in_the_log(
    app: flask.Flask, schemas: Server, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = Server.from_url("pg", schemas.url, password="not the passw@rd")
    as_user(Guest(tenant="uk"))
    mutate = Mutator(in_schemas(wrong))
    url, params = mutate("postgresql://nobody@tenant.invalid/none", {}, None, None)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool, **params)
    with pytest.raises(sqlalchemy.exc.OperationalError) as caught:
        engine.connect()
    shown = str(caught.value)
    assert "the database of tenant 'uk' cannot be reached" in shown
    for secret in ("superset_unit", "127.0.0.1", str(schemas.url.port), "passw@rd"):
        assert secret not in shown
    assert "password authentication failed" in caplog.text
    assert "passw@rd" not in caplog.text


class Database:
    """The part of Superset's ``Database`` that the context manager is given."""

    def __init__(self, **engine_params: Any) -> None:
        self._extra = {"engine_params": engine_params}

    def get_extra(self) -> dict[str, Any]:
        return self._extra


def test_a_dataset_that_names_another_s_schema_is_refused(
    app: flask.Flask, schemas: Server
) -> None:
    visitors = in_schemas(schemas)
    around = engine_context(visitors)
    as_user(Guest(tenant="aus"))
    for schema in (None, "", "aus"):
        with around(Database(), None, schema):
            pass
    refused = pytest.raises(errors.ConfigurationError, match="leave the dataset's schema empty")
    with refused, around(Database(), None, "uk"):
        pass
    with around(Database(tenantry="shared"), None, "uk"):
        pass


def test_an_own_database_of_postgresql_needs_no_look_at_the_schema(
    app: flask.Flask, visitors: Visitors
) -> None:
    as_user(Guest(tenant="uk"))
    check_schema(visitors, "public")


# --- the caches -----------------------------------------------------------------------------


def test_scopes_of_tenants_staff_and_nobody_never_meet(
    app: flask.Flask, visitors: Visitors
) -> None:
    scopes = set()
    for user in (Guest(tenant="uk"), Guest(tenant="aus"), Guest(tenant="hq"), ACCOUNT, None):
        as_user(user)
        scopes.add(visitors.scope())
    assert len(scopes) == 5


def test_a_tenant_created_again_shares_no_scope_with_the_old_one(
    app: flask.Flask, visitors: Visitors, directory: MappingDirectory
) -> None:
    as_user(Guest(tenant="uk"))
    before = visitors.scope()
    old = directory.get("uk")
    directory.remove(old)
    directory.add(Tenant("uk", old.placement))
    assert visitors.scope() != before


def test_real_redis_holds_each_tenant_s_own_and_purge_takes_one(
    app: flask.Flask, visitors: Visitors, redis_server: ServerAddress
) -> None:
    client = redis.Redis.from_url(redis_server.url().render_as_string(hide_password=False))
    prefix = TenantPrefix("unit_", visitors)
    for name in ("uk", "aus"):
        as_user(Guest(tenant=name))
        client.set(f"{prefix()}chart", name)
        client.set(f"{prefix()}t:uk:chart", name)
    as_user(ACCOUNT)
    client.set(f"{prefix()}chart", "staff")
    for name in ("uk", "aus"):
        as_user(Guest(tenant=name))
        assert client.get(f"{prefix()}chart") == name.encode()
    assert purge(client, "uk") == 2
    assert client.get(f"{prefix()}chart") == b"aus"
    assert purge(redis_server.url().render_as_string(hide_password=False), "uk") == 0
    left = list(client.scan_iter(match="unit_*"))
    assert len(left) == 3
    client.delete(*left)
    client.close()


def test_purge_takes_no_pattern() -> None:
    with pytest.raises(errors.InvalidTenantIdError):
        purge("redis://tenant.invalid", "*")


def test_files_are_named_after_their_tenant_and_purge_takes_one_s(
    app: flask.Flask, visitors: Visitors, tmp_path: Path
) -> None:
    def name(key: str) -> str:
        return FileName(hashlib.sha256, f"{visitors.scope()}{key}".encode()).hexdigest()

    for tenant in ("uk", "aus"):
        as_user(Guest(tenant=tenant))
        for key in ("a", "b", "t:uk:a"):
            (tmp_path / name(key)).touch()
    as_user(ACCOUNT)
    (tmp_path / name("t:uk:a")).touch()
    assert len(list(tmp_path.iterdir())) == 7
    assert len(list(tmp_path.glob("t.uk.*"))) == 3
    settings = tenant_caches(
        {"DATA_CACHE_CONFIG": {"CACHE_TYPE": "FileSystemCache", "CACHE_DIR": str(tmp_path)}},
        visitors,
    )
    assert purge(settings["DATA_CACHE_CONFIG"], "uk") == 3
    assert purge(tmp_path, "uk") == 0
    assert len(list(tmp_path.glob("t.aus.*"))) == 3
    assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(errors.ConfigurationError, match="no directory"):
        purge(tmp_path / "none", "uk")


@pytest.mark.parametrize(
    "kind", ["SimpleCache", "MemcachedCache", "UWSGICache", "SupersetMetastoreCache"]
)
def test_purge_refuses_a_cache_that_cannot_list_its_entries(kind: str, visitors: Visitors) -> None:
    name = "FILTER_STATE_CACHE_CONFIG"
    for config in (
        {"CACHE_TYPE": kind},
        tenant_caches({name: {"CACHE_TYPE": kind}}, visitors)[name],
    ):
        with pytest.raises(errors.UnsupportedError, match="new generation"):
            purge(config, "uk")


def test_purge_of_a_cache_that_stores_nothing_finds_nothing(visitors: Visitors) -> None:
    assert purge(tenant_caches({}, visitors)["DATA_CACHE_CONFIG"], "uk") == 0
    with pytest.raises(errors.UnsupportedError, match="only a Redis"):
        purge("memcached://localhost", "uk")


def test_a_new_generation_leaves_everything_cached_unread(
    app: flask.Flask, visitors: Visitors, directory: MappingDirectory
) -> None:
    as_user(Guest(tenant="uk"))
    cache = WrappedStore(Store(), visitors.scope)
    cache.set("a", "old")
    uk = directory.get("uk")
    directory.replace(dataclasses.replace(uk, generation=uk.generation + 1), expected=uk)
    assert cache.get("a") is None


class Store(dict[str, Any]):
    """A store in memory with the methods of cachelib."""

    default_timeout = 300

    def set(self, key: str, value: Any, timeout: int | None = None) -> bool:
        self[key] = value
        return True

    def add(self, key: str, value: Any, timeout: int | None = None) -> bool:
        return key not in self and self.set(key, value)

    def has(self, key: str) -> bool:
        return key in self

    def delete(self, key: str) -> bool:
        return self.pop(key, None) is not None


def test_a_wrapped_store_keeps_tenants_apart_in_every_method(
    app: flask.Flask, visitors: Visitors
) -> None:
    store = Store()
    cache = WrappedStore(store, visitors.scope)
    for name in ("uk", "aus"):
        as_user(Guest(tenant=name))
        assert cache.get("a") is None
        assert not cache.has("a")
        assert cache.add("a", name)
        assert not cache.add("a", "again")
        assert cache.set_many({"b": name, "c": name}) == ["b", "c"]
        assert cache.get_dict("a", "b") == {"a": name, "b": name}
        assert cache.delete("c")
        assert cache.delete_many("c", "b") == ["b"]
        assert cache.get_many("a", "b") == [name, None]
    assert len(store) == 2
    as_user(Guest(tenant="nosuch"))
    with pytest.raises(errors.UnknownTenantError):
        cache.get("a")
    cache.clear()
    assert not store
    assert cache.default_timeout == 300
    assert not hasattr(cache, "inc")


def test_all_five_caches_are_set_and_what_was_there_stays(visitors: Visitors) -> None:
    settings = {
        "DATA_CACHE_CONFIG": {"CACHE_TYPE": "RedisCache", "CACHE_KEY_PREFIX": lambda: "own_"},
        "THUMBNAIL_CACHE_CONFIG": {"CACHE_TYPE": "FileSystemCache", "CACHE_DIR": "x"},
        "CACHE_CONFIG": {"CACHE_TYPE": "NullCache"},
    }
    made = tenant_caches(settings, visitors)
    assert made["DATA_CACHE_CONFIG"]["CACHE_KEY_PREFIX"]() == "own_-:"
    assert made["THUMBNAIL_CACHE_CONFIG"]["TENANTRY_STORE"] == "FileSystemCache"
    assert made["THUMBNAIL_CACHE_CONFIG"]["CACHE_DIR"] == "x"
    assert made["CACHE_CONFIG"]["CACHE_TYPE"] == "NullCache"
    assert made["FILTER_STATE_CACHE_CONFIG"]["TENANTRY_STORE"].endswith("SupersetMetastoreCache")
    assert tenant_caches(made, visitors).keys() == made.keys()
    on_redis = tenant_caches({}, visitors, "redis://cache/1")
    prefixes = {config["CACHE_KEY_PREFIX"]() for config in on_redis.values()}
    assert prefixes == {"meta_-:", "data_-:", "filter_-:", "explore_-:", "thumbnail_-:"}


# --- templates -------------------------------------------------------------------------------


def test_the_tenant_in_a_template_is_part_of_the_cache_key(
    app: flask.Flask, visitors: Visitors
) -> None:
    """As Superset renders a query for its key: what is handed to the wrapper gets into it."""
    keys: list[Any] = []
    template = SandboxedEnvironment().from_string("SELECT '{{ tenant() }}' AS t FROM sales")
    context = {"tenant": TenantFunction(visitors), "cache_key_wrapper": keys.append}
    for name in ("uk", "aus"):
        as_user(Guest(tenant=name))
        assert template.render(context) == f"SELECT '{name}' AS t FROM sales"
    assert keys == ["tenantry=uk", "tenantry=aus"]
    as_user(Guest(tenant="nobody"))
    with pytest.raises(errors.UnknownTenantError):
        template.render(context)


@pytest.mark.parametrize(
    ("sql", "counts"),
    [
        ("SELECT '{{ tenant() }}' AS t", True),
        ("SELECT {{ 'x' ~ tenant( ) }}", True),
        ("{% if tenant() == 'uk' %} SELECT 1 {% endif %}", True),
        ("SELECT '{{ current_username() }}'", True),
        ("SELECT tenant() FROM sales", False),
        ("SELECT {{ subtenant() }}", False),
        ("SELECT '{{ tenant }}'", False),
        ("SELECT '{{ 1 }}', tenant(), '{{ 2 }}'", False),
    ],
)
def test_a_template_that_names_the_tenant_is_rendered_for_the_key(sql: str, counts: bool) -> None:
    supersets = re.compile(r"(\{\{|\{%)[^{}]*?(current_username\([^)]*\))[^{}]*?(\}\}|%\})")
    pattern = also_ours(supersets)
    assert bool(pattern.search(sql)) is counts
    assert also_ours(pattern) is pattern


# --- configure, hooks, start-up -------------------------------------------------------------


class Manager:
    """A user's own security manager."""

    def get_guest_user_from_token(self, token: Any) -> Any:
        return Guest(**token)

    def get_rls_cache_key(self, datasource: Any) -> list[str]:
        return ["theirs"]


class AnonymousUserMixin:
    """Flask-Login's, which Superset 6.0's guests take this from."""

    __module__ = "flask_login.mixins"
    is_active = property(lambda self: False)


class OldGuest(AnonymousUserMixin):
    active = True


class NewGuest(AnonymousUserMixin):
    active = is_active = True


class Sleepy(AnonymousUserMixin):
    is_active = property(lambda self: False)


def test_guests_of_superset_6_0_are_let_in_and_others_left_as_they_are(visitors: Visitors) -> None:
    def guests(guest: type[Any]) -> Any:
        return secured(type("Own", (Manager,), {"guest_user_cls": guest}), visitors).guest_user_cls

    assert guests(OldGuest)().is_active is True
    assert issubclass(guests(OldGuest), OldGuest)
    assert guests(NewGuest) is NewGuest
    assert guests(Sleepy) is Sleepy


def test_configure_composes_with_everything_that_was_set(
    app: flask.Flask, directory: Directory, servers: dict[str, Server]
) -> None:
    calls: list[str] = []

    def noted(name: str, answer: Any = None) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(name)
            return arguments[:2] if name == "mutator" else answer

        return call

    settings: dict[str, Any] = {
        "DB_CONNECTION_MUTATOR": noted("mutator"),
        "CUSTOM_SECURITY_MANAGER": Manager,
        "GUEST_TOKEN_VALIDATOR_HOOK": noted("hook", True),
        "FLASK_APP_MUTATOR": noted("app"),
        "JINJA_CONTEXT_ADDONS": {"double": noted("double")},
        "FEATURE_FLAGS": {"ALERT_REPORTS": True},
        "TALISMAN_CONFIG": {"force_https": True},
        "GUEST_TOKEN_JWT_SECRET": SECRET,
    }
    configure(settings, directory=directory, servers=servers, reference="hq")
    assert settings["TALISMAN_CONFIG"] == {"force_https": True}
    assert settings["FEATURE_FLAGS"] == {"ALERT_REPORTS": True, "EMBEDDED_SUPERSET": True}
    assert settings["JINJA_CONTEXT_ADDONS"].keys() == {"tenant", "double"}
    assert issubclass(settings["CUSTOM_SECURITY_MANAGER"], Manager)
    as_user(Guest(tenant="uk"))
    template = Environment().from_string("{{ tenant() }}")
    assert template.render(settings["JINJA_CONTEXT_ADDONS"]) == "uk"
    assert settings["DB_CONNECTION_MUTATOR"](CONFIGURED, {}, None, None, None)
    assert settings["GUEST_TOKEN_VALIDATOR_HOOK"]({"user": {"username": "uk"}})
    application = flask.Flask("superset")
    application.config.update(settings)
    settings["FLASK_APP_MUTATOR"](application)
    assert calls == ["mutator", "hook", "app"]


def test_configure_reads_the_article_s_variables(app: flask.Flask) -> None:
    variables = {
        "DB_UK_HOST": "uk.db.internal",
        "DB_UK_PASS": "p@ss",
        "DB_AUS_HOST": "aus.db.internal",
        "DB_AUS_PASS": "other",
        "DB_AUS_DB": "sales",
    }
    settings: dict[str, Any] = {"CUSTOM_SECURITY_MANAGER": Manager}
    configure(settings, environment=variables)
    found = {}
    for name in ("uk", "aus"):
        as_user(Guest(user={"username": name}))
        url, _ = settings["DB_CONNECTION_MUTATOR"]("postgresql://x@tenant.invalid/x", {}, None)
        found[name] = str(url)
    assert found == {
        "uk": "postgresql://superset@uk.db.internal/postgres",
        "aus": "postgresql://superset@aus.db.internal/sales",
    }


def test_configure_refuses_half_of_what_it_needs(directory: Directory) -> None:
    with pytest.raises(errors.ConfigurationError, match="both"):
        configure({}, directory=directory)
    with pytest.raises(errors.ConfigurationError, match="claims"):
        configure({}, claims=("email",))


def test_a_guest_of_no_tenant_is_nobody_and_keys_carry_the_tenant(
    app: flask.Flask, visitors: Visitors
) -> None:
    manager = secured(Manager, visitors)()
    assert manager.get_guest_user_from_token({"user": {}, "tenant": "nosuch"}) is None
    assert manager.get_guest_user_from_token({"user": {}, "tenant": "gone"}) is None
    assert manager.get_guest_user_from_token({"user": {}, "tenant": "uk"}).is_guest_user
    keys = []
    for user in (Guest(tenant="uk"), Guest(tenant="aus"), ACCOUNT):
        as_user(user)
        keys.append(tuple(manager.get_rls_cache_key(None)))
    assert len(set(keys)) == 3
    assert all(key[0] == "theirs" for key in keys)


def test_no_token_is_made_for_an_unknown_tenant(visitors: Visitors) -> None:
    hook = mint_hook(visitors)
    app = flask.Flask(__name__)

    def minted(**user: Any) -> bool:
        with app.test_request_context(json={"user": user}):
            # Superset hands over what its schema knows, and drops the rest.
            return hook({"user": {k: v for k, v in user.items() if k == "username"}})

    assert minted(username="alice", tenant="uk")
    assert minted(username="uk")
    assert not minted(username="alice")
    assert not minted(username="uk", tenant="nosuch")
    assert not minted(username="uk", tenant=None)
    assert not minted(username="alice", tenant=["uk"])
    assert not minted(username="alice", tenant="late")
    assert not hook({})
    assert not mint_hook(visitors, lambda body: False)({"user": {"username": "uk"}})


def answering(status: int, body: Mapping[str, Any]) -> flask.testing.FlaskClient:
    app = flask.Flask(__name__)
    app.after_request(guard_answer)

    def view(**_: Any) -> Any:
        return flask.jsonify(body), status, {"Cache-Control": "public, max-age=60"}

    app.add_url_rule("/<path:path>", view_func=view)
    return app.test_client()


DATABASE_WORDS = {
    "errors": [
        {
            "message": 'connection to server at "db.eu" (10.0.0.7), port 5432 failed',
            "error_type": "GENERIC_DB_ENGINE_ERROR",
            "level": "error",
            "extra": {"issue_codes": [{"code": 1002, "message": 'role "svc_eu"'}]},
        }
    ],
    "message": "svc_eu@10.0.0.7",
    "stacktrace": "File ...",
}


def test_a_guest_s_answer_is_private_and_its_errors_are_ours() -> None:
    for status in (400, 422, 500, 503):
        answer = answering(status, DATABASE_WORDS).get("/x", headers={"X-GuestToken": "t"})
        assert answer.headers["Cache-Control"] == "private, no-store"
        assert "X-GuestToken" in answer.headers["Vary"]
        for word in ("10.0.0.7", "svc_eu", "5432", "db.eu", "File"):
            assert word not in answer.text
        assert json.loads(answer.text)["errors"][0]["error_type"] == "GENERIC_DB_ENGINE_ERROR"
        assert "Reference" in answer.text


def test_an_asynchronous_failure_is_made_safe_in_its_list_of_events() -> None:
    body = {"result": [{"job_id": "1", "status": "error", "errors": [{"message": "svc_eu"}]}]}
    client = answering(200, body)
    headers = {"X-GuestToken": "t"}
    safe = json.loads(client.get("/api/v1/async_event/", headers=headers).text)
    assert "svc_eu" not in str(safe)
    assert safe["result"][0]["job_id"] == "1"


def test_staff_and_good_answers_are_left_as_they_are() -> None:
    answer = answering(500, DATABASE_WORDS).get("/x")
    assert answer.headers["Cache-Control"] == "public, max-age=60"
    assert "svc_eu" in answer.text
    rows = answering(200, {"message": "a row"}).get("/x", headers={"X-GuestToken": "t"})
    assert rows.json == {"message": "a row"}


def started(visitors: Visitors, **changes: Any) -> None:
    settings: dict[str, Any] = {
        "GUEST_TOKEN_JWT_SECRET": SECRET,
        "DB_CONNECTION_MUTATOR": Mutator(visitors),
        "CUSTOM_SECURITY_MANAGER": secured(Manager, visitors),
        "FEATURE_FLAGS": {"EMBEDDED_SUPERSET": True},
        **tenant_caches({}, visitors),
    }
    check_startup({**settings, **changes}, visitors)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"GUEST_TOKEN_JWT_SECRET": DEFAULT_SECRETS["GUEST_TOKEN_JWT_SECRET"]}, "public default"),
        ({"GUEST_TOKEN_JWT_SECRET": "short"}, "32 bytes"),
        ({"DB_CONNECTION_MUTATOR": None}, "DB_CONNECTION_MUTATOR"),
        ({"CUSTOM_SECURITY_MANAGER": Manager}, "CUSTOM_SECURITY_MANAGER"),
        (
            {"CACHE_CONFIG": {"CACHE_TYPE": "RedisCache", "CACHE_KEY_PREFIX": "x"}},
            "CACHE_CONFIG does not keep tenants apart",
        ),
        (
            {
                "FEATURE_FLAGS": {"GLOBAL_ASYNC_QUERIES": True},
                "GLOBAL_ASYNC_QUERIES_JWT_SECRET": "test-secret-change-me",
            },
            "GLOBAL_ASYNC_QUERIES_JWT_SECRET",
        ),
    ],
)
def test_superset_does_not_start_where_it_would_leak(
    visitors: Visitors, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(errors.ConfigurationError, match=said):
        started(visitors, **changes)


def test_superset_starts_and_says_what_is_weak(
    directory: Directory, servers: dict[str, Server], caplog: pytest.LogCaptureFixture
) -> None:
    started(Visitors(directory, servers))
    assert "no reference tenant" in caplog.text
    assert "DATA_CACHE_CONFIG is not set" in caplog.text


def test_tenants_that_superset_cannot_serve_are_found_at_the_start() -> None:
    servers = {
        "pg": Server.from_url("pg", "postgresql://x@a/b"),
        "my": Server.from_url("my", "mysql://x@a/b"),
    }
    tenants = [
        Tenant("uk", Placement("pg")),
        Tenant("aus", Placement("my")),
        Tenant("row", Placement("pg", Isolation.ROWS, database="rows")),
    ]
    with pytest.raises(errors.ConfigurationError) as caught:
        started(Visitors(MappingDirectory(tenants), servers, "nosuch"))
    for said in ("different kinds", "'row' shares tables", "'nosuch' does not exist"):
        assert said in str(caught.value)


# --- tokens and imports ---------------------------------------------------------------------


def test_a_minted_token_has_the_current_tenant_and_the_person() -> None:
    with use(Tenant("uk", Placement("x"))):
        token = mint("dash", secret=SECRET, person="alice", rules=["amount > 5"], now=1e9)
    claims = jwt.decode(
        token, SECRET, ["HS256"], audience="http://0.0.0.0:8080/", options={"verify_exp": False}
    )
    assert claims["tenant"] == "uk"
    assert claims["user"]["username"] == "alice"
    assert claims["rls_rules"] == [{"clause": "amount > 5"}]
    assert claims["resources"] == [{"type": "dashboard", "id": "dash"}]
    assert claims["exp"] - claims["iat"] == 300
    assert claims["type"] == "guest"


def test_no_token_without_a_tenant_a_dashboard_a_person_and_a_secret() -> None:
    with pytest.raises(errors.NoTenantError):
        mint("dash", secret=SECRET, person="alice")
    with use(Tenant("uk", Placement("x"))):
        for secret, person in ((SECRET, ""), ("short", "alice")):
            with pytest.raises(errors.ConfigurationError):
                mint("dash", secret=secret, person=person)
        with pytest.raises(errors.ConfigurationError):
            mint(secret=SECRET, person="alice")


def test_the_adapter_imports_nothing_that_needs_sqlalchemy_2() -> None:
    program = (
        "import sys\n"
        "from tenantry.integrations.superset import configure, purge, Visitors\n"
        "bad = ['tenantry.orm', 'tenantry.routing', 'tenantry.tenancy', 'superset', 'httpx',\n"
        "       'sqlalchemy.ext.asyncio', 'sqlalchemy.orm']\n"
        "sys.exit(', '.join(name for name in bad if name in sys.modules) or None)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
