"""The tenant holds through everything that can happen to a transaction, or it is refused."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.orm import Session

from tenantry import Isolation, Tenancy
from tenantry.errors import CallerError, CrossTenantError, UnsupportedError
from tenantry.tenant import Switch
from tests.places import Author, Door, Note, Place

BOTH = ("uk", "aus")


@pytest.fixture
def filled(door: Door) -> Door:
    for tenant_id in BOTH:
        door.run(tenant_id, lambda session, t=tenant_id: session.add(Note(id=1, tenant=t)))  # type: ignore[misc]
    return door


def only(session: Session) -> str:
    return session.scalars(select(Note.tenant)).one()


def is_armed(place: Place) -> bool:
    """Whether BEGIN is tenantry's on this place."""
    if place.kind.server != "postgresql":
        return False
    return place.kind.pooled or (
        place.kind.isolation is not Isolation.DATABASE
        and place.kind.switch not in (Switch.ROLE, Switch.CONNECT)
    )


def test_a_savepoint_rolled_back_then_read_reads_the_tenants_rows(
    place: Place, filled: Door
) -> None:
    """1,000 rounds where the transaction carries the tenant, whom a savepoint could undo."""
    rounds = 500 if is_armed(place) else 100

    def body(session: Session) -> None:
        for _ in range(rounds):
            with pytest.raises(ZeroDivisionError), session.begin_nested():
                session.execute(select(Note)).all()
                raise ZeroDivisionError
            assert only(session) == session.info["expected"]

    for tenant_id in BOTH:

        def run(session: Session, expected: str = tenant_id) -> None:
            session.info["expected"] = expected
            body(session)

        filled.run(tenant_id, run)


def test_an_error_in_a_transaction_and_a_rollback_keep_the_tenant(filled: Door) -> None:
    def body(session: Session) -> str:
        with pytest.raises(DBAPIError):
            session.execute(text("SELECT no_such_column FROM notes"))
        session.rollback()
        return only(session)

    for tenant_id in (*BOTH, *BOTH):
        assert filled.run(tenant_id, body) == tenant_id


def test_text_must_not_end_the_transaction_that_carries_the_tenant(
    place: Place, filled: Door
) -> None:
    if not is_armed(place):
        pytest.skip("the driver begins here, and nothing hangs on the transaction")

    alone = ("COMMIT", "rollback", "  END", "BEGIN", "ABORT", "START TRANSACTION")
    hidden = ("/* why */ COMMIT", "-- why\nCOMMIT", "SELECT 1; COMMIT; SELECT 2", "; ROLLBACK")
    nested = ("-- why\rCOMMIT", "/* /* */ ' */ COMMIT /* ' */")
    for statement in alone + hidden + nested:

        def body(session: Session, statement: str = statement) -> None:
            session.execute(text(statement))

        with pytest.raises(CallerError, match="must not begin or end the transaction"):
            filled.run("uk", body)
    assert filled.run("aus", only) == "aus"


def test_options_of_the_transaction_reach_the_server(place: Place, filled: Door) -> None:
    if place.kind.server != "postgresql":
        pytest.skip("the question is PostgreSQL's")

    def serializable(session: Session) -> str:
        connection = session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        level = str(connection.scalar(text("SELECT current_setting('transaction_isolation')")))
        assert only(session) == "uk"
        return level

    def read_only(session: Session) -> str:
        connection = session.connection(execution_options={"postgresql_readonly": True})
        return str(connection.scalar(text("SELECT current_setting('transaction_read_only')")))

    def plain(session: Session) -> list[str]:
        names = ("transaction_isolation", "transaction_read_only")
        return [str(session.scalar(text(f"SELECT current_setting('{name}')"))) for name in names]

    assert filled.run("uk", serializable) == "serializable"
    assert filled.run("uk", plain) == ["read committed", "off"]
    if not place.kind.is_async:  # SQLAlchemy's asyncpg adapter takes it, psycopg's does not
        assert filled.run("uk", read_only) == "on"
        assert filled.run("uk", plain) == ["read committed", "off"]


def test_a_bare_connection_is_the_tenants_or_refused(
    place: Place, tenancy: Tenancy, filled: Door
) -> None:
    if place.kind.is_async:
        pytest.skip("SQLAlchemy gives no bare connection for asyncio outside its own greenlet")
    for tenant_id in (*BOTH, *BOTH):
        with tenancy.use(tenant_id):
            if place.kind.pooled:
                with pytest.raises(UnsupportedError, match="behind a transaction pooler"):
                    tenancy.engine.raw_connection()
                continue
            if place.kind.citus and place.kind.isolation is Isolation.ROWS:
                with pytest.raises(Exception, match="do not reach the workers"):
                    tenancy.engine.raw_connection()
                continue
            raw = tenancy.engine.raw_connection()
            cursor = raw.cursor()
            cursor.execute("SELECT tenant FROM notes")
            assert cursor.fetchall() in ([(tenant_id,)], ((tenant_id,),))
            raw.rollback()
            cursor.execute("SELECT tenant FROM notes")
            assert cursor.fetchall() in ([(tenant_id,)], ((tenant_id,),))
            raw.close()
        assert filled.run(tenant_id, only) == tenant_id


def test_a_transaction_in_two_phases_is_the_tenants(place: Place, filled: Door) -> None:
    if place.kind.server == "sqlite" or place.kind.driver in ("aiomysql", "asyncpg"):
        pytest.skip("the driver has no two-phase commit in SQLAlchemy")
    if place.kind.is_async:
        pytest.skip("SQLAlchemy's AsyncConnection has no two-phase commit")

    def body(session: Session) -> None:
        connection = session.connection().engine.connect()
        with connection, connection.begin_twophase() as transaction:
            connection.execute(insert(Note), {"id": 2, "tenant": "uk", "tenant_id": own})
            transaction.prepare()
            transaction.commit()

    tenant = filled.tenancy.get("uk")
    own = tenant.key
    filled.run("uk", body)
    assert filled.run("uk", lambda session: session.scalar(select(func.count(Note.id)))) == 2
    assert filled.run("aus", only) == "aus"


def test_a_stream_across_a_commit_and_another_tenant_is_the_tenants_or_refused(
    place: Place, tenancy: Tenancy, filled: Door
) -> None:
    def fill(session: Session) -> None:
        session.add_all([Note(id=number, tenant="uk") for number in range(2, 200)])

    filled.run("uk", fill)
    if place.kind.is_async:
        asyncio.run(_stream(tenancy))
        return
    with tenancy.use("uk"), tenancy.session() as session:
        rows = session.execute(select(Note.tenant).execution_options(yield_per=10))
        seen = [next(rows).tenant]
        with tenancy.use("aus", switch=True), tenancy.session() as other:
            assert only(other) == "aus"
            with pytest.raises(CrossTenantError):
                session.execute(select(Note.tenant))
        seen += [row.tenant for row in rows]
        assert seen == ["uk"] * 199


async def _stream(tenancy: Tenancy) -> None:
    async with tenancy.use("uk"), tenancy.asession() as session:
        rows = await session.stream(select(Note.tenant).execution_options(yield_per=10))
        seen = [(await rows.__anext__()).tenant]
        async with tenancy.use("aus", switch=True), tenancy.asession() as other:
            assert (await other.scalars(select(Note.tenant))).all() == ["aus"]
            with pytest.raises(CrossTenantError):
                await session.execute(select(Note.tenant))
        seen += [row.tenant async for row in rows]
        assert seen == ["uk"] * 199
    await tenancy.aclose()


def test_a_killed_connection_is_an_error_and_then_the_tenants_again(
    place: Place, tenancy: Tenancy, filled: Door
) -> None:
    if place.kind.server == "sqlite":
        pytest.skip("nobody can kill a file")

    def killed(session: Session) -> None:
        assert only(session) == "uk"
        _kill(place, session)
        with pytest.raises((DBAPIError, InvalidRequestError)):
            only(session)
        session.rollback()
        assert only(session) == "uk"

    filled.run("uk", killed)
    assert filled.run("aus", only) == "aus"
    assert tenancy.status()["held_by"] == {}


def _kill(place: Place, session: Session) -> None:
    assert place.address is not None
    if place.kind.server == "postgresql":
        pid = session.scalar(select(func.pg_backend_pid()))
        place.address.execute(f"SELECT pg_terminate_backend({pid})")
    else:
        place.address.execute(f"KILL {session.scalar(select(func.connection_id()))}")


def test_many_rows_in_one_insert_come_back_with_their_keys(place: Place, filled: Door) -> None:
    def body(session: Session) -> tuple[int, list[str]]:
        authors = [Author(name="new") for _ in range(50)]
        session.add_all(authors)
        session.flush()
        keys = {author.id for author in authors}
        returned = session.scalars(
            insert(Author).returning(Author.tenant_id), [{"name": "x"}, {"name": "y"}]
        ).all()
        return len(keys), list(returned)

    count, owners = filled.run("uk", body)
    assert count == 50
    assert owners == [filled.tenancy.get("uk").key] * 2
    assert filled.run("aus", lambda session: session.scalar(select(func.count(Author.id)))) == 0
