"""Flask-SQLAlchemy 3: an application's own ``db``, and the drop-in with the recipe's verbs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, g, request
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.record_queries import get_recorded_queries
from flask_sqlalchemy.session import Session
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from examples.flask_seed.app import Note as SeedNote
from examples.flask_seed.app import create_app as create_seed
from examples.flask_seed.app import db as seed_db
from tenantry import Placement, Server, Tenancy, TenantSession, current
from tenantry.errors import (
    ConfigurationError,
    CrossTenantError,
    NoTenantError,
    TenantryError,
    TenantSwitchError,
    UnknownTenantError,
)
from tenantry.integrations.flask import Tenantry
from tenantry.integrations.flask_sqlalchemy import (
    MultiTenantSQLAlchemy,
    NoTenantChosenError,
    TenantChosenError,
)
from tenantry.orm import is_shared
from tenantry.resolvers import from_query
from tenantry.testing.address import ServerAddress
from tests.integrations.places import serving
from tests.places import Kind, made

TENANTS = ("uk", "aus")


def tenancy_below(folder: Path, *tenant_ids: str, **options: Any) -> Tenancy:
    return Tenancy.from_mapping(
        {each: f"sqlite:///{folder}/{each}.db" for each in tenant_ids or TENANTS},
        **{"max_connections": 30, **options},
    )


class World:
    """An application as it is written for one database, and its models."""

    def __init__(self, folder: Path, **options: Any) -> None:
        class Base(DeclarativeBase):
            pass

        self.folder = folder
        self.apps: list[Flask] = []  # Flask-SQLAlchemy forgets the engines of those that are gone
        self.db = db = SQLAlchemy(model_class=Base, **options)

        class Note(db.Model):  # type: ignore[name-defined,misc]
            id: Mapped[int] = mapped_column(primary_key=True)
            body: Mapped[str]

        class Setting(db.Model):  # type: ignore[name-defined,misc]
            __bind_key__ = "meta"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str]

        class Country(db.Model):  # type: ignore[name-defined,misc]
            __table_args__ = {"info": {"tenantry": "shared"}}
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str]

        self.note: Any = Note
        self.setting: Any = Setting
        self.country: Any = Country

    def app(self, name: str = "shop") -> Flask:
        app = Flask(name, instance_path=str(self.folder / "instance"))
        self.apps.append(app)
        app.testing = True
        app.config["SQLALCHEMY_BINDS"] = {"meta": f"sqlite:///{self.folder}/meta.db"}

        @app.get("/")
        def index() -> str:
            return ",".join(self.db.session.scalars(sa.select(self.note.body)))

        @app.post("/<body>")
        def add(body: str) -> str:
            self.db.session.add(self.note(body=body))
            self.db.session.commit()
            return ""

        return app

    def fill(self, app: Flask, tenancy: Tenancy) -> None:
        for each in tenancy.tenants():
            with app.app_context(), tenancy.use(each):
                self.db.create_all()
                self.db.session.add(self.note(body=each.id))
                self.db.session.commit()


def close(db: SQLAlchemy) -> None:
    """Empty the pools of applications that live no longer than their test."""
    for app, engines in db._app_engines.items():
        for engine in engines.values():
            engine.dispose()
        if isinstance(db, MultiTenantSQLAlchemy):
            with app.app_context(), suppress(ConfigurationError):  # it has none
                db.tenancy.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    close(world.db)


@pytest.fixture
def tenancy(tmp_path: Path) -> Iterator[Tenancy]:
    server = Server.from_url("common", f"sqlite:///{tmp_path}", create_missing=True)
    made = tenancy_below(tmp_path)
    tenancy = Tenancy(
        made.directory,
        {**made.servers, "common": server},
        shared=Placement("common", database="common.db"),
        max_connections=30,
    )
    yield tenancy
    tenancy.close()


@pytest.fixture
def app(world: World, tenancy: Tenancy) -> Flask:
    """An existing application, made one of many tenants by one argument."""
    app = world.app()
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{world.folder}/default.db"
    world.db.init_app(app)
    Tenantry(app, tenancy=tenancy, resolver=from_query(), db=world.db)
    world.fill(app, tenancy)
    return app


def test_an_existing_db_goes_to_the_tenants_database(app: Flask, world: World) -> None:
    client = app.test_client()
    for each in (*TENANTS, "uk"):
        assert client.get(f"/?tenant={each}").text == each
    assert client.get("/").status_code == 400
    client.post("/more?tenant=aus")
    assert client.get("/?tenant=aus").text == "aus,more"
    assert client.get("/?tenant=uk").text == "uk"
    assert not (world.folder / "default.db").exists()


def test_the_object_stays_what_it_was(app: Flask, world: World) -> None:
    assert isinstance(world.db, SQLAlchemy)
    assert type(world.db).__name__ == "SQLAlchemy"
    assert app.extensions["sqlalchemy"] is world.db
    with app.app_context():
        assert repr(world.db) == "<SQLAlchemy of nobody>"
    assert repr(world.db) == "<SQLAlchemy>"


def test_a_db_that_is_not_registered_yet_is_registered(world: World, tenancy: Tenancy) -> None:
    app = world.app()
    Tenantry(app, tenancy=tenancy, resolver=from_query(), db=world.db)
    world.fill(app, tenancy)
    assert app.test_client().get("/?tenant=aus").text == "aus"
    with pytest.raises(RuntimeError, match="already been registered"):
        world.db.init_app(app)


def test_the_session_is_the_applications_class_pinned_to_its_tenant(
    tmp_path: Path, tenancy: Tenancy
) -> None:
    class Mine(Session):
        def hello(self) -> str:
            return "hello"

    world = World(tmp_path, session_options={"class_": Mine, "expire_on_commit": False})
    app = world.app()
    Tenantry(app, tenancy=tenancy, db=world.db)
    with app.app_context(), tenancy.use("uk"):
        session: Any = world.db.session()
        assert isinstance(session, Mine)
        assert isinstance(session, TenantSession)
        assert session.hello() == "hello"
        assert session.expire_on_commit is False
        assert session.tenant is not None
        assert session.tenant.id == "uk"


def test_sessions_are_kept_apart_by_tenant_within_one_app_context(
    app: Flask, world: World, tenancy: Tenancy
) -> None:
    with app.app_context():
        with tenancy.use("uk"):
            mine = world.db.session()
            note = world.db.session.scalars(sa.select(world.note)).one()
        with tenancy.use("aus"):
            assert world.db.session() is not mine
            other = world.db.session.get(world.note, note.id)
            assert other is not None
            assert other.body == "aus"
            with pytest.raises(CrossTenantError):
                mine.scalars(sa.select(world.note))
            with pytest.raises(CrossTenantError):
                world.db.session.add(note)
            with pytest.raises(CrossTenantError):
                world.db.session.merge(note)
        with tenancy.use("uk"):
            assert world.db.session() is mine
    assert tenancy.status()["held_by"] == {}
    assert world.db.session.registry.registry == {}


def test_nobody_current_is_refused_and_no_default_is_read(app: Flask, world: World) -> None:
    with app.app_context():
        for attempt in (
            lambda: world.db.session.scalars(sa.select(world.note)),
            lambda: world.db.session(),
            lambda: world.db.create_all(),
            lambda: world.db.engine.connect(),
            lambda: world.note.query.all(),
            lambda: world.db.paginate(sa.select(world.note)),
        ):
            with pytest.raises(NoTenantError):
                attempt()
    assert not (world.folder / "default.db").exists()


def test_a_thread_with_an_app_context_of_its_own_has_nobody(app: Flask, world: World) -> None:
    def work() -> str:
        with app.app_context():
            return ",".join(world.db.session.scalars(sa.select(world.note.body)))

    @app.get("/thread")
    def thread() -> str:
        with ThreadPoolExecutor(1) as pool, pytest.raises(NoTenantError):
            pool.submit(work).result()
        return "refused"

    assert app.test_client().get("/thread?tenant=uk").text == "refused"


def test_models_with_a_bind_key_keep_their_database(
    app: Flask, world: World, tenancy: Tenancy
) -> None:
    with app.app_context():
        for each in TENANTS:
            with tenancy.use(each):
                world.db.session.add(world.setting(name=f"by {each}"))
                world.db.session.commit()
        with tenancy.shared():
            query = sa.select(world.setting.name).order_by(world.setting.id)
            assert list(world.db.session.scalars(query)) == ["by uk", "by aus"]
            assert world.db.session.get_bind(mapper=world.setting) is world.db.engines["meta"]
        assert set(world.db.engines) == {None, "meta"}


def test_models_with_a_bind_key_need_no_shared_place(world: World, tmp_path: Path) -> None:
    tenancy = tenancy_below(tmp_path)
    app = world.app()
    Tenantry(app, tenancy=tenancy, db=world.db)
    with app.app_context(), tenancy.shared():
        world.db.create_all("meta")
        assert list(world.db.session.scalars(sa.select(world.setting))) == []
        with pytest.raises(TenantryError):
            world.db.session.scalars(sa.select(world.note)).all()
    tenancy.close()


def test_an_unknown_bind_key_never_falls_to_the_tenant(
    app: Flask, world: World, tenancy: Tenancy
) -> None:
    lost = world.db.Table("lost", sa.Column("id", sa.Integer), bind_key="nowhere")
    with app.app_context(), tenancy.use("uk"), pytest.raises(ConfigurationError, match="nowhere"):
        world.db.session.execute(sa.select(lost))


def test_shared_models_live_in_the_shared_place(app: Flask, world: World, tenancy: Tenancy) -> None:
    def tables() -> set[str]:
        return set(sa.inspect(world.db.engine).get_table_names())

    with app.app_context():
        with tenancy.shared():
            world.db.create_all(None)
            world.db.session.add(world.country(name="Tuvalu"))
            world.db.session.commit()
            assert tables() == {"country"}
        with tenancy.use("uk"):
            assert tables() == {"note"}
            assert list(world.db.session.scalars(sa.select(world.country.name))) == ["Tuvalu"]


def test_tables_are_created_reflected_and_dropped_in_the_tenants_database(
    app: Flask, world: World, tenancy: Tenancy
) -> None:
    with app.app_context(), tenancy.use("uk"):
        world.db.session.execute(sa.text("CREATE TABLE only_uk (id INTEGER)"))
        world.db.session.commit()
        world.db.reflect()
        assert "only_uk" in world.db.metadata.tables
        world.db.drop_all()
        assert sa.inspect(world.db.engine).get_table_names() == []
    with app.app_context(), tenancy.use("aus"):
        assert sa.inspect(world.db.engines[None]).get_table_names() == ["note"]


def test_events_on_the_session_are_heard(app: Flask, world: World, tenancy: Tenancy) -> None:
    heard: list[str] = []
    sa.event.listen(
        world.db.session, "before_commit", lambda session: heard.append(session.tenant.id)
    )
    with app.app_context(), tenancy.use("aus"):
        world.db.session.add(world.note(body="x"))
        world.db.session.commit()
    assert heard == ["aus"]


def test_recorded_queries_are_those_of_the_tenant(world: World, tenancy: Tenancy) -> None:
    app = world.app()
    app.config["SQLALCHEMY_RECORD_QUERIES"] = True
    Tenantry(app, tenancy=tenancy, db=world.db)
    world.fill(app, tenancy)
    with app.app_context(), tenancy.use("uk"):
        world.db.session.scalars(sa.select(world.note)).all()
        assert [query.statement for query in get_recorded_queries()] == [
            "SELECT note.id, note.body \nFROM note"
        ]


def test_the_helpers_of_the_extension_are_routed(
    app: Flask, world: World, tenancy: Tenancy
) -> None:
    with app.app_context(), tenancy.use("aus"):
        assert world.note.query.one().body == "aus"
        assert world.db.get_or_404(world.note, 1).body == "aus"
        assert world.db.one_or_404(sa.select(world.note)).body == "aus"
        assert [each.body for each in world.db.paginate(sa.select(world.note))] == ["aus"]


def test_an_outer_transaction_can_be_joined(app: Flask, world: World, tenancy: Tenancy) -> None:
    with app.app_context(), tenancy.use("uk"), world.db.engine.connect() as connection:
        transaction = connection.begin()
        session = world.db.session(bind=connection, join_transaction_mode="rollback_only")
        session.add(world.note(body="never"))
        session.commit()
        transaction.rollback()
        world.db.session.remove()
        assert list(world.db.session.scalars(sa.select(world.note.body))) == ["uk"]


@pytest.mark.parametrize("first", TENANTS)
@pytest.mark.parametrize("second", TENANTS)
def test_requests_inside_one_app_context_share_nothing(
    app: Flask, world: World, first: str, second: str
) -> None:
    sessions: list[Any] = []

    @app.get("/session")
    def session() -> str:
        note = world.db.session.scalars(sa.select(world.note)).one()
        assert not sessions or note not in sessions[-1]
        sessions.append(world.db.session())
        g.count = g.get("count", 0) + 1
        return f"{g.count} {note.body}"

    with app.app_context():
        client = app.test_client()
        for each in (first, second, first):
            assert client.get(f"/session?tenant={each}").text == f"1 {each}"
        assert len(set(map(id, sessions))) == 3
        assert all(not session.in_transaction() for session in sessions)


def test_a_test_request_context_has_a_session_of_its_own(
    app: Flask, world: World, tenancy: Tenancy
) -> None:
    with app.app_context():
        seen = []
        for each in ("uk", "aus", "uk"):
            with app.test_request_context(f"/?tenant={each}"):
                app.preprocess_request()
                seen.append(world.db.session())
                assert list(world.db.session.scalars(sa.select(world.note.body))) == [each]
        assert len(set(map(id, seen))) == 3
        assert tenancy.status()["held_by"] == {}


def test_one_db_serves_an_application_with_tenants_and_one_without(
    app: Flask, world: World
) -> None:
    plain = world.app("plain")
    plain.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{world.folder}/plain.db"
    world.db.init_app(plain)
    with plain.app_context():
        world.db.create_all()
        world.db.session.add(world.note(body="plain"))
        world.db.session.commit()
        assert not isinstance(world.db.session(), TenantSession)
    assert plain.test_client().get("/").text == "plain"
    assert app.test_client().get("/?tenant=uk").text == "uk"
    assert plain.test_client().get("/?tenant=uk").text == "plain"


def test_two_applications_with_one_db_have_tenants_of_their_own(
    app: Flask, world: World, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    second_tenancy = tenancy_below(tmp_path / "second", "uk")
    second = world.app("second")
    Tenantry(second, tenancy=second_tenancy, resolver=from_query(), db=world.db)
    world.fill(second, second_tenancy)
    second.test_client().post("/second?tenant=uk")
    assert second.test_client().get("/?tenant=uk").text == "uk,second"
    assert app.test_client().get("/?tenant=uk").text == "uk"
    assert second.test_client().get("/?tenant=aus").status_code == 404
    second_tenancy.close()


def test_sixteen_threads_never_see_another_tenant(tmp_path: Path, world: World) -> None:
    names = [f"t{number}" for number in range(6)]
    tenancy = tenancy_below(tmp_path, *names, max_connections=20)
    app = world.app()
    Tenantry(app, tenancy=tenancy, resolver=from_query(), db=world.db)
    world.fill(app, tenancy)

    @app.get("/all")
    def both() -> dict[str, Any]:
        note = world.db.session.get(world.note, 1)
        assert note is not None
        first = note.body
        world.db.session.commit()
        return {
            "seen": sorted(
                {first, note.body, *world.db.session.scalars(sa.select(world.note.body))}
            )
        }

    wrong: list[tuple[str, str]] = []
    with serving(app) as ask:

        def visit(number: int) -> None:
            for turn in range(10):
                each = names[(number + turn) % len(names)]
                answer = ask(f"/all?tenant={each}")
                if answer.text.strip() != f'{{"seen":["{each}"]}}':
                    wrong.append((each, answer.text))

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(visit, range(16)))
    assert wrong == []
    assert tenancy.status()["held_by"] == {}
    assert world.db.session.registry.registry == {}
    tenancy.close()


@pytest.fixture
def loggers() -> Iterator[None]:
    """Flask-Migrate's env.py sets up logging anew, which the other tests should not notice."""
    known = [logging.getLogger(), *map(logging.getLogger, logging.Logger.manager.loggerDict)]
    before = [(each, each.level, each.disabled, list(each.handlers)) for each in known]
    yield
    for each, level, disabled, handlers in before:
        each.setLevel(level)
        each.disabled = disabled
        each.handlers[:] = handlers


def test_the_same_on_postgresql(tmp_path: Path, world: World, postgresql: ServerAddress) -> None:
    with made(Kind("postgresql", "psycopg"), tmp_path, postgresql) as place:
        tenancy = place.tenancy(*TENANTS, tables=False, max_connections=8)
        app = world.app()
        Tenantry(app, tenancy=tenancy, resolver=from_query(), db=world.db)
        world.fill(app, tenancy)
        with serving(app) as ask:

            def visit(number: int) -> set[tuple[str, str]]:
                each = TENANTS[number % 2]
                if number % 3 == 0:
                    ask(f"/{each}?tenant={each}", "POST")
                return {(each, body) for body in ask(f"/?tenant={each}").text.split(",")}

            with ThreadPoolExecutor(16) as pool:
                seen = set().union(*pool.map(visit, range(60)))
        assert seen == {(each, each) for each in TENANTS}
        assert tenancy.status()["held_by"] == {}
        tenancy.close()


# Its env.py asks for `get_engine()` first; so do the files that people have.
@pytest.mark.filterwarnings("ignore:'get_engine' is deprecated")
@pytest.mark.usefixtures("loggers")
def test_migrations_of_flask_migrate_are_routed(
    app: Flask, world: World, tenancy: Tenancy, tmp_path: Path
) -> None:
    flask_migrate = pytest.importorskip("flask_migrate")
    directory = str(tmp_path / "migrations")

    def of_tenants(thing: Any, name: str | None, kind: str, *_: Any) -> bool:
        return kind != "table" or not is_shared(thing)

    flask_migrate.Migrate(app, world.db, directory=directory, include_object=of_tenants)
    with app.app_context():
        flask_migrate.init(directory)
        with tenancy.use("uk"):
            world.db.drop_all(None)
            flask_migrate.migrate(directory)
            flask_migrate.upgrade(directory)
            tables = {"note", "alembic_version"}
            assert set(sa.inspect(world.db.engine).get_table_names()) == tables
        with tenancy.use("aus"):
            assert sa.inspect(world.db.engine).get_table_names() == ["note"]
            world.db.drop_all(None)
            flask_migrate.upgrade(directory)
            assert set(sa.inspect(world.db.engine).get_table_names()) == tables
        with pytest.raises(NoTenantError):
            flask_migrate.upgrade(directory)


# The drop-in --------------------------------------------------------------------------------


@pytest.fixture
def seed(tmp_path: Path) -> Iterator[Flask]:
    app = create_seed(tmp_path)
    app.test_cli_runner().invoke(args=["create-tables"], catch_exceptions=False)
    yield app
    close(seed_db)


def test_the_seeds_demonstration(seed: Flask, tmp_path: Path) -> None:
    client = seed.test_client()
    assert client.get("/?tenant=test1").json == {"notes": ["a note of test1"]}
    assert client.get("/?tenant=test2").json == {"notes": ["a note of test2"]}
    assert client.get("/?tenant=test1").json == {"notes": ["a note of test1"]}
    assert {path.name for path in tmp_path.glob("*.db")} == {"test1.db", "test2.db"}
    import sqlite3

    for name in ("test1", "test2"):
        file = sqlite3.connect(tmp_path / f"{name}.db")
        assert file.execute("SELECT text FROM notes").fetchall() == [(f"a note of {name}",)]
        file.close()


def test_the_seed_without_a_tenant_is_an_error(seed: Flask) -> None:
    assert seed.test_client().get("/").status_code == 400
    seed.before_request_funcs[None] = seed.before_request_funcs[None][:1]
    seed.testing = True
    with pytest.raises(RuntimeError, match=r"^No tenant chosen\.$"):
        seed.test_client().get("/")
    with seed.app_context(), pytest.raises(NoTenantChosenError):
        seed_db.create_all()
    with seed.app_context(), pytest.raises(NoTenantError):
        seed_db.engine  # noqa: B018


def test_the_seed_with_a_second_choice_is_an_error(seed: Flask) -> None:
    seed.testing = True

    @seed.get("/again")
    def again() -> str:
        seed_db.choose_tenant(request.args["then"])
        return "chosen twice"

    words = r"^Switching tenant in the middle of the request\.$"
    for then in ("test2", "test1"):
        with pytest.raises(RuntimeError, match=words) as raised:
            seed.test_client().get(f"/again?tenant=test1&then={then}")
        assert isinstance(raised.value, TenantChosenError)
        assert isinstance(raised.value, TenantSwitchError)
        assert current() is None
    assert seed.test_client().get("/?tenant=test2").json == {"notes": ["a note of test2"]}


def test_the_seed_with_an_unknown_tenant_is_404(seed: Flask) -> None:
    for name in ("test3", "default", "test1.db", "../test1", "TEST1", ""):
        assert seed.test_client().get("/", query_string={"tenant": name}).status_code == 404
    with seed.app_context(), pytest.raises(UnknownTenantError):
        seed_db.choose_tenant("test3")


def test_the_seed_in_a_fixtures_app_context(seed: Flask) -> None:
    with seed.app_context():
        client = seed.test_client()
        for name in ("test1", "test2", "test1"):
            assert client.get(f"/?tenant={name}").json == {"notes": [f"a note of {name}"]}
        seed_db.choose_tenant("test1")
        assert client.get("/?tenant=test2").json == {"notes": ["a note of test2"]}
        assert seed_db.session.scalars(sa.select(SeedNote.text)).all() == ["a note of test1"]
        with pytest.raises(TenantChosenError):
            seed_db.choose_tenant("test2")
    assert current() is None


def test_tables_are_made_in_a_tenant_by_its_bind_key(tmp_path: Path) -> None:
    app = create_seed(tmp_path)
    with app.app_context():
        seed_db.create_all("test1")
        with seed_db.tenancy.use("test1"):
            assert sa.inspect(seed_db.engine).get_table_names() == ["notes"]
        with seed_db.tenancy.use("test2"):
            assert sa.inspect(seed_db.engine).get_table_names() == []
        seed_db.drop_all(["test1"])
        assert sa.inspect(seed_db.engines["test1"]).get_table_names() == []
    close(seed_db)


DropIn = Callable[..., tuple[Flask, MultiTenantSQLAlchemy]]


@pytest.fixture
def drop_in(tmp_path: Path) -> Iterator[DropIn]:
    """``drop_in(**settings)``: an application with the drop-in, closed at the end."""
    made: list[MultiTenantSQLAlchemy] = []

    def make(**settings: Any) -> tuple[Flask, MultiTenantSQLAlchemy]:
        app = Flask("shop", instance_path=str(tmp_path))
        app.config.update(settings)
        made.append(MultiTenantSQLAlchemy(app))
        return app, made[-1]

    yield make
    for db in made:
        close(db)


def test_a_bind_that_a_model_names_is_no_tenant(drop_in: DropIn) -> None:
    app, db = drop_in(SQLALCHEMY_BINDS={"uk": "sqlite:///uk.db", "meta": "sqlite:///meta.db"})
    table = db.Table("settings", sa.Column("id", sa.Integer), bind_key="meta")
    with app.app_context():
        assert [each.id for each in db.tenancy.tenants()] == ["uk"]
        with pytest.raises(UnknownTenantError):
            db.choose_tenant("meta")
        with db.tenancy.shared():
            db.create_all("meta")
            assert db.session.execute(sa.select(table)).all() == []
            db.session.remove()


def test_with_a_default_uri_it_is_the_original(drop_in: DropIn) -> None:
    app, db = drop_in(
        SQLALCHEMY_DATABASE_URI="sqlite:///main.db",
        SQLALCHEMY_BINDS={"uk": "sqlite:///uk.db"},
    )
    assert "tenantry" not in app.extensions
    with app.app_context():
        assert db.engine is db.engines[None]
        assert not isinstance(db.session(), TenantSession)
        with pytest.raises(ConfigurationError, match="SQLALCHEMY_DATABASE_URI"):
            db.choose_tenant("uk")


def test_settings_make_binds_tenants_beside_a_default_uri(tmp_path: Path, drop_in: DropIn) -> None:
    app, db = drop_in(
        SQLALCHEMY_DATABASE_URI="sqlite:///main.db",
        SQLALCHEMY_BINDS={"uk": "sqlite:///uk.db", "other": "sqlite:///other.db"},
        TENANTRY_BINDS=["uk"],
    )
    with app.app_context():
        assert [each.id for each in db.tenancy.tenants()] == ["uk"]
        with pytest.raises(NoTenantChosenError):
            db.session()
        with db.tenancy.shared():
            assert db.session.scalar(sa.text("SELECT 1")) == 1
        with pytest.raises(UnknownTenantError):
            db.choose_tenant("other")
        db.choose_tenant("uk")
        assert db.session.scalar(sa.text("SELECT 1")) == 1
    assert {path.name for path in tmp_path.glob("*.db")} == {"main.db", "uk.db"}


@pytest.mark.parametrize(
    ("binds", "names", "words"),
    [
        ({"uk": "sqlite://"}, True, "in memory"),
        ({"UK": "sqlite:///uk.db"}, True, "not a tenant id"),
        ({"uk": "sqlite:///uk.db"}, ["aus"], "'aus', which is not in SQLALCHEMY_BINDS"),
        ({"uk": "sqlite:///a.db", "aus": "sqlite:///a.db"}, True, "'uk'"),
    ],
)
def test_binds_that_cannot_be_tenants_are_named(
    drop_in: DropIn, binds: dict[str, str], names: Any, words: str
) -> None:
    app, db = drop_in(SQLALCHEMY_BINDS=binds, TENANTRY_BINDS=names)
    with app.app_context(), pytest.raises(ConfigurationError, match=words):
        db.choose_tenant("uk")


def test_an_application_gets_its_tenants_engine_options(drop_in: DropIn) -> None:
    app, db = drop_in(
        SQLALCHEMY_BINDS={"uk": "sqlite:///uk.db"},
        SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 3, "pool_pre_ping": True, "query_cache_size": 7},
        SQLALCHEMY_ECHO=False,
    )
    with app.app_context():
        db.choose_tenant("uk")
        assert db.engine.pool._pre_ping is True
        assert db.session.scalar(sa.text("SELECT 1")) == 1


def test_the_drop_in_and_another_tenancy_are_not_mixed(tmp_path: Path, tenancy: Tenancy) -> None:
    for settings in (
        {"SQLALCHEMY_BINDS": {"uk": "sqlite:///uk.db"}},
        {"SQLALCHEMY_DATABASE_URI": "sqlite:///main.db"},
    ):
        app = Flask("shop", instance_path=str(tmp_path))
        app.config.update(settings)
        with pytest.raises(ConfigurationError, match="has its tenants in SQLALCHEMY_BINDS"):
            Tenantry(app, tenancy=tenancy, db=MultiTenantSQLAlchemy())
        Tenantry(app, tenancy=tenancy)
        if "SQLALCHEMY_BINDS" in settings:
            with pytest.raises(ConfigurationError, match="has its tenants in SQLALCHEMY_BINDS"):
                MultiTenantSQLAlchemy(app)


def test_sessions_that_cannot_be_taken_over_are_named(tmp_path: Path, tenancy: Tenancy) -> None:
    class Own(SQLAlchemy):
        def _make_session_factory(self, options: dict[str, Any]) -> Any:
            return lambda: Session(self)

    app = Flask("shop", instance_path=str(tmp_path))
    with pytest.raises(ConfigurationError, match="come from a function"):
        Tenantry(app, tenancy=tenancy, db=Own())


def test_a_new_drop_in_for_the_same_application(drop_in: DropIn) -> None:
    app, _ = drop_in(SQLALCHEMY_BINDS={"uk": "sqlite:///uk.db"})
    del app.extensions["sqlalchemy"]
    db = MultiTenantSQLAlchemy(app)
    with app.app_context():
        db.choose_tenant("uk")
        assert db.session.scalar(sa.text("SELECT 1")) == 1
    close(db)
