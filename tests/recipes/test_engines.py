"""Answers about several engines, app factories and Flask: one deterministic case each.

Databases are SQLite files whose ``users`` hold the client's name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, Integer, MetaData, String, create_engine, make_url, select, text
from sqlalchemy.exc import (
    IntegrityError,
    PendingRollbackError,
    SAWarning,
    UnboundExecutionError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    declarative_base,
    mapped_column,
    scoped_session,
    sessionmaker,
)

from tenantry import Isolation, Placement, Server, Tenancy
from tenantry.errors import ConfigurationError, CrossTenantError
from tenantry.isolation import target_for
from tests.recipes.world import Base, User, Visit, World

CLIENTS = ("client1", "client2")
ONE: dict[str, Any] = {"pool_size": 1, "max_overflow": 0}


def names(session: Session) -> list[str]:
    return list(session.scalars(select(User.name)))


@pytest.fixture
def url_of(tmp_path: Path) -> Callable[[str], str]:
    for client in CLIENTS:
        engine = create_engine(f"sqlite:///{tmp_path / client}.db")
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            session.add(User(id=1, name=client))
            session.commit()
        engine.dispose()
    return lambda client: f"sqlite:///{tmp_path / client}.db"


@pytest.fixture
def engines(url_of: Callable[[str], str]) -> Iterator[dict[str, Engine]]:
    made = {client: create_engine(url_of(client)) for client in CLIENTS}
    yield made
    for engine in made.values():
        engine.dispose()


@pytest.fixture
def tenancy(url_of: Callable[[str], str]) -> Iterator[Tenancy]:
    tenancy = Tenancy.from_mapping({client: url_of(client) for client in CLIENTS})
    yield tenancy
    tenancy.close()


# RoutingSession.get_bind, by mapper


class Orders(DeclarativeBase):
    metadata = MetaData()


class Driver(Orders):
    __tablename__ = "drivers"
    id: Mapped[int] = mapped_column(primary_key=True)


class Dispatch(Orders):
    __tablename__ = "dispatch"
    id: Mapped[int] = mapped_column(primary_key=True)


def routing_session(engines: dict[str, Engine]) -> type[Session]:
    class RoutingSession(Session):
        def get_bind(self, mapper: Any = None, clause: Any = None, **options: Any) -> Any:
            if mapper and issubclass(mapper.class_, Driver):
                return engines["client1"]
            if self._flushing:
                return engines["client2"]
            return None  # where the answer ends without a word

    return RoutingSession


def test_routing_by_mapper_has_no_engine_for_reads_of_other_classes_and_text(
    engines: dict[str, Engine],
) -> None:
    Orders.metadata.create_all(engines["client1"])
    Orders.metadata.create_all(engines["client2"])
    with routing_session(engines)() as session:
        session.add_all([Driver(id=1), Dispatch(id=1)])
        session.commit()
        assert session.scalars(select(Driver)).one().id == 1
        for statement in (select(Dispatch), text("SELECT id FROM drivers")):
            with pytest.raises(AttributeError):  # of None
                session.execute(statement)


def test_routing_by_class_cannot_tell_clients_apart(engines: dict[str, Engine]) -> None:
    """Clients have the same classes, so the classes say nothing about who is asking."""
    make_session = sessionmaker(binds={User: engines["client1"]})
    make_session.configure(binds={User: engines["client2"]})
    with make_session() as session:  # of client1
        assert names(session) == ["client2"]
        with pytest.raises(UnboundExecutionError):
            session.execute(text("SELECT name FROM users"))


def test_tenantry_routes_by_tenant_and_keeps_other_databases_beside(
    tenancy: Tenancy, url_of: Callable[[str], str], tmp_path: Path
) -> None:
    class Reports(DeclarativeBase):
        metadata = MetaData(info={"bind_key": "reports"})

    class Report(Reports):
        __tablename__ = "reports"
        id: Mapped[int] = mapped_column(primary_key=True)

    reports = create_engine(f"sqlite:///{tmp_path / 'reports'}.db")
    Reports.metadata.create_all(reports)
    both = Tenancy.from_mapping(
        {client: url_of(client) for client in CLIENTS}, binds={"reports": reports}
    )
    for client in CLIENTS:
        with both.use(client), both.session() as session:
            session.add(Report(id=CLIENTS.index(client)))
            session.commit()
            assert names(session) == [client]
            assert list(session.scalars(text("SELECT name FROM users"))) == [client]
    with Session(reports) as plain:
        assert len(plain.scalars(select(Report)).all()) == 2
    both.close()
    reports.dispose()


# A sessionmaker for each engine


def test_an_engine_per_client_does_not_keep_objects_apart(engines: dict[str, Engine]) -> None:
    sessions = {client: sessionmaker(engines[client]) for client in CLIENTS}
    with sessions["client1"]() as session:
        user = session.get(User, 1)
    with sessions["client2"]() as session:
        assert user is not None
        session.merge(user)
        session.commit()
        assert names(session) == ["client1"]


def test_tenantry_refuses_the_foreign_object(tenancy: Tenancy) -> None:
    with tenancy.session("client1") as session:
        user = session.get(User, 1)
    with tenancy.session("client2") as session:
        with pytest.raises(CrossTenantError):
            session.merge(user)
        assert names(session) == ["client2"]


# The functions that take the app: get_engine, get_session, get_base, init_db


class App:
    """What the answer needs of an application: a configuration."""

    def __init__(self, uri: Callable[[], str]) -> None:
        self.config: dict[str, Any] = {"DATABASE_URI": uri}


def get_engine(app: App) -> Engine:
    engine: Engine = app.config.setdefault("DB_ENGINE", create_engine(app.config["DATABASE_URI"]()))
    return engine


def get_session(app: App) -> scoped_session[Session]:
    engine = get_engine(app)
    session: scoped_session[Session] = app.config.setdefault(
        "DB_SESSION", scoped_session(sessionmaker(autoflush=False, bind=engine))
    )
    return session


def test_a_cached_engine_is_the_first_clients_for_ever(url_of: Callable[[str], str]) -> None:
    asked: list[str] = []
    now = ["client1"]

    def uri() -> str:
        asked.append(now[0])
        return url_of(now[0])

    app = App(uri)
    for client in CLIENTS:
        now[0] = client
        session = get_session(app)
        assert names(session()) == ["client1"]
        session.remove()
    # And `setdefault` builds an engine at each call, to throw it away.
    assert asked == ["client1", "client2"]
    get_engine(app).dispose()


def test_a_session_for_the_whole_app_fails_every_test_after_the_first(
    url_of: Callable[[str], str],
) -> None:
    app = App(lambda: url_of("client1"))
    session = get_session(app)
    outcomes: list[type[Exception]] = []
    for _ in range(3):  # one parametrised test that expects an IntegrityError
        try:
            session.add(User(id=1, name="again"))
            session.flush()
        except (IntegrityError, PendingRollbackError) as error:
            outcomes.append(type(error))
    assert outcomes == [IntegrityError, PendingRollbackError, PendingRollbackError]
    session.remove()
    get_engine(app).dispose()


def test_models_imported_once_are_missing_from_the_second_base(tmp_path: Path) -> None:
    """What ``init_db`` suffers from: a new Base per app, and modules imported once per process."""
    (tmp_path / "shop_models.py").write_text(
        "from sqlalchemy import Column, Integer\n"
        "from tests.recipes import test_engines\n"
        "class Item(test_engines.base_of_app):\n"
        "    __tablename__ = 'items'\n"
        "    id = Column(Integer, primary_key=True)\n"
    )
    module: Any = sys.modules[__name__]
    found = []
    sys.path.insert(0, str(tmp_path))
    sys.modules["tests.recipes.test_engines"] = module
    try:
        for _ in range(2):
            module.base_of_app = declarative_base()
            __import__("shop_models")
            found.append(sorted(module.base_of_app.metadata.tables))
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("shop_models", None)
    assert found == [["items"], []]


def test_what_a_tutorial_makes_at_import_has_the_first_address_for_ever(
    url_of: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_database.py").write_text(
        "import os\n"
        "from sqlalchemy import create_engine\n"
        "from sqlalchemy.orm import scoped_session, sessionmaker\n"
        "engine = create_engine(os.environ['SHOP_URI'])\n"
        "db_session = scoped_session(sessionmaker(bind=engine))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for client in CLIENTS:
        monkeypatch.setenv("SHOP_URI", url_of(client))
        module = importlib.import_module("shop_database")
        assert names(module.db_session()) == ["client1"]
        module.db_session.remove()
        module.engine.dispose()
    del sys.modules["shop_database"]


def test_tenantry_needs_no_base_and_no_engine_of_its_own_per_app(
    url_of: Callable[[str], str],
) -> None:
    for _ in range(3):  # each test builds an application of its own
        tenancy = Tenancy.from_mapping({client: url_of(client) for client in CLIENTS})
        for client in CLIENTS:
            with tenancy.use(client):
                tenancy.create_all(Base.metadata)
                with tenancy.session() as session, pytest.raises(IntegrityError):
                    session.add(User(id=1, name="again"))
                    session.flush()
                with tenancy.session() as session:
                    assert names(session) == [client]
        tenancy.close()


# Flask-SQLAlchemy


def test_flask_sqlalchemy_reads_its_address_once(url_of: Callable[[str], str]) -> None:
    flask = pytest.importorskip("flask")
    extension = pytest.importorskip("flask_sqlalchemy")
    app = flask.Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = url_of("client1")
    db = extension.SQLAlchemy(app)
    seen = []
    for client in CLIENTS:
        with app.app_context():
            app.config["SQLALCHEMY_DATABASE_URI"] = url_of(client)
            seen += db.session.scalars(select(User.name))
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()
    assert seen == ["client1", "client1"]


def test_flask_sqlalchemy_by_tenantry(tenancy: Tenancy) -> None:
    flask = pytest.importorskip("flask")
    extension = pytest.importorskip("flask_sqlalchemy")
    from tenantry.integrations.flask import Tenantry
    from tenantry.resolvers import from_header

    app = flask.Flask("shop")
    db = extension.SQLAlchemy()
    Tenantry(app, tenancy=tenancy, resolver=from_header("X-Client"), db=db)

    @app.get("/")  # type: ignore[untyped-decorator]  # flask is imported if it is there
    def index() -> list[str]:
        return list(db.session.scalars(select(User.name)))

    visitor = app.test_client()
    for client in (*CLIENTS, *CLIENTS):
        assert visitor.get("/", headers={"X-Client": client}).json == [client]


# "Do I have to commit or rollback after a GET?"


def test_a_read_that_is_never_ended_keeps_its_transaction_and_connection(world: World) -> None:
    engine = world.engine(pool_size=1, max_overflow=0, pool_timeout=0.2)
    db_session = scoped_session(sessionmaker(engine))
    kept = db_session.get_one(User, 1)
    assert kept.name == "public"
    idle = (
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' "
        f"AND usename = '{world.login}'"
    )
    assert world.execute(idle) == [(1,)]
    with pytest.raises(PoolTimeout):  # the next thread finds no connection
        Session(engine).scalars(select(User.name)).all()
    # And this thread goes on with the object it has, whatever has changed since.
    world.execute("UPDATE public.users SET name = 'renamed'")
    assert db_session.get_one(User, 1) is kept
    assert kept.name == "public"
    db_session.remove()
    assert world.execute(idle) == [(0,)]


def test_a_session_per_thread_is_of_the_client_before(engines: dict[str, Engine]) -> None:
    """``scoped_session`` knows threads; only ``remove()`` tells it that a request is over."""
    db_session = scoped_session(sessionmaker(engines["client1"]))
    assert names(db_session()) == ["client1"]
    # The teardown did not run. The next request, of client2, is told so and goes on.
    with pytest.warns(SAWarning, match="already present"):
        db_session.configure(bind=engines["client2"])
    assert names(db_session()) == ["client1"]
    db_session.remove()

    # With it, what one thread says is still meant for all.
    db_session.configure(bind=engines["client1"])
    with ThreadPoolExecutor(1) as other:
        other.submit(lambda: db_session.configure(bind=engines["client2"])).result()
    assert names(db_session()) == ["client2"]
    db_session.remove()


def test_tenantry_asks_per_block_and_not_per_thread(tenancy: Tenancy) -> None:
    def read(client: str) -> list[str]:
        with tenancy.use(client), tenancy.session() as session:
            return names(session)

    with ThreadPoolExecutor(2) as threads:
        for client in (*CLIENTS, *CLIENTS):  # the same threads again and again
            assert threads.submit(read, client).result() == [client]
            with tenancy.use("client1"):
                assert threads.submit(read, client).result() == [client]


def test_tenantry_ends_reads_with_their_block(world: World) -> None:
    tenancy = world.tenancy(max_connections=1)
    for client in (*world.clients, *world.clients):
        with tenancy.use(client), tenancy.session() as session:
            assert names(session) == [client]
    assert tenancy.status()["held_by"] == {}
    state = f"SELECT DISTINCT state FROM pg_stat_activity WHERE usename = '{world.login}'"
    assert world.execute(state) == [("idle",)]


# Several databases on one server (mssql+pyodbc)


def test_an_engine_is_for_one_database_and_bases_take_no_engine(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'one'}.db")
    # Since 2.0 the first argument is no engine; before, it was for every table of the Base.
    with pytest.raises(TypeError):
        declarative_base(engine)  # type: ignore[call-arg, arg-type]  # as in the question


def test_on_sql_server_a_dot_in_a_schema_names_another_database() -> None:
    from sqlalchemy import Column, Table

    table = Table("users", MetaData(schema="client2.dbo"), Column("name", String, key="n"))
    table.append_column(Column("id", Integer, primary_key=True))
    statement = select(table.c.id).compile(dialect=make_url("mssql+pyodbc://").get_dialect()())
    assert "client2.dbo.users" in str(statement)
    server = Server.from_url("main", "mssql+pyodbc://app@db/client1", switch="map")
    with pytest.raises(ConfigurationError, match="dot"):
        target_for(
            None,
            Placement("main", Isolation.SCHEMA, schema="client2.dbo"),
            server,
            "pyodbc",
            False,
        )


def test_visits_are_written_to_the_clients_own_database(tenancy: Tenancy) -> None:
    for client in CLIENTS:
        with tenancy.use(client), tenancy.session() as session:
            session.add(Visit(client=client))
            session.commit()
            assert list(session.scalars(select(Visit.client))) == [client]
