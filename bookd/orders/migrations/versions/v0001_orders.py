"""Orders, their lines, their sagas, inbox and outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            sa.Identity(),
            primary_key=True,
            comment="order in which the orders were placed; never used again",
        ),
        sa.Column("order_id", sa.String(36), nullable=False, unique=True, comment="UUIDv7 that clients know"),
        sa.Column("user_id", sa.String(64), nullable=False, comment="who placed it"),
        sa.Column(
            "shipping_address",
            sa.String(1000),
            nullable=False,
            comment="where it goes; empty while users is being asked",
        ),
        sa.Column("status", sa.String(9), nullable=False, comment="PENDING, CONFIRMED, REJECTED or CANCELLED"),
        sa.Column("reason", sa.Text, nullable=False, comment="why it was rejected; else empty"),
        sa.Column("currency_code", sa.String(3), comment="ISO 4217 code of the total; null until the prices are known"),
        sa.Column("total_units", sa.BigInteger, comment="whole units of the total; null until the prices are known"),
        sa.Column("total_nanos", sa.Integer, comment="billionths of a unit; null until the prices are known"),
        sa.Column("version", sa.BigInteger, nullable=False, comment="counts the changes; 1 for a new order"),
        sa.Column("created_at", sa.BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
        sa.Column("updated_at", sa.BigInteger, nullable=False, comment="when it last changed; likewise"),
        sa.CheckConstraint("length(order_id) = 36", name="orders_order_id"),
        sa.CheckConstraint("length(user_id) BETWEEN 1 AND 64", name="orders_user_id"),
        sa.CheckConstraint("status IN ('PENDING', 'CONFIRMED', 'REJECTED', 'CANCELLED')", name="orders_status"),
        sa.CheckConstraint("(status = 'REJECTED') = (reason <> '')", name="orders_reason"),
        sa.CheckConstraint(
            "(currency_code IS NULL) = (total_units IS NULL) AND (currency_code IS NULL) = (total_nanos IS NULL)",
            name="orders_total",
        ),
        sa.CheckConstraint("status <> 'CONFIRMED' OR total_units IS NOT NULL", name="orders_confirmed"),
        sa.CheckConstraint("status NOT IN ('PENDING', 'REJECTED') OR total_units IS NULL", name="orders_undecided"),
        sa.CheckConstraint("status <> 'CONFIRMED' OR shipping_address <> ''", name="orders_address"),
        sa.CheckConstraint("version >= 1", name="orders_version"),
        sqlite_autoincrement=True,
        comment="orders and where they stand",
    )
    op.create_index("orders_by_user", "orders", ["user_id", "seq"])
    op.create_index("orders_by_status", "orders", ["status", "seq"])
    op.create_table(
        "order_items",
        sa.Column(
            "order_id",
            sa.String(36),
            sa.ForeignKey("orders.order_id", ondelete="CASCADE"),
            primary_key=True,
            comment="the order",
        ),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False, comment="place in the order, from 0"),
        sa.Column("book_id", sa.String(64), nullable=False, comment="id of the book"),
        sa.Column("quantity", sa.Integer, nullable=False, comment="copies"),
        sa.Column("title", sa.String(1000), nullable=False, comment="its title when it was reserved; empty before"),
        sa.Column("currency_code", sa.String(3), comment="ISO 4217 code of the price; null until it was reserved"),
        sa.Column("price_units", sa.BigInteger, comment="whole units of the price of one copy; likewise"),
        sa.Column("price_nanos", sa.Integer, comment="billionths of a unit; likewise"),
        sa.CheckConstraint("position >= 0", name="order_items_position"),
        sa.CheckConstraint("quantity BETWEEN 1 AND 10000", name="order_items_quantity"),
        sa.CheckConstraint(
            "(currency_code IS NULL) = (price_units IS NULL) AND (currency_code IS NULL) = (price_nanos IS NULL)",
            name="order_items_price",
        ),
        comment="the lines of orders",
    )
    op.create_table(
        "steps",
        sa.Column("message_id", sa.String(36), primary_key=True, comment="UUID of the message that asks for the step"),
        sa.Column(
            "order_id", sa.String(36), sa.ForeignKey("orders.order_id"), nullable=False, comment="whose saga it is"
        ),
        sa.Column("step", sa.String(7), nullable=False, comment="ADDRESS, RESERVE or RELEASE"),
        sa.Column("done_at", sa.BigInteger, comment="when its outcome was applied; null while it is open"),
        sa.CheckConstraint("step IN ('ADDRESS', 'RESERVE', 'RELEASE')", name="steps_step"),
        comment="the saga of each order: what was asked of others, and whether they answered",
    )
    op.create_index("ix_steps_order_id", "steps", ["order_id"])
    op.create_table(
        "inbox",
        sa.Column("message_id", sa.String(36), primary_key=True, comment="UUID of the message"),
        sa.Column("method", sa.String(255), nullable=False, comment="method path that was called"),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False, comment="SHA-256 over method and request"),
        sa.Column("response", sa.LargeBinary, nullable=False, comment="serialized response message"),
        sa.Column("applied_at", sa.BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
        sa.CheckConstraint("length(fingerprint) = 32", name="inbox_fingerprint"),
        comment="messages that were applied, with what was answered",
    )
    op.create_index("ix_inbox_applied_at", "inbox", ["applied_at"])
    op.create_table(
        "outbox",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            sa.Identity(),
            primary_key=True,
            comment="order in which the messages were put; never used again",
        ),
        sa.Column("message_id", sa.String(36), nullable=False, unique=True, comment="UUID of the message"),
        sa.Column("lane", sa.String(255), nullable=False, comment="messages of one lane are sent in order"),
        sa.Column("method", sa.String(255), nullable=False, comment="method path to call"),
        sa.Column("request", sa.LargeBinary, nullable=False, comment="serialized request message"),
        sa.Column("principal", sa.LargeBinary, nullable=False, comment="serialized principal; empty for none"),
        sa.Column(
            "reply_to", sa.String(255), nullable=False, comment="method path that takes the outcome; empty for none"
        ),
        sa.Column("request_id", sa.String(128), nullable=False, comment="id of the client's request; empty for none"),
        sa.Column("traceparent", sa.String(255), nullable=False, comment="W3C trace context; empty for none"),
        sa.Column("attempts", sa.Integer, nullable=False, comment="times it was sent without an answer"),
        sa.Column(
            "ready_at", sa.BigInteger, nullable=False, comment="not sent before; microseconds since the epoch, UTC"
        ),
        sa.Column("last_error", sa.Text, nullable=False, comment="what the last attempt failed with; empty for none"),
        sa.Column(
            "created_at", sa.BigInteger, nullable=False, comment="when it was put; microseconds since the epoch, UTC"
        ),
        sa.CheckConstraint("length(message_id) = 36", name="outbox_message_id"),
        sa.CheckConstraint("length(lane) >= 1", name="outbox_lane"),
        sa.CheckConstraint("attempts >= 0", name="outbox_attempts"),
        sqlite_autoincrement=True,
        comment="messages to send",
    )
    op.create_index("outbox_by_lane", "outbox", ["lane", "seq"])
    op.create_index("outbox_by_time", "outbox", ["ready_at", "seq"])
