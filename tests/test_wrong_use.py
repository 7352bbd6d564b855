"""Every wrong use has an error that names the tenant, what is wrong and the next step."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from tenantry import Isolation, Placement, Server, State, Tenancy, Tenant, errors
from tenantry.directory import MappingDirectory
from tests.places import Door, Kind, Note, Place, made


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with made(Kind("sqlite", "pysqlite"), tmp_path, None) as place:
        yield place


@pytest.fixture
def tenancy(place: Place) -> Iterator[Tenancy]:
    tenancy = place.tenancy("uk", "aus", max_connections=2, per_tenant=1, wait_seconds=0.2)
    yield tenancy
    tenancy.close()


def test_no_tenant(tenancy: Tenancy) -> None:
    before = tenancy.status()
    for attempt in (tenancy.session, lambda: tenancy.engine.connect(), tenancy.asession):
        with pytest.raises(errors.NoTenantError, match=r"no tenant is current; wrap the call in"):
            attempt()
    assert tenancy.status() == before  # no connection was taken


def test_unknown(tenancy: Tenancy) -> None:
    with pytest.raises(errors.UnknownTenantError, match="no tenant 'nz'; `tenantry list` shows"):
        tenancy.use("nz").__enter__()
    with pytest.raises(errors.UnknownTenantError, match="no tenant 'UK'"):
        tenancy.session("UK")


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        (State.SUSPENDED, errors.TenantSuspendedError, "`tenantry resume` opens it again"),
        (State.CREATING, errors.TenantNotReadyError, "still being created; try again shortly"),
        (State.MOVING, errors.TenantMovingError, "is being moved; try again shortly"),
        (State.DELETING, errors.TenantDeletedError, "is being deleted"),
        (State.DELETED, errors.TenantDeletedError, "is deleted"),
    ],
)
def test_a_state_that_serves_no_requests(
    place: Place, tenancy: Tenancy, state: State, error: type[errors.TenantryError], words: str
) -> None:
    directory = tenancy.directory
    assert isinstance(directory, MappingDirectory)
    with tenancy.use("uk"), tenancy.session() as session:
        before = directory.get("uk")
        directory.replace(before.with_state(state), expected=before)
        with pytest.raises(error, match=f"tenant 'uk' .*{words}"):  # inside a block that had begun
            session.scalars(select(Note))
    with pytest.raises(error, match=words):
        tenancy.use("uk").__enter__()
    assert (
        Door(tenancy, False).run("aus", lambda session: session.scalars(select(Note)).all()) == []
    )


def test_a_tenant_that_serves_reads_only(tenancy: Tenancy) -> None:
    directory = tenancy.directory
    assert isinstance(directory, MappingDirectory)
    door = Door(tenancy, False)
    door.run("uk", lambda session: session.add(Note(id=1, tenant="uk")))
    before = directory.get("uk")
    directory.replace(before.with_state(State.READ_ONLY), expected=before)
    assert door.run("uk", lambda session: session.scalar(select(Note.tenant))) == "uk"
    words = "'uk' serves reads only"
    with pytest.raises(errors.TenantReadOnlyError, match=words):
        door.run("uk", lambda session: session.add(Note(id=2, tenant="uk")))
    refused = pytest.raises(errors.TenantReadOnlyError, match=words)
    with tenancy.use("uk"), tenancy.engine.connect() as connection, refused:
        connection.exec_driver_sql("DELETE FROM notes")
    now = directory.get("uk")
    directory.replace(now.with_state(State.READY), expected=now)
    door.run("uk", lambda session: session.add(Note(id=2, tenant="uk")))


def test_switching(tenancy: Tenancy) -> None:
    with tenancy.use("uk"):
        words = "tenant 'uk' is current, 'aus' was asked for; leave the first block, or say switch"
        with pytest.raises(errors.TenantSwitchError, match=words):
            tenancy.use("aus").__enter__()
        block = tenancy.use("uk")
        with block, pytest.raises(errors.TenantSwitchError, match="entered already"):
            block.__enter__()


def test_an_object_of_another_tenant(tenancy: Tenancy) -> None:
    uk = tenancy.session("uk")
    note = Note(id=1, tenant="uk")
    uk.add(note)
    uk.commit()
    with tenancy.session("aus") as aus:
        words = "an object of class Note of another tenant .* tenant 'aus'; load it anew"
        with pytest.raises(errors.CrossTenantError, match=words):
            aus.add(note)
    uk.close()


def test_two_tenants_in_one_place(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "uk.db")
    for second in ("uk.db", "./uk.db", "link.db"):
        words = "'aus' and 'uk' are both placed|'uk' and 'aus' are both placed"
        with pytest.raises(errors.DuplicatePlacementError, match=words):
            Tenancy.from_mapping(
                {
                    "uk": f"sqlite:///{tmp_path}/uk.db",
                    "aus": f"sqlite:///{tmp_path}/{second}",
                }
            )
    with pytest.raises(errors.DuplicatePlacementError):
        Tenancy.from_mapping(
            {"uk": "postgresql://a@db/x", "aus": "postgresql+psycopg2://b@db:5432/x"}
        )


def test_an_unreadable_file(tmp_path: Path) -> None:
    file = tmp_path / "tenants.toml"
    file.write_text('[servers.eu]\nurl = "sqlite:///x"\n\n[tenants.uk\nserver = "eu"\n')
    with pytest.raises(errors.DirectoryFileError, match="line 4"):
        Tenancy.from_file(file)
    file.write_text('[servers.eu]\nurl = "sqlite:///x"\n\n[tenants.uk]\nsever = "eu"\n')
    with pytest.raises(errors.DirectoryFileError, match=r"(?s)line 5.*sever.*server"):
        Tenancy.from_file(file)
    with pytest.raises(errors.DirectoryFileError, match=r"nowhere\.toml"):
        Tenancy.from_file(tmp_path / "nowhere.toml")


def test_a_missing_variable() -> None:
    with pytest.raises(errors.MissingVariableError, match="DB_UK_PASS"):
        Tenancy.from_env("DB_", {"DB_UK_HOST": "db.internal"})


def test_a_missing_driver() -> None:
    assert importlib.util.find_spec("asyncmy") is None, "the test needs a driver that is missing"
    server = Server.from_url("db", "mysql://a@127.0.0.1/x", async_driver="asyncmy")
    tenant = Tenant("uk", Placement("db", database="x"))
    tenancy = Tenancy(MappingDirectory([tenant]), [server])
    with pytest.raises(errors.MissingDependencyError, match=r"pip install 'tenantry\[asyncmy\]'"):
        tenancy.asession("uk")


def test_a_server_that_is_away() -> None:
    tenancy = Tenancy.from_mapping({"uk": "postgresql+psycopg://app:hidden@127.0.0.1:1/x"})
    with (
        tenancy.use("uk"),
        tenancy.session() as session,
        pytest.raises(errors.ServerUnavailableError) as raised,
    ):
        session.connection()
    assert raised.value.tenant_id == "uk"
    assert raised.value.server in tenancy.servers
    for word in ("'uk'", repr(raised.value.server), "`tenantry doctor`"):
        assert word in str(raised.value)
    assert "hidden" not in str(raised.value)


def test_a_database_that_is_missing(tmp_path: Path) -> None:
    server = Server.from_url("files", f"sqlite:///{tmp_path}/")
    tenant = Tenant("uk", Placement("files", database="uk.db"))
    tenancy = Tenancy(MappingDirectory([tenant]), [server])
    missing = pytest.raises(errors.PlacementMissingError, match="of tenant 'uk' does not exist")
    with tenancy.use("uk"), tenancy.session() as session, missing:
        session.connection()
    assert not (tmp_path / "uk.db").exists()


def test_a_budget_that_is_used_up(tenancy: Tenancy) -> None:
    started, done = threading.Event(), threading.Event()

    def hold(session: Session) -> None:
        session.connection()
        started.set()
        done.wait(10)

    thread = threading.Thread(target=lambda: Door(tenancy, False).run("uk", hold))
    thread.start()
    started.wait(10)
    try:
        with pytest.raises(errors.BudgetExhaustedError) as raised:
            Door(tenancy, False).run("uk", lambda session: session.connection())
    finally:
        done.set()
        thread.join()
    assert raised.value.tenant_id == "uk"
    for words in ("no connection within 0.2 s", "1 of 1 for this tenant", "held by: uk 1"):
        assert words in str(raised.value)
    assert Door(tenancy, False).run("uk", lambda session: session.scalar(select(1))) == 1


def test_no_error_of_ours_is_an_error_of_the_database() -> None:
    from sqlalchemy.exc import SQLAlchemyError

    kinds = [errors.TenantryError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        assert not issubclass(kind, (SQLAlchemyError, OSError))


DATABASE, SCHEMA = Isolation.DATABASE, Isolation.SCHEMA
ALONE = {
    "postgresql+psycopg://127.0.0.1:1/app": [
        (Placement("one", DATABASE, "uk"), Placement("two", database="uk")),
        (Placement("one", DATABASE, "uk"), Placement("two", SCHEMA, "uk", "common")),
        (Placement("one", DATABASE), Placement("two", SCHEMA, None, "common")),
        (Placement("one", SCHEMA, None, "uk"), Placement("two", SCHEMA, "app", "uk")),
    ],
    "mysql+pymysql://127.0.0.1:1/app": [
        (Placement("one", DATABASE, "uk"), Placement("two", SCHEMA, None, "uk")),
        (Placement("one", SCHEMA, None, "uk"), Placement("two", database="uk")),
    ],
    "sqlite:///{folder}": [
        (Placement("one", DATABASE, "uk.db"), Placement("two", database="./uk.db")),
    ],
}


@pytest.mark.parametrize(
    ("url", "own", "shared"), [(url, *pair) for url, pairs in ALONE.items() for pair in pairs]
)
def test_the_shared_place_is_nobodys_own(
    tmp_path: Path, url: str, own: Placement, shared: Placement
) -> None:
    """Under whatever name; nothing is connected to, for no server is there."""
    server = url.format(folder=tmp_path)
    servers = {name: Server.from_url(name, server) for name in ("one", "two")}
    tenancy = Tenancy(MappingDirectory([Tenant("uk", own)]), servers, shared=shared)
    for _ in range(2):
        with (
            tenancy.use("uk"),
            pytest.raises(errors.ConfigurationError, match="who has that alone; give the"),
        ):
            tenancy.engine.connect()
    tenancy.close()
