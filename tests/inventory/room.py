"""An inventory to test: a migrated database, and short ways to put books into it."""

from pathlib import Path

from google.type.money_pb2 import Money
from sqlalchemy import Connection, Engine, text
from twisted.trial.unittest import SynchronousTestCase

from bookd.inventory import store
from bookd.inventory.rules import Draft
from bookd.inventory.words import parse
from bookd.storage.engine import open_engine
from bookd.storage.migrate import upgrade
from bookd.wire.inventory.v1 import inventory_pb2 as wire

NOW = 1_700_000_000_123_456

# Books whose account of copies is not what the reservations say. Never one.
UNBALANCED = """
    SELECT b.book_id, b.stock, b.reserved, b.supplied FROM books b
        LEFT JOIN reservation_items i ON i.book_seq = b.seq
        LEFT JOIN reservations r ON r.order_id = i.order_id AND r.status = 'RESERVED'
    GROUP BY b.seq HAVING b.reserved <> coalesce(sum(CASE WHEN r.order_id IS NULL THEN 0 ELSE i.quantity END), 0)
        OR b.stock + b.reserved <> b.supplied OR b.stock < 0
"""


def usd(units: int, nanos: int = 0) -> Money:
    """Dollars."""
    return Money(currency_code="USD", units=units, nanos=nanos)


def draft(book_id: str, title: str = "A Title", author: str = "An Author", isbn: str = "", stock: int = 5) -> Draft:
    """A book at 15.99 USD."""
    return Draft(book_id, title, author, isbn, stock, usd(15, 990_000_000))


class InventoryTestCase(SynchronousTestCase):
    """A test with a database of its own in memory; `on_disk` makes it a file."""

    on_disk = False

    def setUp(self) -> None:
        """Migrate an empty database."""
        self.engine = self.open(Path(self.mktemp()) / "inventory.sqlite" if self.on_disk else ":memory:")
        upgrade(self.engine, "bookd.inventory")

    def open(self, database: str | Path) -> Engine:
        """An engine that is closed after the test."""
        engine = open_engine(database)
        self.addCleanup(engine.dispose)
        return engine

    def connect(self) -> Connection:
        """A connection that is closed after the test, if it is not before."""
        connection = self.engine.connect()
        self.addCleanup(connection.close)
        return connection

    def add(self, *drafts: Draft) -> None:
        """Add books in one transaction."""
        with self.engine.begin() as connection:
            for each in drafts:
                store.create_book(connection, each, NOW)

    def page(self, query: str = "", size: int = 0, token: str = "") -> wire.ListBooksResponse:
        """One page of a list or search."""
        with self.engine.begin() as connection:
            return store.list_books(connection, parse(query), size, token)

    def ids(self, query: str = "") -> list[str]:
        """The ids of the books that a search finds, best first."""
        return [book.book_id for book in self.page(query, 1000).books]

    def assert_balanced(self) -> None:
        """Every copy is accounted for."""
        with self.engine.begin() as connection:
            self.assertEqual(connection.execute(text(UNBALANCED)).all(), [])
