"""``tenantry rows``: the statements first, then in one transaction, then checked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tenantry import Isolation, Tenancy
from tenantry.cli.main import tenantry
from tenantry.testing.address import ServerAddress
from tests.places import PASSWORD, Kind, Place, made

MODELS = """
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from tenantry.orm import TenantRows

class Base(DeclarativeBase):
    pass

class Plant(TenantRows, Base):
    __tablename__ = "plants"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)
"""


@pytest.fixture
def place(
    postgresql: ServerAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """A table of one tenant as it was before, a file of tenants and a module of models."""
    kind = Kind("postgresql", "psycopg", isolation=Isolation.ROWS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APP_PASSWORD", PASSWORD)
    monkeypatch.setenv("OWNER_PASSWORD", postgresql.password)
    with made(kind, tmp_path, postgresql) as place:
        place.execute("CREATE TABLE plants (id serial PRIMARY KEY, name varchar(40) UNIQUE)")
        place.execute("INSERT INTO plants (name) VALUES ('fern')")
        app = place.server().url.render_as_string(hide_password=True)
        owner = postgresql.url("postgresql+psycopg")._replace(password=None)
        (tmp_path / "green_models.py").write_text(MODELS)
        (tmp_path / "tenants.toml").write_text(
            f"""
            [servers.main]
            url = "{app}"
            password_env = "APP_PASSWORD"
            admin_url = "{owner.render_as_string()}"
            admin_password_env = "OWNER_PASSWORD"
            [tenants.uk]
            isolation = "rows"
            [tenants.aus]
            isolation = "rows"
            [tenants.apart]
            database = "apart"
            """
        )
        yield place
    sys.modules.pop("green_models", None)


def run(*words: str) -> Result:
    words = ("--file", "tenants.toml", "rows", *words, "--metadata", "green_models:Base.metadata")
    return CliRunner().invoke(tenantry, list(words))


def names(tenant_id: str) -> list[str]:
    import green_models  # type: ignore[import-not-found]
    from sqlalchemy import select

    tenancy = Tenancy.from_file("tenants.toml")
    try:
        with tenancy.use(tenant_id), tenancy.session() as session:
            return list(session.scalars(select(green_models.Plant.name)))
    finally:
        tenancy.close()


def test_adopt_policies_and_check(place: Place) -> None:
    shown = run("adopt", "--tenant", "uk")
    assert shown.exit_code == 0, shown.output
    assert 'ALTER TABLE "public"."plants" ADD COLUMN IF NOT EXISTS "tenant_id"' in shown.stdout
    assert "SET \"tenant_id\" = 'uk'" in shown.stdout
    assert "nothing was changed" in shown.output
    before = run("check", "--json")
    assert before.exit_code == 1
    codes = {finding["code"] for finding in json.loads(before.stdout)["findings"]}
    assert codes >= {"not_enabled", "no_policy", "key"}

    done = run("adopt", "--tenant", "uk", "--yes")
    assert done.exit_code == 0, done.output
    assert names("uk") == ["fern"]
    assert names("aus") == []
    clean = run("check")
    assert clean.exit_code == 0
    assert "no way around row-level security is open" in clean.output

    place.execute("ALTER TABLE plants NO FORCE ROW LEVEL SECURITY")
    found = run("check")
    assert found.exit_code == 1
    assert "not_forced" in found.stdout
    assert run("policies", "--yes").exit_code == 0
    assert run("check").exit_code == 0


def test_the_doctor_looks_at_row_level_security(place: Place, tmp_path: Path) -> None:
    assert run("adopt", "--tenant", "uk", "--yes").exit_code == 0
    sound = diagnosed("uk", "aus")
    assert [each["code"] for each in sound["findings"]] == ["rows_models"]
    models = ("--metadata", "green_models:Base.metadata")
    assert diagnosed("uk", "aus", *models)["findings"] == []

    place.execute("CREATE TABLE forgotten (id int)")
    place.execute(f'GRANT SELECT ON forgotten TO "{place.login}"')
    place.execute("ALTER TABLE plants DISABLE ROW LEVEL SECURITY")
    assert codes(diagnosed("uk", "aus")) == {"rows_models", "rows_not_enabled"}
    # Once for both tenants, with the statements; and named in pyproject.toml it is found as well.
    Path("pyproject.toml").write_text('[tool.tenantry]\nmetadata = "green_models:Base.metadata"\n')
    ill = diagnosed("uk", "aus")
    assert not ill["ok"]
    assert sorted(each["code"] for each in ill["findings"]) == [
        "rows_forgotten",
        "rows_not_enabled",
    ]
    assert all(each["tenant"] is None for each in ill["findings"])
    for (statement,) in [each["repair"] for each in ill["findings"]]:
        place.execute(statement)
    assert diagnosed("uk", "aus")["findings"] == []

    place.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    # Others are not asked about it, and a place that nobody can reach is not looked at.
    assert codes(diagnosed("apart")) == {"missing"}


def test_the_doctor_says_what_it_could_not_look_at(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWNER_PASSWORD", "wrong")
    ill = diagnosed("uk")
    assert codes(ill) == {"rows_unknown"}
    assert "could not be looked at" in ill["findings"][0]["message"]
    assert "wrong" not in json.dumps(ill)


def diagnosed(*words: str) -> Any:
    found = CliRunner().invoke(tenantry, ["--file", "tenants.toml", "doctor", "--json", *words])
    document = json.loads(found.stdout)
    assert found.exit_code == (0 if document["ok"] else 1)
    return document


def codes(document: Any) -> set[str]:
    return {each["code"] for each in document["findings"]}


def test_a_statement_that_fails_leaves_nothing_done(place: Place) -> None:
    place.execute("INSERT INTO plants (name) VALUES (repeat('x', 40))")
    place.execute("ALTER TABLE plants ADD COLUMN tenant_id integer")
    failed = run("adopt", "--tenant", "uk", "--yes")
    assert failed.exit_code != 0
    assert place.execute("SELECT count(*) FROM pg_policies")[0][0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("adopt", "--tenant", "apart"), "does not live in rows"),
        (("adopt", "--tenant", "nobody"), "no tenant"),
    ],
)
def test_wrong_use_is_named(place: Place, words: tuple[str, ...], message: str) -> None:
    answer = run(*words)
    assert answer.exit_code == 2
    assert message in answer.output


def test_others_are_kept_where_that_is_said(place: Place) -> None:
    """Tables of other models stay open to the login; without the word they are closed to it."""
    assert run("adopt", "--tenant", "uk", "--yes").exit_code == 0
    place.execute("CREATE TABLE tools (id int)")
    place.execute(f'GRANT SELECT ON tools TO "{place.login}"')
    right = f"SELECT has_table_privilege('{place.login}', 'tools', 'SELECT')"
    place.execute("ALTER TABLE plants NO FORCE ROW LEVEL SECURITY")

    printed = run("policies", "--keep-others")
    assert printed.exit_code == 0
    assert "FORCE ROW LEVEL SECURITY" in printed.stdout
    assert "REVOKE ALL ON TABLE ' ||" not in printed.stdout
    assert run("policies", "--keep-others", "--yes").exit_code == 0
    assert place.execute(right) == [(True,)]
    found = json.loads(run("check", "--json").stdout)["findings"]
    assert [(each["code"], each["object"]) for each in found] == [("forgotten", "public.tools")]

    assert "REVOKE ALL ON TABLE ' ||" in run("policies").stdout
    assert run("policies", "--yes").exit_code == 0
    assert place.execute(right) == [(False,)]
    assert run("check").exit_code == 0


def test_the_models_must_be_named(place: Place) -> None:
    answer = CliRunner().invoke(tenantry, ["--file", "tenants.toml", "rows", "check"])
    assert answer.exit_code == 2
    assert "give --metadata module:Base.metadata" in answer.output


def test_metadata_must_be_one(place: Place) -> None:
    words = ["--file", "tenants.toml", "rows", "check", "--metadata", "green_models:Base"]
    answer = CliRunner().invoke(tenantry, words)
    assert answer.exit_code == 2
    assert "not a MetaData" in answer.output
