"""``flask tenants ...``: the commands of ``tenantry`` on the application's own tenants."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from flask import Flask, current_app

from tenantry import Tenancy, Tenant, require
from tenantry.integrations.flask import Tenantry
from tenantry.resolvers import from_query
from tests.integrations.places import READ, tenancy_in

APP = """
from pathlib import Path
from flask import Flask, current_app
from tenantry import Tenancy
from tenantry.integrations.flask import Tenantry

tenantry = Tenantry()
Path("files").mkdir(exist_ok=True)

def create_app():
    app = Flask(__name__)
    binds = {each: f"sqlite:///files/{each}.db" for each in ("uk", "aus")}
    tenantry.init_app(app, tenancy=Tenancy.from_mapping(binds), resolver=lambda facts: None)
    return app

def hello(tenant):
    return f"{tenant.id} of {current_app.name}, {tenantry.session.connection().engine.name}"
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    monkeypatch.chdir(tmp_path)  # the journal of a command is kept where the project is
    app = Flask("shop")
    tenancy = tenancy_in(tmp_path, "uk", "aus", "shut")
    Tenantry(app, tenancy=tenancy, resolver=from_query())
    yield app
    tenancy.close()


def note(tenant: Tenant) -> str:
    """What ``run`` calls: it needs the application and has the tenant."""
    assert require() == tenant
    tenantry: Tenantry = current_app.extensions["tenantry"]
    tenancy = tenantry.tenancy
    assert callable(tenancy)
    with tenancy().session() as session:
        return str(session.scalars(READ).one())


def test_an_application_has_the_commands(app: Flask) -> None:
    flask = app.test_cli_runner()
    done = flask.invoke(args=["tenants", "list", "--json"])
    assert done.exit_code == 0, done.output
    assert [each["id"] for each in json.loads(done.output)] == ["aus", "shut", "uk"]
    done = flask.invoke(args=["tenants", "run", f"{__name__}:note", "--json"])
    assert done.exit_code == 0, done.output
    said = {each["tenant"]: each for each in json.loads(done.output)["results"]}
    assert {each: said[each].get("value") for each in ("uk", "aus")} == {"uk": "uk", "aus": "aus"}
    assert said["shut"]["status"] == "skipped"
    assert flask.invoke(args=["tenants", "show", "nobody"]).exit_code == 2


def test_the_application_goes_on_after_a_command(app: Flask) -> None:
    @app.get("/")
    def index() -> str:
        return note(require())

    client = app.test_client()
    assert client.get("/?tenant=uk").text == "uk"
    assert app.test_cli_runner().invoke(args=["tenants", "sql", "SELECT 1"]).exit_code == 0
    assert client.get("/?tenant=aus").text == "aus"


def test_a_command_of_the_same_name_stays_the_application_s(tmp_path: Path) -> None:
    app = Flask("shop")

    @app.cli.command("tenants")
    def tenants() -> None:
        click.echo("people who rent")

    Tenantry(app, tenancy=Tenancy.from_mapping({"uk": f"sqlite:///{tmp_path}/uk.db"}))
    assert app.test_cli_runner().invoke(args=["tenants"]).output == "people who rent\n"


def flask(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "flask_shop", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_program_flask(tmp_path: Path) -> None:
    (tmp_path / "flask_shop.py").write_text(APP, encoding="utf-8")
    made = flask(tmp_path, "tenants", "create", "--all")
    assert made.returncode == 0, made.stderr
    done = flask(tmp_path, "tenants", "list")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["tenant", "aus", "uk"]
    done = flask(tmp_path, "tenants", "run", "flask_shop:hello", "--json")
    assert done.returncode == 0, done.stderr
    values = [each["value"] for each in json.loads(done.stdout)["results"]]
    assert sorted(values) == ["aus of flask_shop, sqlite", "uk of flask_shop, sqlite"]
    wrong = flask(tmp_path, "tenants", "list", "--file", "tenants.toml")
    assert wrong.returncode == 2
    assert "own application" in wrong.stderr
    assert "tenants" in flask(tmp_path, "--help").stdout
