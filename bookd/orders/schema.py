"""The orders' tables."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

from bookd.storage import inbox, outbox
from bookd.storage.indexes import partial

_OPEN, _DONE = text("done_at IS NULL"), text("done_at IS NOT NULL")

metadata = MetaData()

orders = Table(
    "orders",
    metadata,
    Column(
        "seq",
        BigInteger().with_variant(Integer, "sqlite"),
        Identity(),
        primary_key=True,
        comment="order in which the orders were placed; never used again",
    ),
    Column("order_id", String(36), nullable=False, unique=True, comment="UUIDv7 that clients know"),
    Column("user_id", String(64), nullable=False, comment="who placed it"),
    Column("shipping_address", String(1000), nullable=False, comment="where it goes; empty while users is being asked"),
    Column("status", String(9), nullable=False, comment="PENDING, CONFIRMED, REJECTED or CANCELLED"),
    Column("reason", Text, nullable=False, comment="why it was rejected; else empty"),
    Column("currency_code", String(3), comment="ISO 4217 code of the total; null until the prices are known"),
    Column("total_units", BigInteger, comment="whole units of the total; null until the prices are known"),
    Column("total_nanos", Integer, comment="billionths of a unit; null until the prices are known"),
    Column("version", BigInteger, nullable=False, comment="counts the changes; 1 for a new order"),
    Column("created_at", BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
    Column("updated_at", BigInteger, nullable=False, comment="when it last changed; likewise"),
    CheckConstraint("length(order_id) = 36", name="orders_order_id"),
    CheckConstraint("length(user_id) BETWEEN 1 AND 64", name="orders_user_id"),
    CheckConstraint("status IN ('PENDING', 'CONFIRMED', 'REJECTED', 'CANCELLED')", name="orders_status"),
    CheckConstraint("(status = 'REJECTED') = (reason <> '')", name="orders_reason"),
    CheckConstraint(
        "(currency_code IS NULL) = (total_units IS NULL) AND (currency_code IS NULL) = (total_nanos IS NULL)",
        name="orders_total",
    ),
    CheckConstraint("status <> 'CONFIRMED' OR total_units IS NOT NULL", name="orders_confirmed"),
    CheckConstraint("status NOT IN ('PENDING', 'REJECTED') OR total_units IS NULL", name="orders_undecided"),
    CheckConstraint("status <> 'CONFIRMED' OR shipping_address <> ''", name="orders_address"),
    CheckConstraint("version >= 1", name="orders_version"),
    Index("orders_by_user", "user_id", "seq"),
    Index("orders_by_status", "status", "seq"),
    sqlite_autoincrement=True,
    comment="orders and where they stand",
)

order_items = Table(
    "order_items",
    metadata,
    Column(
        "order_id",
        String(36),
        ForeignKey("orders.order_id", ondelete="CASCADE"),
        primary_key=True,
        comment="the order",
    ),
    Column("position", Integer, primary_key=True, autoincrement=False, comment="place in the order, from 0"),
    Column("book_id", String(64), nullable=False, comment="id of the book"),
    Column("quantity", Integer, nullable=False, comment="copies"),
    Column("title", String(1000), nullable=False, comment="its title when it was reserved; empty before"),
    Column("currency_code", String(3), comment="ISO 4217 code of the price; null until it was reserved"),
    Column("price_units", BigInteger, comment="whole units of the price of one copy; likewise"),
    Column("price_nanos", Integer, comment="billionths of a unit; likewise"),
    CheckConstraint("position >= 0", name="order_items_position"),
    CheckConstraint("quantity BETWEEN 1 AND 10000", name="order_items_quantity"),
    CheckConstraint(
        "(currency_code IS NULL) = (price_units IS NULL) AND (currency_code IS NULL) = (price_nanos IS NULL)",
        name="order_items_price",
    ),
    comment="the lines of orders",
)

steps = Table(
    "steps",
    metadata,
    Column("message_id", String(36), primary_key=True, comment="UUID of the message that asks for the step"),
    Column(
        "order_id", String(36), ForeignKey("orders.order_id"), nullable=False, index=True, comment="whose saga it is"
    ),
    Column("step", String(7), nullable=False, comment="ADDRESS, RESERVE or RELEASE"),
    Column(
        "sweep_from",
        BigInteger,
        nullable=False,
        comment="the sweep comes `sweep_after` after this time; microseconds since the epoch, UTC",
    ),
    Column("done_at", BigInteger, comment="when its outcome was applied; null while it is open"),
    CheckConstraint("step IN ('ADDRESS', 'RESERVE', 'RELEASE')", name="steps_step"),
    partial("steps_open", "sweep_from", where=_OPEN),
    partial("steps_done", "done_at", where=_DONE),
    comment="the saga of each order: what was asked of others, and whether they answered",
)

inbox.define(metadata)
outbox.define(metadata)
