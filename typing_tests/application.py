"""What users write, read by type checkers only: nothing of tenantry hides SQLAlchemy's types."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine, String, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from typing_extensions import assert_type

from tenantry import Tenancy, Tenant, carry, current, require


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    product: Mapped[str] = mapped_column(String(50))


tenancy = Tenancy.from_mapping({"uk": "sqlite:///uk.db", "aus": "sqlite:///aus.db"})

assert_type(tenancy.get("uk"), Tenant)
assert_type(tenancy.tenants(), list[Tenant])
assert_type(tenancy.engine, Engine)
assert_type(tenancy.aengine, AsyncEngine)
assert_type(current(), Tenant | None)
assert_type(require(), Tenant)


def plain(session: Session) -> None:
    for product in session.scalars(select(Order.product)):
        assert_type(product, str)


def sync_door() -> list[Order]:
    with tenancy.use("uk") as tenant, tenancy.session() as session:
        assert_type(tenant, Tenant)
        plain(session)
        session.add(Order(product="tea"))
        session.commit()
        assert_type(session.get(Order, 1), Order | None)
        return list(session.scalars(select(Order)))


async def async_door() -> list[Order]:
    async with tenancy.use("uk") as tenant, tenancy.asession() as session:
        assert_type(tenant, Tenant)
        narrowed: AsyncSession = session
        return list(await narrowed.scalars(select(Order)))


def on_purpose() -> None:
    with tenancy.shared(), tenancy.engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")


def count(product: str) -> int:
    return len(product)


carried: Callable[[str], int] = carry(count)
assert_type(carry(count)("tea"), int)

# What is not a tenant is refused before it runs.
tenancy.use(1)  # type: ignore[arg-type]
tenancy.session(tenant=1.5)  # type: ignore[arg-type]
