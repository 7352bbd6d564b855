"""What is tortured: a Tenancy on a real server, and recipes that are known to leak."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy
from sqlalchemy import ForeignKey, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from tenantry import Isolation, Placement, Tenant
from tenantry.testing.address import ServerAddress
from tests.places import Author, Note, Place
from tests.torture.harness import SEEDED, Models

ALL_NOTES = "SELECT tenant, body FROM notes"
# By the administrator, for the application's login may only take the next number.
AFTER_SEED = "SELECT setval('{}notes_id_seq', 1000)"


def seed(session: Session, tenant_id: str, models: Models) -> None:
    """The rows that each tenant starts with."""
    session.add(models.author(id=1, name=tenant_id))
    session.flush()
    for number in range(1, SEEDED + 1):
        session.add(models.note(id=number, tenant=tenant_id, body="seed", author_id=1))
    session.commit()


class Routed:
    """A Tenancy whose tenants live in places of their own on the server of a place."""

    models = Models(Author, Note)

    def __init__(self, place: Place, tenants: int, budget: int, **options: Any) -> None:
        self.place = place
        self.tenant_ids: Sequence[str] = [f"t{number:02}" for number in range(tenants)]
        options.setdefault("per_tenant", budget)
        options.setdefault("wait_seconds", 120)
        self.tenancy = place.tenancy(*self.tenant_ids, max_connections=budget, **options)
        for tenant in self.tenancy.tenants():
            with self.session(tenant.id) as session:
                seed(session, tenant.id, self.models)
            if place.kind.server == "postgresql":
                self._number_on(tenant.placement)

    def _number_on(self, placement: Placement) -> None:
        assert self.place.address is not None
        if placement.isolation is Isolation.DATABASE:
            self.place.address.execute(AFTER_SEED.format(""), placement.database)
        else:
            schema = placement.schema or self.place.rows_schema
            self.place.execute(AFTER_SEED.format(f'"{schema}".'))

    @contextlib.contextmanager
    def session(self, tenant_id: str) -> Iterator[Session]:
        with (
            self.tenancy.use(tenant_id, switch=True),
            self.tenancy.session() as session,
        ):
            yield session

    @contextlib.asynccontextmanager
    async def asession(self, tenant_id: str) -> AsyncIterator[AsyncSession]:
        async with self.tenancy.use(tenant_id), self.tenancy.asession() as session:
            yield session

    def audit(self) -> Iterable[tuple[str, str, str]]:
        for tenant in self.tenancy.tenants():
            for tenant_id, body in self._rows(tenant):
                yield tenant.id, tenant_id, body

    def _rows(self, tenant: Tenant) -> list[Any]:
        """All notes of a tenant, read behind the Tenancy's back."""
        placement = tenant.placement
        if self.place.address is None:
            file = sqlite3.connect(f"{self.place.folder}/{placement.database}")
            with contextlib.closing(file):
                return file.execute(ALL_NOTES).fetchall()
        if placement.isolation is Isolation.ROWS:
            return self.place.execute(f"{ALL_NOTES} WHERE tenant_id = '{tenant.key}'")
        if placement.isolation is Isolation.DATABASE:
            return self.place.address.execute(ALL_NOTES, placement.database)
        if self.place.kind.server == "mariadb":
            return self.place.address.execute(ALL_NOTES, placement.schema)
        return self.place.execute(f'SELECT tenant, body FROM "{placement.schema}".notes')

    @property
    def _databases(self) -> str:
        return ", ".join(f"'{name}'" for name in self.place._made)

    def kill_one(self) -> int:
        return kill_one(self.place.address, self._databases)

    def idle_in_transaction(self) -> int:
        return idle_in_transaction(self.place.address, self._databases)

    def held(self) -> dict[str, int]:
        held = self.tenancy.status()["held_by"]
        assert isinstance(held, dict)
        return held

    async def aclose(self) -> None:
        await self.tenancy.aclose()


def kill_one(address: ServerAddress | None, databases: str) -> int:
    """End a random connection to one of *databases* (a list in SQL)."""
    if address is None:
        return 0
    if address.admin_driver.startswith("postgresql"):
        killed = address.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname IN ({databases}) ORDER BY random() LIMIT 1"
        )
        return len(killed)
    found = address.execute(
        f"SELECT id FROM information_schema.processlist WHERE db IN ({databases}) "
        "ORDER BY rand() LIMIT 1"
    )
    for (number,) in found:
        with contextlib.suppress(sqlalchemy.exc.DBAPIError):  # it has ended by itself
            address.execute(f"KILL {number}")
    return len(found)


def idle_in_transaction(address: ServerAddress | None, databases: str) -> int:
    """How many connections to *databases* sit in an open transaction."""
    if address is None:
        return 0
    if address.admin_driver.startswith("postgresql"):
        query = (
            "SELECT count(*) FROM pg_stat_activity "
            f"WHERE datname IN ({databases}) AND state LIKE 'idle in transaction%'"
        )
    else:
        query = (
            "SELECT count(*) FROM information_schema.innodb_trx JOIN "
            "information_schema.processlist p ON p.id = trx_mysql_thread_id "
            f"WHERE p.db IN ({databases})"
        )
    return int(address.execute(query)[0][0])


class PlainBase(DeclarativeBase):
    """Models of an application that knows no tenantry."""


class PlainAuthor(PlainBase):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class PlainNote(PlainBase):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    body: Mapped[str]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("authors.id"))
    author: Mapped[PlainAuthor | None] = relationship()


class LeakyPath:
    """The recipe that people copy: a schema per tenant and ``SET search_path``, no reset.

    It is here to prove that the harness sees what it is meant to see.
    """

    models = Models(PlainAuthor, PlainNote)

    def __init__(self, address: ServerAddress, database: str, tenants: int, budget: int) -> None:
        self.tenant_ids: Sequence[str] = [f"t{number:02}" for number in range(tenants)]
        self._address = address
        self._database = database
        self._engine = create_engine(
            address.url(database=database), pool_size=budget, max_overflow=0
        )
        self._held = 0
        event.listen(self._engine, "checkout", self._took)
        event.listen(self._engine, "checkin", self._gave)
        for tenant_id in self.tenant_ids:
            with Session(self._engine) as session:
                session.execute(text(f"CREATE SCHEMA {tenant_id}"))
                session.execute(text(f"SET search_path TO {tenant_id}"))
                PlainBase.metadata.create_all(session.connection())
                seed(session, tenant_id, self.models)
            address.execute(AFTER_SEED.format(f"{tenant_id}."), database)
        self._engine.dispose()

    def _took(self, *_: object) -> None:
        self._held += 1

    def _gave(self, *_: object) -> None:
        self._held -= 1

    @contextlib.contextmanager
    def session(self, tenant_id: str) -> Iterator[Session]:
        with Session(self._engine) as session:
            session.execute(text(f"SET search_path TO {tenant_id}"))
            yield session

    def asession(self, tenant_id: str) -> contextlib.AbstractAsyncContextManager[AsyncSession]:
        raise NotImplementedError

    def audit(self) -> Iterable[tuple[str, str, str]]:
        for place in self.tenant_ids:
            query = f"SELECT tenant, body FROM {place}.notes"
            for tenant_id, body in self._address.execute(query, self._database):
                yield place, tenant_id, body

    def kill_one(self) -> int:
        return kill_one(self._address, f"'{self._database}'")

    def idle_in_transaction(self) -> int:
        return idle_in_transaction(self._address, f"'{self._database}'")

    def held(self) -> dict[str, int]:
        return {"somebody": self._held} if self._held else {}

    async def aclose(self) -> None:
        self._engine.dispose()

    def close(self) -> None:
        self._engine.dispose()


class DefaultEngine(LeakyPath):
    """One engine for everybody: whoever is meant, the first tenant's database answers."""

    @contextlib.contextmanager
    def session(self, tenant_id: str) -> Iterator[Session]:
        with Session(self._engine) as session:
            session.execute(text(f"SET search_path TO {self.tenant_ids[0]}"))
            yield session


__all__ = ["DefaultEngine", "LeakyPath", "Routed"]
