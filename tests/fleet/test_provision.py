"""Creating, deleting, cloning tenants, and the warm pool; whatever crashes in between."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from tenantry import State, Tenancy, Tenant
from tenantry.directory import TableDirectory
from tenantry.errors import (
    ConfigurationError,
    DuplicatePlacementError,
    ProvisionError,
    TenantNotReadyError,
    UnknownTenantError,
)
from tenantry.fleet import (
    Access,
    Blueprints,
    Outcome,
    Place,
    Scripts,
    claim,
    copying,
    create,
    delete,
    diagnose,
    fill_spares,
    place_exists,
    resume,
    suspend,
    sweep,
)
from tenantry.fleet.fingerprint import shape_of
from tenantry.fleet.locks import holding
from tests.fleet.conftest import MakeFleet
from tests.fleet.fleets import PASSWORD, ROOT, Fleet, scripts_of
from tests.threads import in_threads

SMALL = {
    "k1": "op.create_table('notes', sa.Column('id', sa.Integer, primary_key=True), "
    "sa.Column('body', sa.String(20)))\n"
    "op.create_index('notes_body', 'notes', ['body'])\n"
    "op.execute(\"INSERT INTO notes VALUES (1, 'hello')\")"
}


# Places are named after tenants, and other workers have theirs on the same servers.
ACME, FULL, BARE = (f"{name}{os.getpid():x}" for name in ("acme", "full", "bare"))


@dataclass
class Ground:
    """Where tenants are made: servers without any, a directory that is a table, and scripts."""

    fleet: Fleet
    tenancy: Tenancy
    scripts: Scripts

    @property
    def isolation(self) -> str:
        return "schema" if self.fleet.kind == "postgresql-schema" else "database"

    def make(self, tenant_id: str, tenancy: Tenancy | None = None) -> Outcome:
        with Access(self.tenancy.servers) as access:
            return create(
                tenancy or self.tenancy,
                tenant_id,
                isolation=self.isolation,
                fill=[Blueprints(access, self.scripts).filling],
                access=access,
            )


@pytest.fixture
def ground(make_fleet: MakeFleet, tmp_path: Path) -> Iterator[Ground]:
    fleet = make_fleet(0)
    with fleet.with_table() as tenancy:
        yield Ground(fleet, tenancy, scripts_of(tmp_path, SMALL))


def test_create_use_suspend_resume_delete(ground: Ground) -> None:
    tenancy = ground.tenancy
    assert ground.make(ACME).status == "done"
    assert ground.make(ACME).status == "unchanged"

    def count(_tenant: Tenant) -> int:
        with tenancy.session() as session:
            return int(session.execute(text("SELECT count(*) FROM notes")).scalar_one())

    seen = tenancy.each(count, tenants=[ACME]).raise_if_failed()
    assert seen[ACME].value == 1
    assert dict(tenancy.map(count)) == {ACME: 1}
    suspend(tenancy, ACME)
    assert tenancy.get(ACME).state is State.SUSPENDED
    assert [each.status for each in tenancy.each(count).outcomes] == ["skipped"]
    resume(tenancy, ACME)
    tenancy.close()
    first = tenancy.get(ACME)
    with Access(tenancy.servers) as access:
        assert place_exists(access, access.place(first))
        assert delete(tenancy, ACME).status == "done"
        assert not place_exists(access, access.place(first))
    with pytest.raises(UnknownTenantError):
        tenancy.get(ACME)
    ground.make(ACME)
    again = tenancy.get(ACME)
    assert again.key != first.key
    assert again.generation > first.generation
    delete(tenancy, ACME)


def test_a_place_of_somebody_else_is_never_taken(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(1)
    placement = fleet.tenant("t000").placement
    with fleet.with_table() as tenancy:
        with pytest.raises(ProvisionError, match="exists already"):
            create(
                tenancy,
                "other",
                isolation=placement.isolation,
                database=placement.database,
                schema=placement.schema,
            )
        assert list(tenancy.tenants()) == []


CRASH = """
import os, signal, sys
from pathlib import Path
from tenantry import Server, Tenancy, events
from tenantry.directory import TableDirectory
from tenantry.fleet import Access, Blueprints, Scripts, create
tenant_id, folder, url, isolation, ini, number = sys.argv[1:]
servers = {"main": Server.from_url("main", url, password_env=%r if "@" in url else None)}
tenancy = Tenancy(TableDirectory("sqlite:///" + folder + "/control.db", servers=servers), servers)
left = int(number)
def crash(event):
    global left
    if type(event).__name__ == "Step":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
events.listen(crash)
with Access(servers) as access:
    blueprints = Blueprints(access, Scripts(ini))
    create(tenancy, tenant_id, isolation=isolation, fill=[blueprints.filling], access=access)
"""
STEPS = ("record", "place", "filling", "open")


@pytest.mark.newest  # what a kill leaves is the servers' doing, not the libraries'
@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(1, id="short"),
        pytest.param(10, id="promised", marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
)
def test_a_crash_at_every_step_of_create_leaves_nothing_behind(ground: Ground, rounds: int) -> None:
    tenancy, ini = ground.tenancy, ground.scripts.path
    server = tenancy.servers["main"]
    url = server.url.render_as_string(hide_password=False)
    arguments = [ACME, str(ground.fleet.folder), url, ground.isolation, str(ini)]
    for _ in range(rounds):
        for number, step in enumerate(STEPS, 1):
            done = subprocess.run(
                [sys.executable, "-c", CRASH % PASSWORD, *arguments, str(number)],
                cwd=ROOT,
                env=dict(os.environ),
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            assert done.returncode == -signal.SIGKILL, done.stderr
            tenant = tenancy.get(ACME)
            with Access(tenancy.servers) as access:
                place = access.place(tenant)
                if step == "open":
                    assert tenant.state is State.READY
                    delete(tenancy, ACME, access=access)
                else:
                    assert tenant.state is State.CREATING
                    with pytest.raises(TenantNotReadyError), tenancy.use(ACME):
                        pass
                    swept = sweep(tenancy, access=access)
                    assert [each.status for each in swept] == ["done"]
                assert not place_exists(access, place)
            assert list(tenancy.tenants()) == []
    # And it can be finished instead of taken back.
    subprocess.run(
        [sys.executable, "-c", CRASH % PASSWORD, *arguments, "2"], cwd=ROOT, check=False, timeout=60
    )
    assert ground.make(ACME).status == "done"
    assert tenancy.get(ACME).state is State.READY
    delete(tenancy, ACME)


def test_two_that_create_the_same_tenant(ground: Ground) -> None:
    """One does, the other finds it done or is told to wait; never two places."""
    tenancy = ground.tenancy
    results: list[object] = []

    def work() -> None:
        try:
            results.append(ground.make(ACME).status)
        except (ProvisionError, DuplicatePlacementError) as error:
            results.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "done" in results
    assert tenancy.get(ACME).state is State.READY
    delete(tenancy, ACME)


def test_a_creation_that_was_decided_before_another_was_recorded(ground: Ground) -> None:
    """Its place would be the next generation's; the lock it needs is that of the recorded one."""
    tenancy = ground.tenancy
    asked, recorded, tried = threading.Event(), threading.Event(), threading.Event()

    class Late(TableDirectory):
        def next_generation(self, tenant_id: str) -> int:
            asked.set()
            assert recorded.wait(30)
            return super().next_generation(tenant_id)

    def waits(_tenancy: Tenancy, _access: Access, _place: Place) -> None:
        recorded.set()
        assert tried.wait(30)

    servers = dict(tenancy.servers)
    control = f"sqlite:///{ground.fleet.folder / 'control.db'}"
    late = Tenancy(Late(control, servers=servers), servers)
    with ThreadPoolExecutor(2) as executor, Access(servers) as access:
        second = executor.submit(ground.make, ACME, late)
        assert asked.wait(30)
        first = executor.submit(
            create, tenancy, ACME, isolation=ground.isolation, fill=[waits], access=access
        )
        with pytest.raises(ProvisionError, match="being created or deleted by another"):
            second.result()
        tried.set()
        assert first.result().status == "done"
    assert tenancy.get(ACME).state is State.READY
    delete(tenancy, ACME)


def test_a_deletion_that_comes_too_late(ground: Ground) -> None:
    """The tenant it knew is gone and another has its id and its place, or it is whole by now."""
    tenancy = ground.tenancy
    kind, name = ground.isolation, f"{ACME}_same"
    database, schema = (None, name) if kind == "schema" else (name, None)
    with Access(tenancy.servers) as access:
        fill = [Blueprints(access, ground.scripts).filling]

        def again() -> Tenant:
            create(
                tenancy,
                ACME,
                isolation=kind,
                database=database,
                schema=schema,
                fill=fill,
                access=access,
            )
            return tenancy.get(ACME)

        before = again()
        delete(tenancy, ACME)
        now = again()
        for known in (before.with_state(State.DELETING), now.with_state(State.CREATING)):
            with pytest.raises(UnknownTenantError, match="somebody changed or removed it"):
                delete(tenancy, known)
        assert tenancy.get(ACME) == now
        assert place_exists(access, access.place(now))
    delete(tenancy, ACME)


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    tenancy = Tenancy.from_mapping({"uk": f"sqlite:///{tmp_path}/data/uk.db"})
    with pytest.raises(ConfigurationError, match=r"no lock file can be kept in .*data \(.*\); let"):
        create(tenancy, "uk")


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_file_lock_has_one_holder(make_fleet: MakeFleet) -> None:
    """Also when it is taken and given back so fast that the same inode comes back."""
    fleet = make_fleet(1)
    place = fleet.access.place(next(iter(fleet.tenancy.tenants())))
    inside: list[int] = []
    crowds: list[int] = []

    def work() -> int:
        got = 0
        while got < 100:
            with holding(fleet.access, place, "provision") as held:
                if held:
                    got += 1
                    inside.append(1)
                    crowds.append(len(inside))
                    time.sleep(0)
                    inside.pop()
        return got

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        assert in_threads(6, work) == [100] * 6
    finally:
        sys.setswitchinterval(before)
    assert set(crowds) == {1}


OTHER = (
    "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1], timeout=0.1); "
    "connection.execute('DELETE FROM notes')"
)


@pytest.mark.parametrize("kind", ["sqlite"])
def test_looking_for_places_takes_no_lock_off_a_file(ground: Ground) -> None:
    """A process that closes a file loses all its POSIX locks on it, whoever took them."""
    tenancy = ground.tenancy
    with Access(tenancy.servers) as access:
        blueprints = Blueprints(access, ground.scripts)
        ground.make("uk")
        file = access.place(tenancy.get("uk")).file()
        with sqlite3.connect(file, isolation_level=None) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            diagnose(tenancy)
            fill_spares(tenancy, blueprints, server="main", count=1)
            other = subprocess.run(
                [sys.executable, "-c", OTHER, str(file)],
                capture_output=True,
                text=True,
                check=False,
            )
            assert "database is locked" in other.stderr
            connection.execute("COMMIT")
        connection.close()


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_file_that_a_crash_of_the_machine_cut_short(ground: Ground) -> None:
    """It has its name before its data is on the disk: a spare is made anew, a creation goes on."""
    tenancy = ground.tenancy
    with Access(tenancy.servers) as access:
        blueprints = Blueprints(access, ground.scripts)
        fill_spares(tenancy, blueprints, server="main", count=2)
        root = tenancy.servers["main"].root
        for size, spare in zip((0, 8192), sorted(root.glob("spare_*.db")), strict=True):
            os.truncate(spare, size)
        assert claim(tenancy, Blueprints(access, ground.scripts), "uk", server="main") is None
        fill_spares(tenancy, blueprints, server="main", count=1)
        uk = claim(tenancy, blueprints, "uk", server="main")
        assert uk is not None
        assert _rows(access, access.place(uk)) == 1

        def cut(_tenancy: Tenancy, access: Access, place: Place) -> None:
            blueprints.filling(tenancy, access, place)
            os.truncate(place.file(), 8192)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            create(tenancy, "aus", fill=[cut])
        ground.make("aus")
        assert _rows(access, access.place(tenancy.get("aus"))) == 1


def test_the_warm_pool_gives_each_spare_once(ground: Ground) -> None:
    tenancy = ground.tenancy
    got: list[Tenant | None] = []
    with Access(tenancy.servers, keep=4) as access:
        blueprints = Blueprints(access, ground.scripts)
        kind = ground.isolation
        made = fill_spares(tenancy, blueprints, server="main", isolation=kind, count=2)
        assert [each.status for each in made] == ["done", "done"], made
        assert fill_spares(tenancy, blueprints, server="main", isolation=kind, count=2) == []

        def sign_up(number: int) -> None:
            got.append(claim(tenancy, blueprints, f"new{number}", server="main", isolation=kind))

        threads = [threading.Thread(target=sign_up, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        claimed = [each for each in got if each is not None]
        assert len(claimed) == 2
        assert len({str(each.placement) for each in claimed}) == 2
        for tenant in claimed:
            assert tenancy.get(tenant.id).state is State.READY
            assert (
                shape_of(access, access.place(tenant)) == blueprints.of(access.place(tenant)).shape
            )
            assert _rows(access, access.place(tenant)) == 1
            delete(tenancy, tenant.id, access=access)


def test_a_clone_has_the_same_tables_and_rows(ground: Ground) -> None:
    tenancy = ground.tenancy
    ground.make(ACME)
    with Access(tenancy.servers) as access:
        source = access.place(tenancy.get(ACME))
        for name, rows in ((FULL, True), (BARE, False)):
            create(
                tenancy,
                name,
                isolation=ground.isolation,
                fill=[copying(source, rows=rows, keep=("alembic_version",))],
                access=access,
            )
            place = access.place(tenancy.get(name))
            assert shape_of(access, place) == shape_of(access, source)
            assert _rows(access, place) == (1 if rows else 0)
    for name in (ACME, FULL, BARE):
        delete(tenancy, name)


def _rows(access: Access, place: Place) -> int:
    with access.enter(place) as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM notes").scalar() or 0)
