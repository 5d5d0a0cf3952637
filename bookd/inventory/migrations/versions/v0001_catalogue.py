"""The catalogue, its index of words, reservations and the inbox."""

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "books",
        sa.Column(
            "seq",
            SEQUENCE,
            sa.Identity(),
            primary_key=True,
            comment="order in which the books were added; never used again",
        ),
        sa.Column("book_id", sa.String(64), nullable=False, unique=True, comment="the id that clients know"),
        sa.Column("title", sa.String(1000), nullable=False, comment="title as it was given"),
        sa.Column("author", sa.String(1000), nullable=False, comment="author or authors, comma-separated"),
        sa.Column("isbn", sa.String(13), unique=True, comment="ISBN-13, digits only; null when the book has none"),
        sa.Column("stock", sa.Integer, nullable=False, comment="copies that can be ordered now"),
        sa.Column("reserved", sa.Integer, nullable=False, comment="copies that orders hold, sold ones included"),
        sa.Column("supplied", sa.Integer, nullable=False, comment="copies put in less copies taken out by hand"),
        sa.Column("currency_code", sa.String(3), nullable=False, comment="ISO 4217 code of the price"),
        sa.Column("price_units", sa.BigInteger, nullable=False, comment="whole units of the price of one copy"),
        sa.Column("price_nanos", sa.Integer, nullable=False, comment="billionths of a unit"),
        sa.Column("version", sa.BigInteger, nullable=False, comment="counts the changes; 1 for a new book"),
        sa.Column("created_at", sa.BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
        sa.Column("updated_at", sa.BigInteger, nullable=False, comment="when book or stock last changed; likewise"),
        sa.CheckConstraint("length(book_id) BETWEEN 1 AND 64", name="books_book_id"),
        sa.CheckConstraint("length(title) BETWEEN 1 AND 1000", name="books_title"),
        sa.CheckConstraint("length(author) BETWEEN 1 AND 1000", name="books_author"),
        sa.CheckConstraint("length(isbn) = 13", name="books_isbn"),
        sa.CheckConstraint("stock >= 0", name="books_stock"),
        sa.CheckConstraint("reserved >= 0", name="books_reserved"),
        sa.CheckConstraint("supplied <= 2147483647", name="books_supplied"),
        sa.CheckConstraint("stock + reserved = supplied", name="books_conservation"),
        sa.CheckConstraint("length(currency_code) = 3", name="books_currency"),
        sa.CheckConstraint("price_units >= 0 AND price_nanos BETWEEN 0 AND 999999999", name="books_price"),
        sa.CheckConstraint("version >= 1", name="books_version"),
        sqlite_autoincrement=True,
        comment="the catalogue, and the copies of each book",
    )
    op.create_table(
        "reservations",
        sa.Column("order_id", sa.String(64), primary_key=True, comment="the order that asked"),
        sa.Column(
            "status", sa.String(8), nullable=False, comment="what was decided: see the proto's ReservationStatus"
        ),
        sa.Column("reason", sa.String, nullable=False, comment="why it was rejected; else empty"),
        sa.Column("created_at", sa.BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
        sa.Column("updated_at", sa.BigInteger, nullable=False, comment="when it was released; likewise"),
        sa.CheckConstraint("status IN ('RESERVED', 'REJECTED', 'RELEASED')", name="reservations_status"),
        sa.CheckConstraint("(status = 'REJECTED') = (reason <> '')", name="reservations_reason"),
        comment="one decision an order",
    )
    op.create_table(
        "reservation_items",
        sa.Column(
            "order_id",
            sa.String(64),
            sa.ForeignKey("reservations.order_id", ondelete="CASCADE"),
            primary_key=True,
            comment="the order",
        ),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False, comment="place in the order, from 0"),
        sa.Column("book_seq", sa.BigInteger, nullable=False, comment="seq of the book"),
        sa.Column("book_id", sa.String(64), nullable=False, comment="id of the book"),
        sa.Column("title", sa.String(1000), nullable=False, comment="its title at that time"),
        sa.Column("quantity", sa.Integer, nullable=False, comment="copies"),
        sa.Column("currency_code", sa.String(3), nullable=False, comment="ISO 4217 code of the price"),
        sa.Column(
            "price_units", sa.BigInteger, nullable=False, comment="whole units of the price of one copy at that time"
        ),
        sa.Column("price_nanos", sa.Integer, nullable=False, comment="billionths of a unit"),
        sa.CheckConstraint("position >= 0", name="reservation_items_position"),
        sa.CheckConstraint("quantity >= 1", name="reservation_items_quantity"),
        sa.CheckConstraint("price_units >= 0 AND price_nanos BETWEEN 0 AND 999999999", name="reservation_items_price"),
        comment="what reservations hold or held, at which prices",
    )
    op.create_index("ix_reservation_items_book_seq", "reservation_items", ["book_seq"])
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
    if op.get_bind().dialect.name != "sqlite":
        raise CommandError("the inventory's search knows SQLite only, so far")
    op.execute(
        "CREATE VIRTUAL TABLE book_words USING fts5("
        "title, author, isbn, also, name UNINDEXED, tokenize = 'ascii', prefix = '2 3')"
    )
