"""Alembic as it is: templates nobody touched, Flask-Migrate's, and the one line in ``env.py``."""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import flask_migrate
import pytest
from alembic import command
from alembic.config import Config
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Dialect, create_engine

from tenantry import Tenancy
from tenantry.errors import ConfigurationError
from tenantry.fleet import Scripts, Settings, migrate_tenants, migration_status, new_revision
from tenantry.fleet.migrate import offline_dialect
from tests.fleet.conftest import MakeFleet
from tests.fleet.fleets import EXAMPLE, Fleet, fleet_of, project

REVISION = """
import sqlalchemy as sa
from alembic import op
revision = "one"
down_revision = None
def upgrade():
    op.create_table("notes", sa.Column("body", sa.String(20)))
def downgrade():
    op.drop_table("notes")
"""


def sqlite_dialect() -> Dialect:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        dialect = offline_dialect(connection)
    engine.dispose()
    return dialect


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_of("sqlite", 2, tmp_path, None) as made:
        yield made


def test_a_project_that_knows_nothing_of_tenants(fleet: Fleet, tmp_path: Path) -> None:
    home = tmp_path / "plain"
    config = Config(str(tmp_path / "plain.ini"), stdout=io.StringIO())
    command.init(config, str(home))
    (home / "versions" / "one.py").write_text(REVISION, encoding="utf-8")
    scripts = Scripts(tmp_path / "plain.ini")
    assert migrate_tenants(fleet.tenancy, scripts).ok
    assert fleet.rows("t001", "SELECT version_num FROM alembic_version") == [("one",)]


def test_the_version_table_of_env_py_is_used(fleet: Fleet, tmp_path: Path) -> None:
    ini = project(tmp_path, {"one": "op.create_table('notes', sa.Column('a', sa.Integer))"})
    (tmp_path / "migrations" / "env.py").write_text(
        "from alembic import context\n"
        "context.configure(dialect_name='sqlite', version_table='shop_version')\n"
        "context.run_migrations()\n",
        encoding="utf-8",
    )
    assert migrate_tenants(fleet.tenancy, Scripts(ini)).ok
    assert fleet.rows("t000", "SELECT version_num FROM shop_version") == [("one",)]


@pytest.mark.parametrize("target", ["nowhere", "nowhere@head", "nowhere+1"])
def test_a_target_that_is_no_revision_is_told_once(
    fleet: Fleet, tmp_path: Path, target: str
) -> None:
    """A slip of the pen is not a thousand tenants' failure."""
    scripts = Scripts(project(tmp_path))
    with pytest.raises(ConfigurationError, match=r"'nowhere'; `alembic history` lists"):
        migrate_tenants(fleet.tenancy, scripts, settings=Settings(target))
    with pytest.raises(ConfigurationError, match=r"'nowhere'; `alembic history` lists"):
        migration_status(fleet.tenancy, scripts, target=target)
    for good in ("0003", "+2", "0004-1", "base", "head"):
        down = Settings(good, downgrade=good == "base")
        migrate_tenants(fleet.tenancy, scripts, settings=down, dry_run=True)
    ini = str(tmp_path / "example" / "alembic.ini")
    done = fleet.run("migrate", "--config", ini, "--to", target)
    assert done.returncode == 2
    assert done.stderr.count("nowhere") == 1


@pytest.mark.parametrize(
    ("kind", "works"),
    [("postgresql-schema", False), ("postgresql-database", True), ("mariadb", False)],
)
def test_a_version_table_for_all_is_refused(
    make_fleet: MakeFleet, tmp_path: Path, works: bool
) -> None:
    fleet = make_fleet(2)
    ini = project(tmp_path, {"one": "op.create_table('notes', sa.Column('a', sa.Integer))"})
    (tmp_path / "migrations" / "env.py").write_text(
        "from tenantry.fleet import alembic_env\nalembic_env.run(version_table_schema='public')\n",
        encoding="utf-8",
    )
    scripts = Scripts(ini)
    report = migrate_tenants(fleet.tenancy, scripts)
    found = migration_status(fleet.tenancy, scripts)
    if works:
        assert len(report.of("done")) == 2
        assert [each.behind for each in found] == [0, 0]
        return
    for error in (*(each.error for each in report.outcomes), *(e.standing.error for e in found)):
        assert "leave it out: each tenant has a version table" in (error or "")
    on_one = ("-x", f"file={fleet.file}", "-x", "tenant=t000")
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(ini), *on_one, "upgrade", "head"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "leave it out" in done.stderr


@pytest.mark.filterwarnings("ignore:'get_engine' is deprecated")  # Flask-Migrate's template
def test_flask_migrate_as_it_is(fleet: Fleet, tmp_path: Path) -> None:
    app = Flask("shop", root_path=str(tmp_path))
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = SQLAlchemy(app)
    flask_migrate.Migrate(app, db, directory=str(tmp_path / "migrations"))
    with app.app_context():
        flask_migrate.init(directory=str(tmp_path / "migrations"))
        (tmp_path / "migrations" / "versions" / "one.py").write_text(REVISION, encoding="utf-8")
        scripts = Scripts(tmp_path / "migrations")
        assert migrate_tenants(fleet.tenancy, scripts).ok
        assert [each.behind for each in migration_status(fleet.tenancy, scripts)] == [0, 0]
        db.engine.dispose()
    with pytest.raises(ConfigurationError, match=r"env\.py fails"):
        Scripts(tmp_path / "migrations")  # outside of the application it cannot run


def test_plain_alembic_works_on_one_tenant(fleet: Fleet, tmp_path: Path) -> None:
    ini = project(tmp_path)

    def alembic(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "alembic", "-c", str(ini), *arguments],
            env={**os.environ},
            capture_output=True,
            text=True,
            check=False,
        )

    on_one = ("-x", f"file={fleet.file}", "-x", "tenant=t000")
    done = alembic(*on_one, "upgrade", "head")
    assert done.returncode == 0, done.stderr
    found = migration_status(fleet.tenancy, Scripts(ini))
    assert [each.behind for each in found] == [0, 30]
    assert "0030" in alembic(*on_one, "current").stdout
    sql = alembic(*on_one, "upgrade", "0001:0002", "--sql")
    assert "CREATE TABLE addresses" in sql.stdout, sql.stderr
    nobody = alembic("-x", f"file={fleet.file}", "upgrade", "head")
    assert "say which tenant" in nobody.stderr


def test_autogenerate_compares_with_a_reference_tenant(fleet: Fleet, tmp_path: Path) -> None:
    ini = project(tmp_path)
    scripts = Scripts(ini)
    migrate_tenants(fleet.tenancy, scripts, tenants=[fleet.tenant("t000")]).raise_if_failed()
    shop = tmp_path / "example" / "shop.py"
    shop.write_text(
        shop.read_text(encoding="utf-8")
        + '\n\nclass Gift(Row, Base):\n    __tablename__ = "gifts"\n',
        encoding="utf-8",
    )
    # In a process of its own: this one may have imported the example's module before.
    source = (
        "import sys\nfrom tenantry import Tenancy\nfrom tenantry.fleet import new_revision\n"
        "print(new_revision(Tenancy.from_file(sys.argv[1]), sys.argv[2], 'gifts', tenant='t000', "
        "autogenerate=True)[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source, str(fleet.file), str(ini)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = Path(done.stdout.strip().splitlines()[-1]).read_text(encoding="utf-8")
    assert "create_table('gifts'" in written.replace('"', "'")
    assert "drop_table" in written


def test_autogenerate_needs_somebody_to_compare_with(tmp_path: Path) -> None:
    ini = project(tmp_path, {})
    empty = Tenancy.from_mapping({"servers": {"main": {"url": "sqlite:///nowhere"}}})
    with pytest.raises(ConfigurationError, match="no ready tenant"):
        new_revision(empty, ini, "nothing", autogenerate=True)


def test_the_example_has_thirty_revisions() -> None:
    assert len(list((EXAMPLE / "migrations" / "versions").glob("*.py"))) == 30


def write(folder: Path, name: str, body: str, *, down: str = "None", labels: str = "None") -> None:
    (folder / "migrations" / "versions" / f"{name}.py").write_text(
        "import uuid\nimport sqlalchemy as sa\nfrom alembic import op\n"
        f"revision, down_revision, branch_labels = {name!r}, {down}, {labels}\n"
        f"def upgrade():\n    {body}\n"
        "def downgrade():\n    pass\n",
        encoding="utf-8",
    )


def test_tenants_get_their_own_branch(fleet: Fleet, tmp_path: Path) -> None:
    ini = project(tmp_path, {})
    write(tmp_path, "t1", "op.create_table('mine', sa.Column('a', sa.Integer))", labels="'tenant'")
    write(tmp_path, "s1", "op.create_table('ours', sa.Column('a', sa.Integer))", labels="'shared'")
    assert migrate_tenants(fleet.tenancy, Scripts(ini)).ok
    query = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1"
    assert fleet.rows("t000", query) == [("alembic_version",), ("mine",)]
    # And plain Alembic gives the shared place its branch.
    text = fleet.file.read_text(encoding="utf-8")
    shared = tmp_path / "with_shared.toml"
    shared.write_text(text + '[shared]\nserver = "main"\ndatabase = "shared.db"\n')
    (tmp_path / "data" / "shared.db").touch()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "alembic", "-c", str(ini)),
            *("-x", f"file={shared}", "-x", "shared=1", "upgrade", "shared@head"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(tmp_path / "data" / "shared.db") as connection:
        assert connection.execute(query).fetchall() == [("alembic_version",), ("ours",)]
    connection.close()


def test_what_differs_at_each_compilation_or_asks_runs_live(tmp_path: Path) -> None:
    ini = project(tmp_path, {})
    insert = 'op.execute("INSERT INTO t VALUES (\'" + str(uuid.uuid4()) + "\')")'
    write(tmp_path, "u1", "op.create_table('t', sa.Column('a', sa.String(40)))")
    write(tmp_path, "u2", insert, down="'u1'")
    write(tmp_path, "u3", "op.get_bind()", down="'u2'")
    write(tmp_path, "u4", "getattr(op, 'get' + '_bind')()", down="'u3'")
    plan = Scripts(ini).plan((), "heads", sqlite_dialect())
    assert [step.segments is None for step in plan.steps] == [False, True, True, True]
    assert "differs" in plan.steps[1].why_online
    assert "get_bind" in plan.steps[2].why_online
    assert "connection" in plan.steps[3].why_online


def test_tenants_in_rows_of_one_place_are_migrated_once(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = {"server": "main", "isolation": "rows", "database": "all.db"}
    tenancy = Tenancy.from_mapping(
        {
            "servers": {"main": {"url": f"sqlite:///{tmp_path / 'data'}"}},
            "tenants": {"one": rows, "two": rows},
        }
    )
    (tmp_path / "data" / "all.db").touch()
    ini = project(tmp_path, {"w1": "op.create_table('t', sa.Column('a', sa.Integer))"})
    report = migrate_tenants(tenancy, Scripts(ini))
    assert report.ok
    assert sorted(each.tenant_id for each in report.of("done")) == ["one", "two"]
