"""PgBouncer in transaction mode before the server: fleet work goes past it, or nowhere."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from tenantry import Placement, Tenancy, Tenant
from tenantry.directory import TableDirectory
from tenantry.errors import ConfigurationError, UnsupportedError
from tenantry.fleet import Access, Journal, Scripts, migrate_tenants, migration_status
from tenantry.servers import Server
from tenantry.testing.address import ServerAddress
from tests.fleet.conftest import MakeFleet
from tests.fleet.fleets import Fleet, project

on_postgresql = pytest.mark.parametrize("kind", ["postgresql-schema", "postgresql-database"])


def pooled(fleet: Fleet, pgbouncer: ServerAddress, *, direct: bool) -> Path:
    """The same fleet, whose server is met through the pooler."""
    lines = fleet.file.read_text().splitlines()
    url = next(each for each in lines if each.startswith("url"))
    assert fleet.address is not None
    through = url.replace(f":{fleet.address.port}/", f":{pgbouncer.port}/")
    past = [f"direct_{url}"] if direct else []
    index = lines.index(url)
    file = fleet.folder / "pooled.toml"
    file.write_text("\n".join([*lines[:index], through, *past, *lines[index + 1 :]]) + "\n")
    return file


@on_postgresql
def test_no_session_is_shared_with_another_tenant(
    make_fleet: MakeFleet, pgbouncer: ServerAddress
) -> None:
    """A path that is set for a session is somebody else's soon: nobody reads or writes by it."""
    fleet = make_fleet(4)
    for tenant_id in fleet.ids:
        fleet.execute(tenant_id, "CREATE TABLE notes (body varchar(9))")
    tenancy = Tenancy.from_file(pooled(fleet, pgbouncer, direct=False))
    with Access(tenancy.servers, keep=4) as access:

        def work(tenant_id: str) -> int:
            place, refused = access.place(tenancy.get(tenant_id)), 0
            for _ in range(20):
                try:
                    with access.enter(place) as connection:
                        insert = text("INSERT INTO notes VALUES (:who)")
                        connection.execute(insert, {"who": tenant_id})
                        connection.commit()
                except UnsupportedError as error:
                    refused += "direct_url" in str(error)
            return refused

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(work, fleet.ids)) == [20] * 4
    assert [fleet.rows(each, "SELECT body FROM notes") for each in fleet.ids] == [[]] * 4
    tenancy.close()


@on_postgresql
def test_each_verb_says_what_is_missing(
    make_fleet: MakeFleet, pgbouncer: ServerAddress, tmp_path: Path
) -> None:
    fleet = make_fleet(2)
    ini = project(tmp_path, {"g1": "op.create_table('notes', sa.Column('id', sa.Integer))"})
    file = pooled(fleet, pgbouncer, direct=False)
    fleet = dataclasses.replace(fleet, file=file)
    for verb in (["migrate", "--config", str(ini)], ["status", "--config", str(ini)], ["doctor"]):
        done = fleet.run(*verb)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "direct_url" in " ".join((done.stdout + done.stderr).split()), done.stdout
        assert "Traceback" not in done.stderr
    fleet.tenancy.close()


@on_postgresql
def test_fleet_work_goes_past_the_pooler(
    make_fleet: MakeFleet, pgbouncer: ServerAddress, tmp_path: Path
) -> None:
    fleet = make_fleet(4)
    assert fleet.address is not None
    # What the guard asks for where a path cannot be set at connect.
    fleet.address.execute(f"ALTER DATABASE \"{fleet.database}\" SET search_path = ''")
    live = (
        "op.create_table('notes', sa.Column('body', sa.String(90)))\n"
        "bind = op.get_bind()\n"
        "bind.execute(sa.text(\"INSERT INTO notes VALUES (current_schema() || ' ' || "
        'current_database())"))'
    )
    scripts = Scripts(project(tmp_path, {"g1": live}))
    tenancy = Tenancy.from_file(pooled(fleet, pgbouncer, direct=True))
    migrate_tenants(tenancy, scripts, workers=4).raise_if_failed()
    assert [each.behind for each in migration_status(tenancy, scripts)] == [0] * 4
    for tenant_id in fleet.ids:
        place = tenancy.get(tenant_id).placement
        where = f"{place.schema or 'public'} {place.database or fleet.database}"
        assert fleet.rows(tenant_id, "SELECT body FROM notes") == [(where,)]
        with tenancy.use(tenant_id), tenancy.session() as session:  # through the pooler, as before
            assert session.execute(text("SELECT body FROM notes")).all() == [(where,)]
    tenancy.close()


@pytest.mark.parametrize("kind", ["mariadb"])
def test_a_live_revision_goes_the_direct_way_too(make_fleet: MakeFleet, tmp_path: Path) -> None:
    """Whoever answers at the other address: here nobody does."""
    fleet = make_fleet(2)
    assert fleet.address is not None
    nobody = dataclasses.replace(fleet.address, port=1)
    live = (
        "op.create_table('notes', sa.Column('id', sa.Integer))\n"
        "op.get_bind().execute(sa.text('INSERT INTO notes VALUES (1)'))"
    )
    tenancy = Tenancy.from_file(pooled(fleet, nobody, direct=True))
    migrate_tenants(tenancy, Scripts(project(tmp_path, {"g1": live}))).raise_if_failed()
    assert [fleet.rows(each, "SELECT id FROM notes") for each in fleet.ids] == [[(1,)]] * 2
    tenancy.close()


@on_postgresql
@pytest.mark.parametrize("admin", [False, True])
def test_no_way_through_the_pooler_is_left(
    make_fleet: MakeFleet, pgbouncer: ServerAddress, admin: bool
) -> None:
    """Not with a server that only says it has one, and not with the login that creates."""
    fleet = make_fleet(1)
    server = fleet.tenancy.servers["main"]
    through = dataclasses.replace(server, url=server.url.set(port=pgbouncer.port))
    behind = {"admin": through} if admin else {"pooler": True}
    server = dataclasses.replace(server, **behind)
    with Access({"main": server}) as access:
        asks = access.connect(server, admin=admin)
        with pytest.raises(UnsupportedError, match="admin_url that does"), asks:
            pass


@on_postgresql
def test_a_directory_and_a_journal_prepare_nothing_behind_a_pooler(
    make_fleet: MakeFleet, pgbouncer: ServerAddress
) -> None:
    """By the same name the server's processes have prepared different statements."""
    fleet = make_fleet(1)
    url = pgbouncer.url("postgresql+psycopg").set(database=fleet.database)
    directory = TableDirectory(url)
    directory.create_tables()

    def work(number: int) -> None:
        journal = Journal(url)
        for turn in range(15):
            new = Tenant(f"t{number}-{turn}", Placement("main", database=f"d{number}x{turn}"))
            assert directory.get(directory.add(new).id).placement == new.placement
            run = journal.begin(f"verb{number}", str(turn))
            journal.note_begun(run, new.id)
        journal.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert len(directory.tenants()) == 60
    directory.close()


def test_a_direct_url_is_of_the_same_kind() -> None:
    url = "postgresql://eu/app"
    with pytest.raises(ConfigurationError, match="the direct_url of server 'eu' is not a database"):
        Server.from_url("eu", url, direct_url="nonsense")
    with pytest.raises(ConfigurationError, match="the admin_url of server 'eu' is not a database"):
        Server.from_url("eu", url, admin_url="nonsense")
    with pytest.raises(ConfigurationError, match="direct_url of server 'eu'"):
        Server.from_url("eu", url, direct_url="mysql+pymysql://eu/app")
    secret = "pass"
    server = Server.from_url("eu", f"postgresql://app:{secret}@eu/app", direct_url="postgresql://e")
    assert server.direct is not None
    assert server.direct.url_with_secrets(server.direct.url).password == secret
