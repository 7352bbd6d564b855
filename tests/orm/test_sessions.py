"""A session is one tenant's from birth to end, whoever is current meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import ForeignKey, MetaData, String, create_engine, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from tenantry import (
    AsyncTenantSession,
    Placement,
    Server,
    State,
    Tenancy,
    Tenant,
    TenantSession,
)
from tenantry.directory import MappingDirectory
from tenantry.errors import (
    CallerError,
    ConfigurationError,
    CrossTenantError,
    NoTenantError,
    TenantReadOnlyError,
    TenantSuspendedError,
    UnknownTenantError,
)
from tests.places import Author, Note


def test_it_serves_its_own_tenant_after_its_block(tenancy: Tenancy) -> None:
    with tenancy.use("uk"):
        session = tenancy.session()
    with session:
        assert session.scalar(select(Note.tenant)) == "uk"


@pytest.mark.parametrize(
    "action",
    [
        lambda session: session.scalar(select(Note.tenant)),
        lambda session: session.get(Note, 1),
        lambda session: session.execute(text("SELECT 1")),
        lambda session: session.connection(),
        lambda session: session.query(Note).all(),
        lambda session: (session.add(Note(tenant="uk")), session.flush()),
        lambda session: session.merge(Note(id=1, tenant="x")),
    ],
    ids=["select", "get", "text", "connection", "query", "flush", "merge"],
)
def test_it_refuses_to_work_under_another_tenant(tenancy: Tenancy, action: object) -> None:
    assert callable(action)
    with tenancy.use("uk"):
        session = tenancy.session()
        session.get(Note, 1)
    with session, tenancy.use("aus"), pytest.raises(CrossTenantError, match=r"'uk'.*'aus'"):
        action(session)


def test_an_identity_map_hit_under_another_tenant_is_refused(tenancy: Tenancy) -> None:
    with tenancy.use("uk"):
        session = tenancy.session()
        kept = session.get(Note, 1)
    with session, tenancy.use("aus"), pytest.raises(CrossTenantError):
        assert session.get(Note, 1) is kept


def test_expired_attributes_and_lazy_loads_under_another_tenant_are_refused(
    tenancy: Tenancy,
) -> None:
    with tenancy.use("uk"):
        session = tenancy.session()
        note = session.get(Note, 1)
        assert note is not None
        session.commit()
    with session:
        with tenancy.use("aus"), pytest.raises(CrossTenantError):
            _ = note.tenant
        assert note.tenant == "uk"
        with tenancy.use("aus"), pytest.raises(CrossTenantError):
            _ = note.author
        assert note.author is not None
        assert note.author.name == "uk"


def test_an_open_connection_is_refused_under_another_tenant(tenancy: Tenancy) -> None:
    with (
        tenancy.use("uk"),
        tenancy.engine.connect() as connection,
        tenancy.use("aus", switch=True),
        pytest.raises(CrossTenantError),
    ):
        connection.execute(text("SELECT 1"))


def test_a_sessionmaker_with_our_class_is_pinned_at_its_call(tenancy: Tenancy) -> None:
    maker = sessionmaker(tenancy.engine, class_=TenantSession)
    with pytest.raises(NoTenantError):
        maker()
    with tenancy.use("uk"):
        session = maker()
    with session:
        assert session.tenant is not None
        assert session.tenant.id == "uk"
        assert session.scalar(select(Note.tenant)) == "uk"


def test_a_plain_session_is_pinned_to_the_tenant_it_meets_first(tenancy: Tenancy) -> None:
    with Session(tenancy.engine) as session:
        with pytest.raises(NoTenantError):
            session.scalar(select(Note.tenant))
        with tenancy.use("uk"):
            assert session.scalar(select(Note.tenant)) == "uk"
            session.commit()
        with tenancy.use("aus"), pytest.raises(CrossTenantError):
            session.scalar(select(Note.tenant))


async def test_plain_asynchronous_sessions_are_pinned_too(tenancy: Tenancy) -> None:
    maker = async_sessionmaker(tenancy.aengine, expire_on_commit=False)
    async with maker() as session:
        assert isinstance(session, AsyncSession)
        async with tenancy.use("uk"):
            assert await session.scalar(select(Note.tenant)) == "uk"
        async with tenancy.use("aus"):
            with pytest.raises(CrossTenantError):
                await session.scalar(select(Note.tenant))
    ours = async_sessionmaker(tenancy.aengine, class_=AsyncTenantSession)
    async with tenancy.use("aus"), ours() as mine:
        assert mine.tenant is not None
        assert await mine.scalar(select(Note.tenant)) == "aus"
    await tenancy.aclose()


async def test_tasks_keep_their_own_tenant_side_by_side(tenancy: Tenancy) -> None:
    async def read(tenant_id: str) -> set[str]:
        seen: set[str] = set()
        async with tenancy.use(tenant_id):
            for _ in range(5):
                async with tenancy.asession() as session:
                    seen.update(await session.scalars(select(Note.tenant)))
                await asyncio.sleep(0)
        return seen

    ids = ["uk", "aus"] * 8
    assert await asyncio.gather(*map(read, ids)) == [{each} for each in ids]
    await tenancy.aclose()


async def test_streams_and_server_side_cursors_are_the_tenants(tenancy: Tenancy) -> None:
    with tenancy.use("uk"), tenancy.session() as session:
        rows = session.execute(select(Note).execution_options(yield_per=1))
        assert [note.tenant for (note,) in rows] == ["uk"]
    async with tenancy.use("aus"), tenancy.asession() as asession:
        stream = await asession.stream_scalars(select(Note))
        assert [note.tenant async for note in stream] == ["aus"]
    await tenancy.aclose()


def test_a_session_needs_a_routed_engine() -> None:
    with pytest.raises(ConfigurationError, match="needs an engine of a Tenancy"):
        TenantSession(create_engine("sqlite://"))  # type: ignore[arg-type]  # wrong on purpose


# States and generations -----------------------------------------------------------------------


def replaced(tenancy: Tenancy, tenant_id: str, **changes: object) -> Tenant:
    directory = tenancy.directory
    assert isinstance(directory, MappingDirectory)
    before = tenancy.get(tenant_id)
    state = changes.get("state", before.state)
    assert isinstance(state, State)
    return directory.replace(before.with_state(state), expected=before)


def test_a_suspended_tenant_is_refused_at_the_next_transaction(tenancy: Tenancy) -> None:
    with tenancy.use("uk"), tenancy.session() as session:
        session.get(Note, 1)
        session.commit()
        replaced(tenancy, "uk", state=State.SUSPENDED)
        with pytest.raises(TenantSuspendedError, match="'uk' is suspended"):
            session.scalar(select(Note.tenant))
        with pytest.raises(TenantSuspendedError), tenancy.engine.connect():
            pass
    with pytest.raises(TenantSuspendedError), tenancy.use("uk"):
        pass
    replaced(tenancy, "uk", state=State.READY)
    with tenancy.use("uk"), tenancy.session() as session:
        assert session.scalar(select(Note.tenant)) == "uk"


def test_a_read_only_tenant_is_read_and_not_written(tenancy: Tenancy) -> None:
    replaced(tenancy, "uk", state=State.READ_ONLY)
    with tenancy.use("uk"), tenancy.session() as session:
        assert session.scalar(select(Note.tenant)) == "uk"
        session.add(Note(tenant="uk"))
        with pytest.raises(TenantReadOnlyError, match=r"'uk'.*reads only"):
            session.flush()
        session.rollback()
        with pytest.raises(TenantReadOnlyError):
            session.execute(text("DELETE FROM notes"))
    replaced(tenancy, "uk", state=State.READY)
    with tenancy.use("uk"), tenancy.session() as session:
        session.add(Note(tenant="uk"))
        session.commit()


def test_a_tenant_created_anew_shares_nothing_with_the_old_one(
    tenancy: Tenancy, tmp_path: Path
) -> None:
    directory = tenancy.directory
    assert isinstance(directory, MappingDirectory)
    old = tenancy.get("uk")
    with tenancy.use("uk"):
        session = tenancy.session()
        note = session.get(Note, 1)
        session.commit()
    directory.remove(old)
    with session, pytest.raises(UnknownTenantError):
        session.scalar(select(Note.tenant))
    new = directory.add(Tenant("uk", Placement("main", database="uk_anew.db")))
    assert new.key != old.key
    assert new.generation > old.generation
    with session, pytest.raises(UnknownTenantError, match="created anew"):
        session.scalar(select(Note.tenant))
    with tenancy.use("uk"), tenancy.session() as later:
        Note.metadata.create_all(later.connection())
        assert later.scalars(select(Note)).all() == []
        with pytest.raises(CrossTenantError):
            later.add(note)


# Shared tables and named databases --------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class Country(Base):
    __tablename__ = "countries"
    __table_args__ = {"info": {"tenantry": "shared"}}
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40))


class Shop(Base):
    __tablename__ = "shops"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40))
    country_id: Mapped[int | None]


class Metric(Base):
    __tablename__ = "metrics"
    metadata = MetaData(info={"bind_key": "metrics"})
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40))


class Marked(Base):
    __tablename__ = "marked"
    __table_args__ = {"info": {"bind_key": "metrics"}}
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def mixed(tmp_path: Path) -> Iterator[Tenancy]:
    server = Server.from_url("main", f"sqlite:///{tmp_path}/", create_missing=True)
    tenants = [Tenant(each, Placement("main", database=f"{each}.db")) for each in ("uk", "aus")]
    servers = {"main": server}
    metrics = create_engine(f"sqlite:///{tmp_path}/metrics.db")
    Metric.metadata.create_all(metrics)
    Base.metadata.create_all(metrics, tables=[Base.metadata.tables["marked"]])
    tenancy = Tenancy(
        MappingDirectory(tenants, servers=servers),
        servers,
        shared=Placement("main", database="shared.db"),
        binds={"metrics": metrics},
    )
    own = MetaData()
    for each in ("countries", "shops"):
        Base.metadata.tables[each].to_metadata(own)
    for tenant_id in ("uk", "aus"):
        tenancy.create_all(own, tenant_id)
    with tenancy.shared():
        tenancy.create_all(own)
    yield tenancy
    tenancy.close()
    metrics.dispose()


def test_shared_tables_and_named_databases_beside_tenant_tables(mixed: Tenancy) -> None:
    for tenant_id in ("uk", "aus"):
        with mixed.use(tenant_id), mixed.session() as session:
            session.add_all(
                [
                    Country(name=f"known to {tenant_id}"),
                    Shop(name=tenant_id),
                    Metric(name=tenant_id),
                    Marked(),
                ]
            )
            session.commit()
    for tenant_id in ("uk", "aus"):
        with mixed.use(tenant_id), mixed.session() as session:
            assert session.scalars(select(Shop.name)).all() == [tenant_id]
            assert len(session.scalars(select(Country)).all()) == 2
            assert len(session.scalars(select(Metric)).all()) == 2
            assert len(session.scalars(select(Marked)).all()) == 2
            tables = inspect(session.connection()).get_table_names()
            assert tables == ["shops"]
    mixed.close()


def test_a_tenants_table_in_a_session_of_the_shared_place_is_refused(mixed: Tenancy) -> None:
    with mixed.shared(), mixed.session() as session:
        assert session.scalars(select(Country)).all() == []
        with pytest.raises(NoTenantError, match="'shops' is a tenant's"):
            session.scalars(select(Shop)).all()
        with pytest.raises(NoTenantError):
            session.add(Shop(name="nobody's"))
            session.flush()
    mixed.close()


def test_an_unknown_bind_key_says_what_to_give(mixed: Tenancy) -> None:
    class Lost(Base):
        __tablename__ = "lost"
        __table_args__ = {"info": {"bind_key": "nowhere"}}
        id: Mapped[int] = mapped_column(primary_key=True)

    with (
        mixed.use("uk"),
        mixed.session() as session,
        pytest.raises(ConfigurationError, match=r"nowhere.*Tenancy\(binds="),
    ):
        session.scalars(select(Lost)).all()
    mixed.close()


def test_several_metadatas_are_all_the_tenants(tenancy: Tenancy) -> None:
    class Other(DeclarativeBase):
        metadata = MetaData()

    class Extra(Other):
        __tablename__ = "extras"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant: Mapped[str]
        note_id: Mapped[int | None] = mapped_column(ForeignKey("extras.id"))

    for tenant_id in ("uk", "aus"):
        tenancy.create_all(Other.metadata, tenant_id)
        with tenancy.use(tenant_id), tenancy.session() as session:
            session.add(Extra(tenant=tenant_id))
            session.commit()
    for tenant_id in ("uk", "aus"):
        with tenancy.use(tenant_id), tenancy.session() as session:
            assert session.scalars(select(Extra.tenant)).all() == [tenant_id]
            assert session.scalars(select(Author.name)).all() == [tenant_id]


def test_pinning_the_process_after_a_connection_is_refused(tenancy: Tenancy) -> None:
    with pytest.raises(CallerError, match="before the first connection"):
        tenancy.pin("uk")
