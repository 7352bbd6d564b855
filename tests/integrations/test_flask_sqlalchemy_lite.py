"""Flask-SQLAlchemy-Lite: an application's own ``db`` goes to the current tenant's database."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, g
from flask_sqlalchemy_lite import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tenantry import AsyncTenantSession, Tenancy, TenantSession
from tenantry.errors import CrossTenantError, NoTenantError, UnsupportedError
from tenantry.integrations.flask import Tenantry
from tenantry.resolvers import from_query
from tests.integrations.places import serving


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]


class Meta(DeclarativeBase):
    pass


class Setting(Meta):
    __tablename__ = "settings"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def tenancy_below(folder: Path, *tenant_ids: str) -> Tenancy:
    urls = {each: f"sqlite:///{folder}/{each}.db" for each in tenant_ids}
    tenancy = Tenancy.from_mapping(urls, max_connections=30)
    for each in tenant_ids:
        with tenancy.use(each), tenancy.session() as session:
            Base.metadata.create_all(session.connection())
            session.add(Note(body=each))
            session.commit()
    return tenancy


def make(tenancy: Tenancy, folder: Path, **options: Any) -> tuple[Flask, SQLAlchemy]:
    """An application as it is written for one database, then one of many tenants."""
    app = Flask("shop", instance_path=str(folder / "instance"))
    app.testing = True
    app.config["SQLALCHEMY_ENGINES"] = {
        "default": f"sqlite:///{folder}/default.db",
        "meta": f"sqlite:///{folder}/meta.db",
    }
    db = SQLAlchemy(app, **options)

    @app.get("/")
    def index() -> str:
        return ",".join(db.session.scalars(sa.select(Note.body)))

    Tenantry(app, tenancy=tenancy, resolver=from_query(), db=db)
    return app, db


@pytest.fixture
def tenancy(tmp_path: Path) -> Iterator[Tenancy]:
    tenancy = tenancy_below(tmp_path, "uk", "aus")
    yield tenancy
    tenancy.close()


def test_an_existing_db_goes_to_the_tenants_database(tenancy: Tenancy, tmp_path: Path) -> None:
    app, db = make(tenancy, tmp_path)
    client = app.test_client()
    for each in ("uk", "aus", "uk"):
        assert client.get(f"/?tenant={each}").text == each
    assert client.get("/").status_code == 400
    assert isinstance(db, SQLAlchemy)
    assert app.extensions["sqlalchemy"] is db
    assert not (tmp_path / "default.db").exists()
    assert tenancy.status()["held_by"] == {}


def test_a_db_that_is_not_registered_yet_is_registered(tenancy: Tenancy) -> None:
    app, db = Flask("shop"), SQLAlchemy()
    Tenantry(app, tenancy=tenancy, db=db)
    with app.app_context(), tenancy.use("uk"):
        assert list(db.session.scalars(sa.select(Note.body))) == ["uk"]


def test_sessions_are_kept_apart_by_tenant_and_name(tenancy: Tenancy, tmp_path: Path) -> None:
    app, db = make(tenancy, tmp_path, session_options={"expire_on_commit": False})
    with app.app_context():
        with tenancy.use("uk"):
            mine = db.session
            assert db.session is mine
            assert db.get_session("other") is not mine
            assert isinstance(mine, TenantSession)
            assert mine.expire_on_commit is False
            note = mine.scalars(sa.select(Note)).one()
        with tenancy.use("aus"):
            assert db.session is not mine
            assert list(db.session.scalars(sa.select(Note.body))) == ["aus"]
            with pytest.raises(CrossTenantError):
                db.session.add(note)
            with pytest.raises(CrossTenantError):
                mine.scalars(sa.select(Note))
        with tenancy.use("uk"):
            assert db.session is mine
    assert tenancy.status()["held_by"] == {}


def test_nobody_current_is_refused_and_no_default_is_read(tenancy: Tenancy, tmp_path: Path) -> None:
    app, db = make(tenancy, tmp_path)
    with app.app_context():
        for attempt in (
            lambda: db.session,
            lambda: db.sessionmaker(),
            lambda: db.engine.connect(),
            lambda: db.async_session,
        ):
            with pytest.raises(NoTenantError):
                attempt()
    assert not (tmp_path / "default.db").exists()


def test_engines_and_named_engines(tenancy: Tenancy, tmp_path: Path) -> None:
    app, db = make(tenancy, tmp_path, session_options={"binds": {Meta: "meta"}})
    with app.app_context():
        meta = db.get_engine("meta")
        Meta.metadata.create_all(meta)
        assert set(db.engines) == {"default", "meta"}
        assert dict(db.engines.items())["meta"] is meta is db.engines.get("meta")
        assert db.engines.get("nowhere") is None
        with pytest.raises(KeyError, match="nowhere"):
            db.get_engine("nowhere")
        for each in ("uk", "aus"):
            with tenancy.use(each):
                db.session.add(Setting(name=f"by {each}"))
                db.session.commit()
                with db.engine.connect() as connection:
                    assert connection.scalar(sa.select(Note.body)) == each
        with meta.connect() as connection:
            assert list(connection.scalars(sa.select(Setting.name))) == ["by uk", "by aus"]
        meta.dispose()


def test_a_session_class_of_the_application_stays(tenancy: Tenancy, tmp_path: Path) -> None:
    class Mine(Session):
        def hello(self) -> str:
            return "hello"

    app, db = make(tenancy, tmp_path, session_options={"class_": Mine})
    with app.app_context(), tenancy.use("uk"):
        assert isinstance(db.session, Mine)
        assert isinstance(db.session, TenantSession)
        assert db.session.hello() == "hello"
        db.sessionmaker.configure(autoflush=False)
        with db.sessionmaker() as session:
            assert isinstance(session, Mine)
            assert session.autoflush is False
            assert session.scalar(sa.select(Note.body)) == "uk"


@pytest.mark.parametrize("first", ["uk", "aus"])
@pytest.mark.parametrize("second", ["uk", "aus"])
def test_requests_inside_one_app_context_share_nothing(
    tenancy: Tenancy, tmp_path: Path, first: str, second: str
) -> None:
    app, db = make(tenancy, tmp_path)
    seen: list[Session] = []

    @app.get("/session")
    def session() -> str:
        seen.append(db.session)
        g.count = g.get("count", 0) + 1
        return f"{g.count} {db.session.scalar(sa.select(Note.body))}"

    with app.app_context():
        client = app.test_client()
        for each in (first, second, first):
            assert client.get(f"/session?tenant={each}").text == f"1 {each}"
        assert len(set(map(id, seen))) == 3
        for each in ("uk", "aus"):
            with app.test_request_context(f"/?tenant={each}"):
                app.preprocess_request()
                assert db.session.scalar(sa.select(Note.body)) == each
        assert tenancy.status()["held_by"] == {}


def test_the_asynchronous_half_is_routed(tenancy: Tenancy, tmp_path: Path) -> None:
    pytest.importorskip("asgiref")
    app, db = make(tenancy, tmp_path)

    @app.get("/async")
    async def view() -> str:
        async with db.async_sessionmaker() as session:
            assert isinstance(session, AsyncTenantSession)
            found = [await session.scalar(sa.select(Note.body))]
        async with db.async_engine.connect() as connection:
            found.append(await connection.scalar(sa.select(Note.body)))
        await tenancy.aclose()
        return ",".join(map(str, found))

    client = app.test_client()
    for each in ("uk", "aus", "uk"):
        assert client.get(f"/async?tenant={each}").text == f"{each},{each}"


def test_what_cannot_reach_a_tenants_database_is_refused(tenancy: Tenancy, tmp_path: Path) -> None:
    app, db = make(tenancy, tmp_path)
    for isolation in ("test_isolation", "async_test_isolation"):
        with pytest.raises(UnsupportedError, match="tenants of its own"):
            getattr(db, isolation)()
    takes_none = pytest.raises(UnsupportedError, match="takes no bind")
    with app.app_context(), tenancy.use("uk"), takes_none:
        db.sessionmaker(bind=sa.create_engine("sqlite://"))


def test_an_application_without_tenants_is_as_before(tenancy: Tenancy, tmp_path: Path) -> None:
    _, db = make(tenancy, tmp_path)
    plain = Flask("plain", instance_path=str(tmp_path / "plain"))
    plain.config["SQLALCHEMY_ENGINES"] = {"default": "sqlite://"}
    db.init_app(plain)
    with plain.app_context():
        engine = db.engine
        Base.metadata.create_all(engine)
        assert not isinstance(db.session, TenantSession)
        assert list(db.session.scalars(sa.select(Note.body))) == []
    engine.dispose()


def test_sixteen_threads_never_see_another_tenant(tmp_path: Path) -> None:
    names = [f"t{number}" for number in range(6)]
    tenancy = tenancy_below(tmp_path, *names)
    app, _ = make(tenancy, tmp_path)
    wrong: list[tuple[str, str]] = []
    with serving(app) as ask:

        def visit(number: int) -> None:
            for turn in range(10):
                each = names[(number + turn) % len(names)]
                answer = ask(f"/?tenant={each}")
                if answer.text != each:
                    wrong.append((each, answer.text))

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(visit, range(16)))
    assert wrong == []
    assert tenancy.status()["held_by"] == {}
    tenancy.close()
