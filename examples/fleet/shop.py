"""The shop's tables, as the thirty revisions leave them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Every table is a tenant's own."""


class Row:
    """What all tables have."""

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80))
    amount: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime | None]


class Customer(Row, Base):
    __tablename__ = "customers"
    __table_args__ = (Index("customers_name", "name"),)
    number: Mapped[int | None]


class Address(Row, Base):
    __tablename__ = "addresses"
    __table_args__ = (Index("addresses_name", "name"),)
    customer_id: Mapped[int | None] = mapped_column(
        ForeignKey("customers.id", name="addresses_customer_fk")
    )


class Supplier(Row, Base):
    __tablename__ = "suppliers"
    __table_args__ = (Index("suppliers_name", "name"),)


class Warehouse(Row, Base):
    __tablename__ = "warehouses"
    __table_args__ = (Index("warehouses_name", "name"),)


class Category(Row, Base):
    __tablename__ = "categories"
    __table_args__ = (Index("categories_name", "name"),)


class Product(Row, Base):
    __tablename__ = "products"
    __table_args__ = (Index("products_name", "name"),)
    name: Mapped[str] = mapped_column(String(200))
    category_id: Mapped[int | None] = mapped_column(
        ForeignKey("categories.id", name="products_category_fk")
    )


class Price(Row, Base):
    __tablename__ = "prices"
    __table_args__ = (Index("prices_name", "name"),)
    product_id: Mapped[int | None] = mapped_column(
        ForeignKey("products.id", name="prices_product_fk")
    )


class Stock(Row, Base):
    __tablename__ = "stocks"
    __table_args__ = (Index("stocks_name", "name"),)
    warehouse_id: Mapped[int | None] = mapped_column(
        ForeignKey("warehouses.id", name="stocks_warehouse_fk")
    )


class Cart(Row, Base):
    __tablename__ = "carts"
    __table_args__ = (Index("carts_name", "name"),)
    customer_id: Mapped[int | None] = mapped_column(
        ForeignKey("customers.id", name="carts_customer_fk")
    )


class CartItem(Row, Base):
    __tablename__ = "cart_items"
    __table_args__ = (Index("cart_items_name", "name"),)
    cart_id: Mapped[int | None] = mapped_column(ForeignKey("carts.id", name="cart_items_cart_fk"))


class Order(Row, Base):
    __tablename__ = "orders"
    __table_args__ = (
        Index("orders_name", "name"),
        Index("orders_currency", "currency"),
    )
    currency: Mapped[str] = mapped_column(String(3), server_default="EUR")
    customer_id: Mapped[int | None] = mapped_column(
        ForeignKey("customers.id", name="orders_customer_fk")
    )


class OrderItem(Row, Base):
    __tablename__ = "order_items"
    __table_args__ = (Index("order_items_name", "name"),)
    order_id: Mapped[int | None] = mapped_column(
        ForeignKey("orders.id", name="order_items_order_fk")
    )


class Payment(Row, Base):
    __tablename__ = "payments"
    __table_args__ = (
        Index("payments_name", "name"),
        CheckConstraint("amount >= 0", name="payments_amount"),
    )
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id", name="payments_order_fk"))


class Refund(Row, Base):
    __tablename__ = "refunds"
    __table_args__ = (Index("refunds_name", "name"),)
    payment_id: Mapped[int | None] = mapped_column(
        ForeignKey("payments.id", name="refunds_payment_fk")
    )


class Shipment(Row, Base):
    __tablename__ = "shipments"
    __table_args__ = (
        Index("shipments_name", "name"),
        Index("shipments_carrier", "carrier"),
    )
    carrier: Mapped[str | None] = mapped_column(String(40))
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id", name="shipments_order_fk"))


class Parcel(Row, Base):
    __tablename__ = "parcels"
    __table_args__ = (Index("parcels_name", "name"),)
    shipment_id: Mapped[int | None] = mapped_column(
        ForeignKey("shipments.id", name="parcels_shipment_fk")
    )


class Return(Row, Base):
    __tablename__ = "returns"
    __table_args__ = (Index("returns_name", "name"),)
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id", name="returns_order_fk"))


class Coupon(Row, Base):
    __tablename__ = "coupons"
    __table_args__ = (
        Index("coupons_name", "name"),
        Index("coupons_name_unique", "name", unique=True),
    )


class Review(Row, Base):
    __tablename__ = "reviews"
    __table_args__ = (
        Index("reviews_name", "name"),
        Index("reviews_created", "created_at"),
    )
    product_id: Mapped[int | None] = mapped_column(
        ForeignKey("products.id", name="reviews_product_fk")
    )


class AuditEntry(Row, Base):
    __tablename__ = "audit_entries"
    __table_args__ = (Index("audit_entries_name", "name"),)
