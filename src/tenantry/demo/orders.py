"""The application's one table, and what each tenant has in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

__all__ = ["SHOPS", "Base", "Order", "Shop", "fill"]


class Base(DeclarativeBase):
    """The models of the demonstration. Nothing in them speaks of tenants."""


class Order(Base):
    """An order at a shop; *cents* is what it costs, in the shop's currency."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    placed_on: Mapped[date]
    customer: Mapped[str] = mapped_column(String(80))
    item: Mapped[str] = mapped_column(String(80))
    cents: Mapped[int]


@dataclass(frozen=True)
class Shop:
    """A tenant of the demonstration."""

    title: str
    currency: str
    orders: tuple[tuple[str, str, int], ...]
    suspended: bool = False


SHOPS: Mapping[str, Shop] = {
    "uk": Shop(
        "Harbour & Sons, Bristol",
        "£",
        (
            ("Ada Lovelace", "Brass engine, table size", 48_500),
            ("George Boole", "Box of switches", 1_299),
            ("Mary Seacole", "Travelling medicine chest", 7_450),
            ("Charles Darwin", "Notebook B, ruled", 640),
            ("Isambard Brunel", "Chain links, 40 feet", 19_900),
        ),
    ),
    "aus": Shop(
        "Southern Cross Supplies, Hobart",
        "A$",
        (
            ("Nellie Melba", "Peach preserve, 12 jars", 8_640),
            ("Edward Hargrave", "Box kite, cotton", 5_275),
            ("Banjo Paterson", "Saddle, stock", 61_000),
            ("Ruby Payne-Scott", "Aerial, sea-cliff type", 23_350),
        ),
    ),
    "eu": Shop(
        "Kontor Hansa, Lübeck",
        "€",
        (
            ("Lise Meitner", "Spectrometer, second hand", 129_000),
            ("Sophus Lie", "Compass, pocket", 3_480),
            ("Emmy Noether", "Chalk, 144 pieces", 1_920),
            ("Blaise Pascal", "Adding wheel", 34_400),
            ("Maria Agnesi", "Curve ruler, pear wood", 2_750),
            ("Hans Christian Ørsted", "Copper wire, 200 m", 6_100),
        ),
    ),
    "nz": Shop(
        "Long Cloud Trading, Nelson", "NZ$", (("Beatrice Tinsley", "Star atlas", 4_400),), True
    ),
}


def fill(session: Session, tenant_id: str) -> None:
    """Make the table and the orders of one tenant in an empty database."""
    Base.metadata.create_all(session.connection())
    for number, (customer, item, cents) in enumerate(SHOPS[tenant_id].orders, start=1):
        placed = date(2025, 3, 2 * number)
        session.add(Order(id=number, placed_on=placed, customer=customer, item=item, cents=cents))
    session.commit()
