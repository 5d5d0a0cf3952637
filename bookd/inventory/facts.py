"""What the inventory tells others: events that go out with the transaction that made them true."""

from sqlalchemy import Connection

from bookd.storage.announce import announce
from bookd.wire.inventory.v1 import events_pb2, inventory_pb2

SOURCE = "bookd.inventory.v1.InventoryService"


def book_changed(connection: Connection, change: events_pb2.BookChange, book: inventory_pb2.Book, now: int) -> None:
    """A book was added, updated or removed; `book` is how it was then."""
    told = events_pb2.BookChanged(change=change, book=book)
    # The tag tells versions apart, those of another book that had the same id too.
    number = f"{book.etag.strip(chr(34))}.{change}"
    announce(connection, SOURCE, told, book.book_id, number, now)


def stock_low(
    connection: Connection, before: int, after: int, threshold: int, *, book_id: str, title: str, version: str, now: int
) -> None:
    """Tell that a book runs out, if its stock fell from above the threshold to it or below."""
    if before > threshold >= after:
        told = events_pb2.StockLow(book_id=book_id, title=title, stock=after, threshold=threshold)
        announce(connection, SOURCE, told, book_id, version, now)
