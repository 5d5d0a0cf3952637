"""The inventory's tables.

For each book the copies are accounted for: what was ever put in and not taken out again (`supplied`) is either to be
ordered (`stock`) or held by orders (`reserved`). The database refuses a write that loses a copy or makes one up. What
orders hold stands a second time in `reservation_items`, so that

    SELECT b.book_id FROM books b LEFT JOIN reservation_items i ON i.book_seq = b.seq
        LEFT JOIN reservations r ON r.order_id = i.order_id AND r.status = 'RESERVED'
    GROUP BY b.seq HAVING b.reserved <> coalesce(sum(CASE WHEN r.order_id IS NULL THEN 0 ELSE i.quantity END), 0)

finds nothing, ever.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Integer,
    MetaData,
    String,
    Table,
)

from bookd.storage import inbox, outbox

INT32_MAX = 2**31 - 1

metadata = MetaData()

# SQLite gives out row numbers to a column of exactly this type.
_SEQUENCE = BigInteger().with_variant(Integer, "sqlite")

books = Table(
    "books",
    metadata,
    Column(
        "seq", _SEQUENCE, Identity(), primary_key=True, comment="order in which the books were added; never used again"
    ),
    Column("book_id", String(64), nullable=False, unique=True, comment="the id that clients know"),
    Column("title", String(1000), nullable=False, comment="title as it was given"),
    Column("author", String(1000), nullable=False, comment="author or authors, comma-separated"),
    Column("isbn", String(13), unique=True, comment="ISBN-13, digits only; null when the book has none"),
    Column("stock", Integer, nullable=False, comment="copies that can be ordered now"),
    Column("reserved", Integer, nullable=False, comment="copies that orders hold, sold ones included"),
    Column("supplied", Integer, nullable=False, comment="copies put in less copies taken out by hand"),
    Column("currency_code", String(3), nullable=False, comment="ISO 4217 code of the price"),
    Column("price_units", BigInteger, nullable=False, comment="whole units of the price of one copy"),
    Column("price_nanos", Integer, nullable=False, comment="billionths of a unit"),
    Column("version", BigInteger, nullable=False, comment="counts the changes; 1 for a new book"),
    Column("created_at", BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
    Column("updated_at", BigInteger, nullable=False, comment="when book or stock last changed; likewise"),
    CheckConstraint("length(book_id) BETWEEN 1 AND 64", name="books_book_id"),
    CheckConstraint("length(title) BETWEEN 1 AND 1000", name="books_title"),
    CheckConstraint("length(author) BETWEEN 1 AND 1000", name="books_author"),
    CheckConstraint("length(isbn) = 13", name="books_isbn"),
    CheckConstraint("stock >= 0", name="books_stock"),
    CheckConstraint("reserved >= 0", name="books_reserved"),
    CheckConstraint(f"supplied <= {INT32_MAX}", name="books_supplied"),
    CheckConstraint("stock + reserved = supplied", name="books_conservation"),
    CheckConstraint("length(currency_code) = 3", name="books_currency"),
    CheckConstraint("price_units >= 0 AND price_nanos BETWEEN 0 AND 999999999", name="books_price"),
    CheckConstraint("version >= 1", name="books_version"),
    sqlite_autoincrement=True,
    comment="the catalogue, and the copies of each book",
)

reservations = Table(
    "reservations",
    metadata,
    Column("order_id", String(64), primary_key=True, comment="the order that asked"),
    Column("status", String(8), nullable=False, comment="what was decided: see the proto's ReservationStatus"),
    Column("reason", String, nullable=False, comment="why it was rejected; else empty"),
    Column("created_at", BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
    Column("updated_at", BigInteger, nullable=False, comment="when it was released; likewise"),
    CheckConstraint("status IN ('RESERVED', 'REJECTED', 'RELEASED')", name="reservations_status"),
    CheckConstraint("(status = 'REJECTED') = (reason <> '')", name="reservations_reason"),
    comment="one decision an order",
)

reservation_items = Table(
    "reservation_items",
    metadata,
    Column(
        "order_id",
        String(64),
        ForeignKey("reservations.order_id", ondelete="CASCADE"),
        primary_key=True,
        comment="the order",
    ),
    Column("position", Integer, primary_key=True, autoincrement=False, comment="place in the order, from 0"),
    # No foreign key: a book may leave the catalogue while orders hold copies of it.
    Column("book_seq", BigInteger, nullable=False, index=True, comment="seq of the book"),
    Column("book_id", String(64), nullable=False, comment="id of the book"),
    Column("title", String(1000), nullable=False, comment="its title at that time"),
    Column("quantity", Integer, nullable=False, comment="copies"),
    Column("currency_code", String(3), nullable=False, comment="ISO 4217 code of the price"),
    Column("price_units", BigInteger, nullable=False, comment="whole units of the price of one copy at that time"),
    Column("price_nanos", Integer, nullable=False, comment="billionths of a unit"),
    CheckConstraint("position >= 0", name="reservation_items_position"),
    CheckConstraint("quantity >= 1", name="reservation_items_quantity"),
    CheckConstraint("price_units >= 0 AND price_nanos BETWEEN 0 AND 999999999", name="reservation_items_price"),
    comment="what reservations hold or held, at which prices",
)

inbox.define(metadata)
outbox.define(metadata)
