"""Servers and their secrets: a planted password shows on no path."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from tenantry import Secret, Server
from tenantry.directory import MappingDirectory, TableDirectory, from_env, from_file, from_mapping
from tenantry.errors import ConfigurationError, MissingVariableError, TenantryError
from tests.canary import CANARY, sightings

URL = f"postgresql+psycopg://app:{CANARY}@db.internal:5432/app?sslpassword={CANARY}&sslmode=require"


def test_a_password_is_taken_out_of_the_url() -> None:
    server = Server.from_url("eu", URL)
    assert CANARY not in server.url.render_as_string(hide_password=False)
    full = server.url_with_secrets(server.url)
    assert full.password == full.query["sslpassword"] == CANARY
    assert full.query["sslmode"] == "require"


@pytest.mark.parametrize(
    "password", ["p@ss", "a:b", "a/b", "100%", "%40", "a#b?c&d", " ", "\u00fc"]
)
def test_any_password_arrives_as_it_is(password: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SOME_PASS", password)
    (tmp_path / "secret").write_text(password + "\n", encoding="utf-8")
    url = "postgresql://app@h/x"
    for server in (
        Server.from_url("eu", url, password=password),
        Server.from_url("eu", url, password=lambda: password),
        Server.from_url("eu", url, password_env="SOME_PASS"),
        Server.from_url("eu", url, password_file=tmp_path / "secret"),
        Server.from_url("eu", make_url(url).set(password=password)),
    ):
        assert server.url_with_secrets(server.url).password == password


def test_a_callable_is_asked_each_time() -> None:
    tokens = iter(["one", "two"])
    server = Server.from_url("eu", "postgresql://app@h/x", password=lambda: next(tokens))
    found = [server.url_with_secrets(server.url).password for _ in range(2)]
    assert found == ["one", "two"]


def test_kinds_addresses_and_roots(tmp_path: Path) -> None:
    server = Server.from_url("eu", "mariadb+pymysql://app@db:3307/x")
    assert (server.kind, server.address) == ("mysql", "db:3307")
    assert Server.from_url("eu", "postgresql://").address == "localhost:default"
    file = Server.from_url("local", f"sqlite:///{tmp_path}/a/../b")
    assert file.root == tmp_path / "b"
    assert repr(file) == f"Server('local', sqlite, {tmp_path}/b)"


def test_an_admin_has_a_password_of_its_own() -> None:
    server = Server.from_url("eu", "postgresql://app@h/x", password="a", admin_url=URL)
    assert server.admin is not None
    assert server.admin.password is not None
    assert server.admin.password.reveal() == CANARY
    assert sightings(server) == []


def gone(tmp_path: Path) -> Secret:
    return Secret.from_file(tmp_path / "absent")


def test_a_secret_says_what_is_missing_when_it_is_used(tmp_path: Path) -> None:
    with pytest.raises(MissingVariableError, match="NOT_SET_ANYWHERE"):
        Secret.from_env("NOT_SET_ANYWHERE").reveal()
    with pytest.raises(ConfigurationError, match="absent cannot be read"):
        gone(tmp_path).reveal()


def shape_logging(thing: object) -> str:
    record = logging.LogRecord("x", 1, "x", 1, "%s %r", (thing, thing), None)
    return logging.Formatter().format(record)


SHOWN: dict[str, Callable[[Any], Any]] = {
    "repr": repr,
    "str": str,
    "format": lambda thing: f"{thing}",
    "format with a width": lambda thing: f"{thing!s:>100}",
    "percent": lambda thing: "%s %r %a" % (thing, thing, thing),  # noqa: UP031
    "in a list": lambda thing: repr([thing]),
    "in a dictionary": lambda thing: str({"x": thing}),
    "logging": shape_logging,
    "json": lambda thing: json.dumps(thing, default=repr),
    "pickle": pickle.dumps,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "vars": lambda thing: repr(vars(thing)),
    "asdict": lambda thing: repr(dataclasses.asdict(thing)),
    "dir": lambda thing: [repr(getattr(thing, name, "")) for name in dir(thing)],
}
HOLDERS: dict[str, Callable[[], object]] = {
    "Secret of text": lambda: Secret(CANARY),
    "Secret of a callable": lambda: Secret(lambda: CANARY),
    "Server": lambda: Server.from_url("eu", URL),
    "Server with a password": lambda: Server.from_url("eu", "postgresql://h/x", password=CANARY),
    "Server with an admin": lambda: Server.from_url("eu", "postgresql://h/x", admin_url=URL),
    "loaded mapping": lambda: from_mapping({"uk": URL}),
    "loaded environment": lambda: from_env(environ={"DB_UK_URL": URL}),
    "MappingDirectory": lambda: MappingDirectory(servers={"eu": Server.from_url("eu", URL)}),
    "TableDirectory": lambda: TableDirectory(f"postgresql+psycopg://u:{CANARY}@h/x"),
    "tenants": lambda: from_mapping({"uk": URL}).directory.tenants(),
}


def shown_or_refused(show: Callable[[Any], Any], holder: object) -> Any:
    try:
        return show(holder)
    except Exception as error:
        return error


@pytest.mark.parametrize("how", SHOWN)
@pytest.mark.parametrize("what", HOLDERS)
def test_no_way_of_showing_shows_the_password(what: str, how: str) -> None:
    holder = HOLDERS[what]()
    assert sightings(holder) == []
    shown = shown_or_refused(SHOWN[how], holder)
    if isinstance(shown, Exception):
        assert sightings(shown) == []
    assert CANARY not in (shown.decode("latin-1") if isinstance(shown, bytes) else repr(shown))


BAD_URL = f"postgresql//app:{CANARY}@h"
BAD_PORT = f"postgresql://app:{CANARY}@h:port/x"
GOOD = f"postgresql://app:{CANARY}@h/x"
FAILURES: dict[str, Callable[[Path], object]] = {
    "no URL": lambda _: Server.from_url("eu", BAD_URL),
    "no port": lambda _: Server.from_url("eu", BAD_PORT),
    "no admin URL": lambda _: Server.from_url("eu", GOOD, admin_url=BAD_URL),
    "URL and password": lambda _: Server.from_url("eu", GOOD, password=CANARY),
    "URL and variable": lambda _: Server.from_url("eu", GOOD, password_env="X"),
    "two admin passwords": lambda _: Server.from_url(
        "eu", GOOD, admin_url=GOOD, admin_password=CANARY
    ),
    "limit": lambda _: Server.from_url("eu", GOOD, max_connections=0),
    "secret query": lambda _: Server.from_url("eu", URL, password=CANARY),
    "mapping: no URL": lambda _: from_mapping({"uk": BAD_URL}),
    "mapping: no port": lambda _: from_mapping({"uk": BAD_PORT}),
    "mapping: same place": lambda _: from_mapping({"uk": GOOD, "aus": GOOD}),
    "mapping: key": lambda _: from_mapping({"uk": {"url": GOOD, "passwd": CANARY}}),
    "mapping: password twice": lambda _: from_mapping({"uk": {"url": GOOD, "password": CANARY}}),
    "mapping: id": lambda _: from_mapping({"UK": GOOD}),
    "mapping: later entry": lambda _: from_mapping({"uk": GOOD, "aus": "sqlite://"}),
    "nested: server": lambda _: from_mapping(
        {"servers": {"eu": {"url": GOOD}}, "tenants": {"uk": {"server": "x"}}}
    ),
    "nested: isolation": lambda _: from_mapping(
        {"servers": {"eu": {"url": GOOD}}, "tenants": {"uk": {"isolation": "x"}}}
    ),
    "nested: type": lambda _: from_mapping(
        {"servers": {"eu": {"url": GOOD, "max_connections": CANARY}}}
    ),
    "env: no host": lambda _: from_env(environ={"DB_UK_PASS": CANARY}),
    "env: no pass": lambda _: from_env(environ={"DB_UK_HOST": "h", "DB_AUS_PASS": CANARY}),
    "env: URL": lambda _: from_env(environ={"DB_UK_URL": BAD_URL}),
    "env: both": lambda _: from_env(environ={"DB_UK_URL": GOOD, "DB_UK_HOST": "h"}),
    "env: URL and pass": lambda _: from_env(environ={"DB_UK_URL": GOOD, "DB_UK_PASS": CANARY}),
    "env: port": lambda _: from_env(
        environ={"DB_UK_HOST": "h", "DB_UK_PASS": CANARY, "DB_UK_PORT": "x"}
    ),
    "env: isolation": lambda _: from_env(
        environ={"DB_UK_HOST": "h", "DB_UK_PASS": CANARY, "DB_UK_ISOLATION": "x"}
    ),
    "env: id": lambda _: from_env(environ={"DB_1_URL": GOOD}),
    "file: value": lambda path: from_file(written(path, f"[servers.eu]\nurl = {CANARY}")),
    "file: text": lambda path: from_file(written(path, f'[servers.eu]\nurl = "{GOOD}')),
    "file: key": lambda path: from_file(written(path, f'[servers.eu]\nuri = "{GOOD}"')),
    "file: no URL": lambda path: from_file(written(path, f'[servers.eu]\nurl = "{BAD_URL}"')),
    "file: password": lambda path: from_file(
        written(path, f'[servers.eu]\nurl = "{GOOD}"\npassword = "{CANARY}"')
    ),
    "file: tenant": lambda path: from_file(
        written(path, f'[servers.eu]\nurl = "{GOOD}"\n[tenants.uk]\nstate = "x"')
    ),
    "file: twice": lambda path: from_file(
        written(path, f'[servers.eu]\nurl = "{GOOD}"\n[tenants.uk]\n[tenants.uk]')
    ),
    "table: no URL": lambda _: TableDirectory(BAD_URL),
    "table: no port": lambda _: TableDirectory(BAD_PORT),
    "table: driver": lambda _: TableDirectory(f"nope://app:{CANARY}@h/x"),
    "table: async": lambda _: TableDirectory(f"postgresql+asyncpg://app:{CANARY}@h/x"),
    "table: name": lambda _: TableDirectory(GOOD, table_name="a b"),
    "table: away": lambda _: TableDirectory(
        f"postgresql+psycopg://app:{CANARY}@127.0.0.1:1/x"
    ).version(),
    "table: host": lambda _: TableDirectory(
        f"postgresql+psycopg://app:{CANARY}@h.invalid/x"
    ).version(),
    "table: pymysql": lambda _: TableDirectory(
        f"mysql+pymysql://app:{CANARY}@127.0.0.1:1/x"
    ).version(),
    "table: option": lambda _: TableDirectory(
        f"postgresql+psycopg://app:{CANARY}@127.0.0.1:1/x?nope=1"
    ).version(),
}


def written(folder: Path, text: str) -> Path:
    path = folder / "tenants.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("how", FAILURES)
def test_no_failure_shows_the_password(how: str, tmp_path: Path) -> None:
    with pytest.raises(TenantryError) as caught:
        FAILURES[how](tmp_path)
    assert sightings(caught.value) == []


def test_they_are_at_least_40() -> None:
    assert len(FAILURES) >= 40


def test_the_search_would_find_it() -> None:
    assert sightings(CANARY)
    assert sightings(ValueError(CANARY))
    with pytest.raises(ArgumentError) as caught:
        make_url(CANARY)  # in the variables of SQLAlchemy's frames
    assert sightings(caught.value)
