"""Tenants from a mapping, the environment and a file; what is wrong is named."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from tenantry import Isolation, Placement, Server, State, Tenant
from tenantry.directory import (
    MappingDirectory,
    check_placements,
    default_database,
    from_env,
    from_file,
    from_mapping,
)
from tenantry.errors import (
    ConfigurationError,
    DirectoryFileError,
    DuplicatePlacementError,
    MissingVariableError,
    TenantryError,
)
from tests.canary import CANARY, sightings

FILE = """
[servers.eu]
url = "postgresql+psycopg://app@db.eu.internal:5432/app"
password_env = "DB_EU_PASS"
max_connections = 50

[servers.local]
url = "sqlite:///data"

[tenants.uk]
server = "eu"
isolation = "database"
database = "uk"

[tenants.acme]
server = "eu"
isolation = "schema"
schema = "acme"
state = "read_only"
identifiers = ["shop.acme.example"]
attributes = { plan = "gold" }

[tenants.corner]
server = "eu"
isolation = "rows"

[tenants.here]
server = "local"

[shared]
server = "local"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "tenants.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(call: Any, *args: Any, **named: Any) -> TenantryError:
    with pytest.raises(ConfigurationError) as caught:
        call(*args, **named)
    assert sightings(caught.value) == []
    return caught.value


# Mappings


def test_a_mapping_of_sqlite_files_is_one_server_below_their_folder(tmp_path: Path) -> None:
    loaded = from_mapping(
        {"uk": "sqlite:///data/uk.db", "aus": "sqlite:///data/aus.db"}, folder=tmp_path
    )
    (server,) = loaded.servers.values()
    assert server.root == tmp_path / "data"
    assert server.create_missing
    assert loaded.directory.get("uk").placement == Placement(server.name, database="uk.db")
    assert not (tmp_path / "data").exists()


def test_relative_files_are_below_the_current_folder_at_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = from_mapping({"uk": "sqlite:///uk.db"})
    monkeypatch.chdir("/")
    assert loaded.servers["sqlite"].root == tmp_path


def test_urls_of_one_login_are_one_server() -> None:
    loaded = from_mapping(
        {
            "uk": "postgresql://app:pw@db:5432/uk",
            "aus": make_url("postgresql://app:pw@db:5432/aus"),
            "eu": {"url": "postgresql://app:pw@db:5432/eu"},
            "other-user": "postgresql://root:pw@db:5432/x1",
            "other-port": "postgresql://app:pw@db:5433/x",
            "other-driver": "postgresql+psycopg://app:pw@db:5432/x2",
            "other-query": "postgresql://app:pw@db:5432/x3?sslmode=require",
            "other-password": "postgresql://app:new@db:5432/x4",
            "other-limit": {"url": "postgresql://app:pw@db:5432/x5", "max_connections": 3},
        }
    )
    places = {tenant.id: tenant.placement for tenant in loaded.directory.tenants()}
    assert places["uk"].server == places["aus"].server == places["eu"].server
    assert places["uk"].database == "uk"
    assert len({place.server for place in places.values()}) == 7
    assert loaded.servers[places["other-limit"].server].max_connections == 3


def test_names_of_servers_are_safe_to_log() -> None:
    loaded = from_mapping({"uk": "postgresql://u:p@h\u00f6st%0a/uk", "aus": "mysql+pymysql:///x"})
    for name in loaded.servers:
        assert name.isascii()
        assert name.isprintable()
        assert " " not in name


def test_engine_options_of_a_bind_are_left_out_loudly(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        from_mapping({"uk": {"url": "sqlite:///uk.db", "pool_size": 5, "echo": True}})
    assert {"echo", "pool_size"} <= set(" ".join(caplog.messages).replace(".", " ").split())


def test_the_entry_shared_is_the_shared_place() -> None:
    loaded = from_mapping({"uk": "sqlite:///uk.db", "shared": "sqlite:///all.db"})
    assert loaded.shared == Placement("sqlite", database="all.db")
    assert [tenant.id for tenant in loaded.directory.tenants()] == ["uk"]


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"uk": "sqlite://"}, "in memory"),
        ({"uk": "sqlite:///:memory:"}, "in memory"),
        ({"uk": "sqlite:///file:x?mode=memory&uri=true"}, "in memory"),
        ({"uk": "sqlite:///file:x.db?uri=true"}, "sqlite:///path/to/file.db"),
        ({"uk": f"postgres//{CANARY}"}, "uk.url: is not a database URL"),
        ({"uk": ""}, "uk.url: is not a database URL"),
        ({"uk": None}, "uk.url: must be a string"),
        ({"uk": {"max_connections": 1}}, "uk: the key url is missing"),
        ({"uk": {"url": "sqlite:///a.db", "max_conections": 1}}, "did you mean 'max_connections'"),
        ({"uk": {"url": f"postgresql://a:{CANARY}@h/x", "password_env": "X"}}, "2 sources"),
        ({"uk": {"url": "sqlite:///uk.db", "server": "eu"}}, "names no server"),
        ({"UK": "sqlite:///uk.db"}, "UK: is not a tenant id"),
        ({None: "sqlite:///uk.db"}, "is not a tenant id"),
        ({"postgres": "sqlite:///uk.db"}, "is not a tenant id"),
        ({"uk": {"url": "sqlite:///uk.db", "database": "../x.db"}}, "lies outside the root"),
        ({"uk": {"url": "sqlite:///uk.db", "database": "/x.db"}}, "lies outside the root"),
        ({"uk": {"url": "sqlite:///uk.db", "database": "x\0.db"}}, "lies outside the root"),
        ({"uk": {"url": "sqlite:///uk.db", "database": "x-wal"}}, "SQLite keeps beside"),
        ({"servers": {}, "tenants": {"uk": {}}}, "tenants.uk: the key server is missing"),
        ({"servers": {"a b": {"url": "sqlite:///x"}}}, "a server's name has"),
        ({"servers": {}, "tenants": {"uk": {"server": "eu"}}}, "known are none"),
        ({"servers": {"eu": {"url": "sqlite:///x", "password": 3}}}, "must be a string"),
    ],
)
def test_a_wrong_mapping_is_refused(mapping: Mapping[Any, Any], words: str) -> None:
    assert words in str(refused(from_mapping, mapping))


@pytest.mark.parametrize("second", ["sqlite:///a/uk.db", "sqlite:///a/../a/uk.db"])
def test_two_tenants_on_one_file_are_refused(tmp_path: Path, second: str) -> None:
    with pytest.raises(DuplicatePlacementError, match="'uk' and 'aus'"):
        from_mapping({"uk": "sqlite:///a/uk.db", "aus": second}, folder=tmp_path)


def test_a_link_to_another_tenants_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "uk.db")
    with pytest.raises(DuplicatePlacementError):
        from_mapping({"uk": "sqlite:///uk.db", "aus": "sqlite:///link.db"}, folder=tmp_path)


def test_two_names_of_one_machine_are_one_place() -> None:
    with pytest.raises(DuplicatePlacementError):
        from_mapping({"uk": "postgresql://a@h/x", "aus": "postgresql+psycopg://b@H:5432/x"})
    with pytest.raises(DuplicatePlacementError, match="shared"):
        from_mapping({"uk": "postgresql://a@h/x", "shared": "postgresql://a@h/x"})


def test_a_database_tenant_is_in_no_database_of_others() -> None:
    """Whichever comes first, however the database is said, and only where it is the same one."""
    url = "postgresql://app@db/app"
    servers = {name: Server.from_url(name, url) for name in ("eu", "again")}
    servers["far"] = Server.from_url("far", "postgresql://app@other/app")
    alone = [Placement("eu"), Placement("eu", database="app"), Placement("again")]
    inside = [
        Placement("eu", Isolation.SCHEMA, schema="uk"),
        Placement("again", Isolation.SCHEMA, database="app", schema="uk"),
        Placement("eu", Isolation.ROWS),
        Placement("eu", Isolation.ROWS, schema="shop"),
    ]
    for one, other in itertools.product(alone, inside):
        for first, second in ((one, other), (other, one)):
            tenants = [Tenant("a", first), Tenant("b", second)]
            with pytest.raises(DuplicatePlacementError, match=r"'b'.*'a'.*have it alone"):
                MappingDirectory(tenants, servers=servers)
            directory = MappingDirectory(tenants[:1], servers=servers)
            with pytest.raises(DuplicatePlacementError, match=r"'b'.*'a'.*have it alone"):
                directory.add(tenants[1])
            directory.remove(directory.get("a"))
            directory.add(tenants[1])
    apart = [Tenant("a", Placement("far")), Tenant("b", Placement("eu", database="b"))]
    mixed = [Tenant(f"t{n}", place) for n, place in enumerate((inside[0], *inside[2:]))]
    assert len(MappingDirectory([*apart, *mixed], servers=servers).tenants()) == 5


def test_a_schema_is_no_place_for_rows_that_stand_there() -> None:
    servers = {"eu": Server.from_url("eu", "postgresql://app@db/app")}
    rows = Tenant("a", Placement("eu", Isolation.ROWS))
    public = Tenant("b", Placement("eu", Isolation.SCHEMA, schema="public"))
    for tenants in ([rows, public], [public, rows]):
        with pytest.raises(DuplicatePlacementError):
            MappingDirectory(tenants, servers=servers)


def test_what_has_no_schemas_inside_is_one_place(tmp_path: Path) -> None:
    servers = {
        "files": Server.from_url("files", f"sqlite:///{tmp_path}"),
        "my": Server.from_url("my", "mysql://app@db/app"),
    }
    crowds = [
        (Placement("files", database="a.db"), Placement("files", Isolation.SCHEMA, schema="a")),
        (
            Placement("files", Isolation.SCHEMA, database="a.db", schema="x"),
            Placement("files", Isolation.SCHEMA, database="a.db", schema="y"),
        ),
        (
            Placement("files", Isolation.ROWS, database="a.db"),
            Placement("files", Isolation.SCHEMA, database="a.db", schema="y"),
        ),
        (Placement("my", database="a"), Placement("my", Isolation.SCHEMA, schema="a")),
        (Placement("my", Isolation.ROWS), Placement("my", Isolation.SCHEMA, schema="app")),
    ]
    for crowd in crowds:
        for one, other in (crowd, crowd[::-1]):
            with pytest.raises(DuplicatePlacementError):
                MappingDirectory([Tenant("a", one), Tenant("b", other)], servers=servers)
    own = Tenant("a", Placement("my"))
    beside = Tenant("b", Placement("my", Isolation.SCHEMA, schema="b"))
    assert len(MappingDirectory([own, beside], servers=servers).tenants()) == 2


def test_keys_differ_by_place_and_hold_no_secret() -> None:
    first, again, other = (
        from_mapping({"uk": f"postgresql://app:{password}@h/{database}"}).directory.get("uk")
        for password, database in (("a", "x"), ("b", "x"), ("a", "y"))
    )
    assert first.key == again.key
    assert first.key != other.key


def test_a_mapping_may_hold_nothing() -> None:
    assert from_mapping({}).directory.tenants() == []


# Environment


def test_the_variables_of_the_recipe_make_a_tenant() -> None:
    environ = {"DB_UK_HOST": "uk.internal", "DB_UK_PASS": "p@ss:/%w#rd?", "PATH": "/bin"}
    loaded = from_env(environ=environ)
    tenant = loaded.directory.get("uk")
    server = loaded.servers["uk"]
    assert tenant.placement == Placement("uk", database="postgres")
    url = server.url_with_secrets(server.url)
    assert (url.drivername, url.username, url.host) == ("postgresql", "superset", "uk.internal")
    assert url.password == "p@ss:/%w#rd?"
    assert make_url(url.render_as_string(hide_password=False)).password == "p@ss:/%w#rd?"


def test_every_optional_variable_counts() -> None:
    environ = {
        "X_NORTH_WEST_HOST": "h",
        "X_NORTH_WEST_PASS": "",
        "X_NORTH_WEST_USER": "app",
        "X_NORTH_WEST_DB": "shop",
        "X_NORTH_WEST_PORT": "5433",
        "X_NORTH_WEST_DRIVER": "postgresql+psycopg",
        "X_NORTH_WEST_ISOLATION": "schema",
        "X_NORTH_WEST_SCHEMA": "nw",
    }
    loaded = from_env("X_", environ)
    tenant = loaded.directory.get("north_west")
    assert tenant.placement == Placement("north_west", Isolation.SCHEMA, "shop", "nw")
    assert str(loaded.servers["north_west"].url) == "postgresql+psycopg://app@h:5433/shop"


def test_a_rotated_password_is_read_anew() -> None:
    environ = {"DB_UK_HOST": "h", "DB_UK_PASS": "old"}
    server = from_env(environ=environ).servers["uk"]
    assert server.password is not None
    environ["DB_UK_PASS"] = "new"
    assert server.password.reveal() == "new"
    del environ["DB_UK_PASS"]
    with pytest.raises(MissingVariableError, match="DB_UK_PASS"):
        server.password.reveal()


def test_a_url_takes_the_place_of_the_parts(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = from_env(
        environ={
            "DB_UK_URL": "sqlite:///data/uk.db",
            "DB_EU_URL": "postgresql://app@h/eu",
            "DB_EU_PASS": "pw",
            "DB_SHARED_URL": "sqlite:///data/all.db",
        }
    )
    assert loaded.servers["uk"].root == tmp_path / "data"
    assert loaded.directory.get("uk").placement.database == "uk.db"
    assert loaded.servers["eu"].password is not None
    assert loaded.shared == Placement("shared", database="all.db")


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRY_UK_URL", "sqlite:///uk.db")
    assert from_env("TRY_").directory.get("uk").id == "uk"
    assert os.environ["TRY_UK_URL"]


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"DB_UK_HOST": "h"}, "DB_UK_PASS"),
        ({"DB_UK_PASS": CANARY}, "DB_UK_HOST"),
        ({"DB_UK_HOST": "", "DB_UK_PASS": CANARY}, "DB_UK_HOST"),
        ({"DB_UK_HOST": "h", "DB_UK_PASSWORD": CANARY}, "DB_UK_PASSWORD is; rename it"),
        (
            {"DB_AUS_HOST": "h", "DB_AUS_PASS": CANARY, "DB_UK_HOST": "h"},
            "DB_UK_PASS is not set",
        ),
    ],
)
def test_a_missing_variable_is_named(environ: dict[str, str], name: str) -> None:
    error = refused(from_env, environ=environ)
    assert isinstance(error, MissingVariableError)
    assert name in str(error)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"DB_UK_HOST": "h:5432"}, "DB_UK_PORT"),
        ({"DB_UK_PORT": "x"}, "DB_UK_PORT"),
        ({"DB_UK_PORT": "70000"}, "DB_UK_PORT"),
        ({"DB_UK_DRIVER": "sqlite"}, "DB_UK_URL"),
        ({"DB_UK_DRIVER": "a b"}, "DB_UK_DRIVER"),
        ({"DB_UK_ISOLATION": "shcema"}, "DB_UK_ISOLATION: there is no isolation 'shcema'; did you"),
        ({"DB_UK_ISOLATION": "schema"}, "DB_UK_SCHEMA"),
        ({"DB_UK_URL": "postgresql://h/x"}, "DB_UK_URL and DB_UK_HOST"),
        ({"DB_AUS_URL": f"not-{CANARY}"}, "DB_AUS_URL is not a database URL"),
        ({"DB_AUS_URL": "sqlite://"}, "DB_AUS_URL"),
        ({"DB_POSTGRES_HOST": "h"}, "DB_POSTGRES_HOST"),
        ({"DB_1_HOST": "h"}, "DB_1_HOST"),
        ({"DB_AUS_HOST": "h", "DB_AUS_PASS": "x"}, "'aus' and 'uk'"),
    ],
)
def test_a_wrong_variable_is_named(more: dict[str, str], words: str) -> None:
    environ = {"DB_UK_HOST": "h", "DB_UK_PASS": CANARY, **more}
    assert words in str(refused(from_env, environ=environ))


def test_variables_of_kubernetes_make_no_tenant() -> None:
    environ = {"DB_UK_SERVICE_HOST": "10.0.0.1", "DB_UK_SERVICE_PORT": "5432", "DB_HOST": "x"}
    assert from_env(environ=environ).directory.tenants() == []


# Files


def test_the_file_of_the_design_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = from_file(written(tmp_path, FILE))
    directory, servers = loaded.directory, loaded.servers
    assert directory.get("uk").placement == Placement("eu", database="uk")
    acme = directory.find("shop.acme.example")
    assert acme.placement == Placement("eu", Isolation.SCHEMA, schema="acme")
    assert acme.state is State.READ_ONLY
    assert acme.attributes == {"plan": "gold"}
    assert directory.get("corner").placement.isolation is Isolation.ROWS
    assert directory.get("here").placement.database == "here.db"
    assert loaded.shared == Placement("local", database="shared.db")
    assert servers["local"].root == tmp_path / "data"
    assert servers["eu"].max_connections == 50
    monkeypatch.setenv("DB_EU_PASS", "pw")
    assert servers["eu"].url_with_secrets(servers["eu"].url).password == "pw"


def test_the_same_as_nested_mappings_reads_the_same(tmp_path: Path) -> None:
    servers = {"eu": {"url": "postgresql://app@h/app", "password": lambda: "pw"}}
    tenants = {"uk": {"server": "eu"}, "acme": {"isolation": "schema", "schema": "acme"}}
    loaded = from_mapping({"servers": servers, "tenants": tenants})
    assert loaded.directory.get("uk").placement == Placement("eu", database="uk")
    assert loaded.directory.get("acme").placement.server == "eu"
    assert loaded.servers["eu"].password is not None
    assert loaded.servers["eu"].password.reveal() == "pw"


def test_a_password_file_is_below_the_folder_of_the_tenants_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("pw\n")
    text = '[servers.eu]\nurl = "postgresql://h/x"\npassword_file = "secret"\n'
    text += 'admin_url = "postgresql://root@h/x"\nadmin_password_file = "secret"\n'
    server = from_file(written(tmp_path, text)).servers["eu"]
    assert server.password is not None
    assert server.password.reveal() == "pw"
    assert server.admin is not None
    assert server.admin.password is not None


BASE = '[servers.eu]\nurl = "sqlite:///data"\n\n[tenants.uk]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BASE + "database = ", "line 5, tenants.uk.database: invalid value"),
        (BASE + 'database = "x', "line 5, tenants.uk.database: "),
        (f'[servers.eu]\nurl = "{CANARY}', "line 2, servers.eu.url: "),
        ("[servers.eu\n", "line 1"),
        ("= 3", "line 1"),
        (BASE + 'databse = "x"', "line 5, tenants.uk.databse: there is no key 'databse'; did you"),
        (BASE + "database = 3", "line 5, tenants.uk.database: must be a string"),
        (BASE + 'state = "redy"', "line 5, tenants.uk.state: there is no state 'redy'; did you"),
        (BASE + 'isolation = "x"', "line 5, tenants.uk.isolation: there is no isolation 'x'"),
        (BASE + 'isolation = "schema"', "line 4, tenants.uk.schema: is missing"),
        (BASE + 'server = "ue"', "line 5, tenants.uk.server: there is no server 'ue'; known"),
        (BASE + 'database = "../x.db"', "line 4, tenants.uk: the file '../x.db' lies outside"),
        (BASE + 'database = "a-journal"', "line 4, tenants.uk: the file 'a-journal'"),
        (BASE + 'identifiers = ["A B"]', "line 5, tenants.uk.identifiers: 'A B'"),
        (BASE + "identifiers = [3]", "line 5, tenants.uk.identifiers: 3"),
        (BASE + "untrusted_sql = 1", "line 5, tenants.uk.untrusted_sql: must be true or false"),
        (BASE + 'switch = "x"', "line 5, tenants.uk.switch: there is no switch"),
        (BASE + "attributes = 1", "line 5, tenants.uk.attributes: must be a table"),
        (BASE + "[tenants.postgres]", "line 5, tenants.postgres: is not a tenant id"),
        (BASE + '[tenants."a\\nb"]', "tenants.'a\\nb': is not a tenant id"),
        (BASE + "[tenant.aus]", "tenant: there is no key 'tenant'; did you mean 'tenants'?"),
        (BASE + "[shared]\ndatabse = 'x'", "line 6, shared.databse: there is no key"),
        ("[servers]\neu = 'x'", "line 2, servers.eu: must be a table"),
        ("servers = 3", "line 1, servers: must be a table"),
        ('[servers.eu]\npassword_env = "x"', "line 1, servers.eu: the key url is missing"),
        (f'[servers.eu]\nurl = "x"\npassword = "{CANARY}"', "line 3, servers.eu.password: no sec"),
        ('[servers.eu]\nurl = "sqlite:///d"\nmax_connections = 0', "line 1, servers.eu: max_conn"),
        ('[servers.eu]\nurl = "sqlite:///d"\nmax_connections = true', "must be a whole number"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_line_and_key(
    tmp_path: Path, text: str, words: str
) -> None:
    error = refused(from_file, written(tmp_path, text))
    assert isinstance(error, DirectoryFileError)
    assert words in str(error)
    assert "tenants.toml, " in str(error)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    assert "absent.toml cannot be read" in str(refused(from_file, tmp_path / "absent.toml"))
    assert "cannot be read" in str(refused(from_file, tmp_path))
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in str(refused(from_file, tmp_path / "bad.toml"))


def test_two_tenants_in_one_place_of_a_file_are_refused(tmp_path: Path) -> None:
    text = BASE + 'database = "x.db"\n[tenants.aus]\ndatabase = "./x.db"'
    error = refused(from_file, written(tmp_path, text))
    assert isinstance(error, DuplicatePlacementError)
    assert "'uk' and 'aus'" in str(error)


# Directories in memory


def test_default_names_cannot_meet_what_sqlite_keeps_beside_a_file(tmp_path: Path) -> None:
    server = Server.from_url("main", f"sqlite:///{tmp_path}")
    other = Server.from_url("eu", "postgresql://h/x")
    assert default_database("a", server) == "a.db"
    assert default_database("a-wal", server) == "a-wal.db"
    assert default_database("a", server, 2) == "a$2.db"
    assert default_database("a", other, 2) == "a$2"


def test_a_tenant_on_an_unknown_server_is_refused(tmp_path: Path) -> None:
    servers = {"main": Server.from_url("main", f"sqlite:///{tmp_path}")}
    directory = MappingDirectory(servers=servers)
    lost = Tenant("uk", Placement("mian", database="uk.db"))
    for call in (directory.add, lambda each: check_placements([each], servers)):
        with pytest.raises(ConfigurationError, match=r"'mian'.*configured: main"):
            call(lost)


def test_a_file_outside_the_root_is_refused_at_run_time_too(tmp_path: Path) -> None:
    servers = {"main": Server.from_url("main", f"sqlite:///{tmp_path}/root")}
    directory = MappingDirectory(servers=servers)
    with pytest.raises(ConfigurationError, match="outside the root"):
        directory.add(Tenant("uk", Placement("main", database="../uk.db")))
    assert directory.tenants() == []


def test_every_change_counts_the_version_up(tmp_path: Path) -> None:
    directory = MappingDirectory()
    versions = [directory.version()]
    tenant = directory.add(Tenant("uk", Placement("main")))
    versions.append(directory.version())
    tenant = directory.replace(tenant.with_state("suspended"), expected=tenant)
    versions.append(directory.version())
    directory.remove(tenant)
    versions.append(directory.version())
    assert len(set(versions)) == 4
