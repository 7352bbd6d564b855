"""The program: what it prints, and the code it ends with."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from tenantry import Tenancy
from tenantry.cli.main import tenants_group
from tenantry.cli.program import COMMANDS, tenantry
from tenantry.directory import TableDirectory
from tests.fleet.fleets import project

CHECKOUT = Path(__file__).parents[2]
FILE = """
[servers.main]
url = "sqlite:///files"
[tenants.uk]
[tenants.aus]
attributes = { plan = "gold" }
"""
APP = """
from tenantry import Server, Tenancy
from tenantry.directory import TableDirectory
from tests.fleet.fleets import project
servers = {"main": Server.from_url("main", "sqlite:///files")}
directory = TableDirectory("sqlite:///control.db", servers=servers)
directory.create_tables()
tenancy = Tenancy(directory, servers)
def hello(tenant):
    return "hello " + tenant.id
def seed(session):
    session.connection().exec_driver_sql("CREATE TABLE seeded (a INTEGER)")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TENANTRY_APP", raising=False)
    (tmp_path / "tenants.toml").write_text(FILE, encoding="utf-8")
    return tmp_path


def runner() -> CliRunner:
    """One that keeps the two streams apart, as newer releases of click do by themselves."""
    apart: dict[str, Any] = (
        {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
    )
    return CliRunner(**apart)


def run(*arguments: str, stdin: str | None = None) -> Result:
    return runner().invoke(tenantry, list(arguments), input=stdin, prog_name="tenantry")


def on_file(*arguments: str, stdin: str | None = None) -> Result:
    return run(*arguments, "--file", "tenants.toml", stdin=stdin)


def test_list_create_sql_doctor_delete(folder: Path) -> None:
    listed = on_file("list", "--json")
    assert [each["id"] for each in json.loads(listed.stdout)] == ["aus", "uk"]
    assert on_file("doctor").exit_code == 1  # nothing is there yet
    created = on_file("create", "--all", "--json")
    assert created.exit_code == 0, created.output
    assert json.loads(created.stdout)["done"] == 2
    assert on_file("create", "uk", "--json").stdout.count("unchanged") == 2
    assert on_file("sql", "CREATE TABLE t (a INTEGER)").exit_code == 0
    assert on_file("sql", "INSERT INTO t VALUES (7)", "--attribute", "plan=gold").exit_code == 0
    rows = json.loads(on_file("sql", "SELECT a FROM t", "--json").stdout)["results"]
    found = {each["tenant"]: each["value"]["rows"] for each in rows}
    assert found == {"aus": [[7]], "uk": []}
    assert on_file("doctor").exit_code == 0
    assert on_file("show", "uk").exit_code == 0
    refused = on_file("delete", "uk", stdin="n\n")
    assert refused.exit_code == 2
    assert (folder / "files" / "uk.db").exists()
    assert on_file("delete", "uk", "--dry-run").exit_code == 0
    assert (folder / "files" / "uk.db").exists()
    assert on_file("delete", "uk", "--yes").exit_code == 0
    assert not (folder / "files" / "uk.db").exists()


def test_a_dry_run_of_sql_changes_nothing(folder: Path) -> None:
    on_file("create", "--all")
    on_file("sql", "CREATE TABLE t (a INTEGER)")
    assert on_file("sql", "INSERT INTO t VALUES (1)", "--dry-run").exit_code == 0
    rows = json.loads(on_file("sql", "SELECT * FROM t", "--json").stdout)["results"]
    assert [each["value"]["rows"] for each in rows] == [[], []]


def test_some_failed_is_1_and_a_line_each(folder: Path) -> None:
    on_file("create", "--all")
    on_file("sql", "CREATE TABLE only_here (a INTEGER)", "--tenant", "uk")
    done = on_file("sql", "SELECT * FROM only_here")
    assert done.exit_code == 1
    assert "aus failed: OperationalError: no such table: only_here" in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "nobody", "--file", "tenants.toml"), "no tenant 'nobody'"),
        (("list", "ghost", "--file", "tenants.toml"), "no tenant 'ghost'"),
        (("list",), "no application is named"),
        (("list", "--file", "missing.toml"), "cannot be read"),
        (("list", "--app", "nowhere:tenancy"), "there is no module 'nowhere'"),
        (("list", "--app", "json:dumps.nothing"), "has no 'dumps.nothing'"),
        (("list", "--app", "nonsense"), "write module:attribute"),
        (("list", "--attribute", "gold", "--file", "tenants.toml"), "KEY=VALUE"),
        (("create", "new", "--file", "tenants.toml"), "write the tenant there first"),
        (("create", "--file", "tenants.toml"), "name the tenants"),
        (("suspend", "uk", "--file", "tenants.toml"), "is not recorded by a MappingDirectory"),
        (("suspend", "--file", "tenants.toml"), "name the tenants to suspend"),
        (("migrate", "--down", "--file", "tenants.toml"), "say how far down"),
        (("migrate", "--file", "tenants.toml"), "no Alembic project here"),
        (("lsit",), "Did you mean 'list'"),
        (("list", "--state", "asleep", "--file", "tenants.toml"), "asleep"),
    ],
)
def test_wrong_use_is_2_or_1_and_one_line(
    folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = run(*arguments)
    assert words in done.stderr
    assert "Traceback" not in done.output
    assert done.exit_code == (1 if arguments[0] == "suspend" and "uk" in arguments else 2)


def test_an_application_with_a_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "cli_test_app.py").write_text(APP, encoding="utf-8")
    (folder / "pyproject.toml").write_text(
        '[tool.tenantry]\napp = "cli_test_app:tenancy"\n', encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(folder))
    created = run("create", "acme", "--attribute", "plan=gold", "--seed", "cli_test_app:seed")
    assert created.exit_code == 0, created.output
    assert run("sql", "SELECT count(*) FROM seeded").exit_code == 0
    said = json.loads(run("run", "cli_test_app:hello", "--json").stdout)
    assert said["results"][0]["value"] == "hello acme"
    program = run("run", "--", "sh", "-c", "echo {tenant} $TENANTRY_TENANT")
    assert "acme acme" in program.stdout
    assert run("suspend", "acme", "--dry-run").exit_code == 0
    assert run("suspend", "acme").exit_code == 0
    assert json.loads(run("list", "--state", "suspended", "--json").stdout)[0]["id"] == "acme"
    assert run("shell", "acme", "-c", "1").exit_code == 1  # it serves nobody now
    assert run("resume", "acme").exit_code == 0
    shell = run("shell", "acme", "-c", "print(tenant.id)")
    assert shell.exit_code == 0
    assert "acme" in shell.stdout
    assert run("clone", "acme", "copy").exit_code == 0
    assert run("sweep").exit_code == 0
    assert run("delete", "acme", "copy", "--yes").exit_code == 0
    assert json.loads(run("list", "--json").stdout) == []


def test_a_migration_says_one_document(folder: Path) -> None:
    on_file("create", "--all")
    ini = project(folder, {"m1": "op.create_table('notes', sa.Column('a', sa.Integer))"})
    done = on_file("migrate", "--config", str(ini), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["done"] == 2


def test_another_program_has_the_same_commands(folder: Path) -> None:
    tenancy = Tenancy.from_file("tenants.toml")
    shop = click.Group("shop")
    shop.add_command(tenants_group(lambda: tenancy))
    done = runner().invoke(shop, ["tenants", "list", "--json"])
    assert [each["id"] for each in json.loads(done.stdout)] == ["aus", "uk"]
    done = runner().invoke(shop, ["tenants", "show", "nobody"], prog_name="shop")
    assert done.exit_code == 2
    assert done.stderr.startswith("shop: ")
    done = runner().invoke(shop, ["tenants", "list", "--file", "tenants.toml"])
    assert done.exit_code == 2
    assert "own application" in done.stderr


def test_two_links_to_one_file_are_found(folder: Path) -> None:
    on_file("create", "--all")
    files = folder / "files"
    (files / "aus.db").unlink()
    (files / "aus.db").hardlink_to(files / "uk.db")
    done = on_file("doctor", "--json")
    assert done.exit_code == 1
    codes = [each["code"] for each in json.loads(done.stdout)["findings"]]
    assert codes == ["duplicate"]


def test_every_command_has_help() -> None:
    for name in COMMANDS:
        if name in ("demo", "superset"):
            continue  # other people's, with extras of their own
        done = run(name, "--help")
        assert done.exit_code == 0, done.output
        assert "Usage: tenantry" in done.output


@pytest.mark.newest  # click words its help anew in some releases
def test_the_reference_is_the_one_that_the_commands_say() -> None:
    from tenantry.cli.reference import page

    written = (CHECKOUT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == page(), "write it anew: python -m tenantry.cli.reference > docs/cli.md"


def test_directories_in_tables_last(folder: Path) -> None:
    from tenantry.fleet import is_durable

    tenancy = Tenancy.from_file("tenants.toml")
    assert not is_durable(tenancy)
    table = TableDirectory("sqlite:///control.db", servers=dict(tenancy.servers))
    assert is_durable(Tenancy(table, dict(tenancy.servers)))
