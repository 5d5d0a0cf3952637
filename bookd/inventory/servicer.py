"""Answers the rpcs of bookd.inventory.v1.InventoryService: checks the request, then hands the work to the desk.

Each write goes through the inbox, so that a message that comes again is answered as it was the first time.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from bookd.bridge.crossing import shield
from bookd.contract.call import Call
from bookd.inventory import rules, store, words
from bookd.storage import inbox
from bookd.wire.inventory.v1 import inventory_pb2 as wire

M = TypeVar("M", bound=Message)


class Desk(Protocol):
    """Where units of work run: `bookd.bridge.desk.Desk`, or its fake."""

    def write(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Run `work(connection, *args)`; fires once it is committed."""

    def jot(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Likewise, for work that touches a few rows."""

    def read(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Run `work(connection, *args)`, which changes nothing."""

    def glance(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Run `work(connection, *args)`, which looks up a few rows."""


class Context(Protocol):
    """What is used of a `bookd.bridge.context.Context`."""

    call: Call


class InventoryServicer:
    """The inventory. `now` answers microseconds since the epoch, `new_id` a new book id. `low` is the stock that is told
    to be low."""

    def __init__(self, desk: Desk, now: Callable[[], int], new_id: Callable[[], str], *, low: int) -> None:
        self._desk = desk
        self._low = low
        self._now = now
        self._new_id = new_id

    async def CreateBook(self, request: wire.CreateBookRequest, context: Context) -> wire.Book:
        """Add a book to the catalogue."""
        draft, now = rules.draft(request, self._new_id()), self._now()
        return await self._write(context, wire.Book, now, lambda connection: store.create_book(connection, draft, now))

    async def GetBook(self, request: wire.GetBookRequest, context: Context) -> wire.Book:
        """One book."""
        book: wire.Book = await self._desk.glance(store.get_book, rules.require("book_id", request.book_id))
        return book

    async def ListBooks(self, request: wire.ListBooksRequest, context: Context) -> wire.ListBooksResponse:
        """One page of the catalogue, or of what a search finds."""
        query = words.parse(request.query)
        page: wire.ListBooksResponse = await self._desk.read(
            store.list_books, query, request.page_size, request.page_token
        )
        return page

    async def UpdateBook(self, request: wire.UpdateBookRequest, context: Context) -> wire.Book:
        """Change a book."""
        change, now = rules.change(request), self._now()
        return await self._write(context, wire.Book, now, lambda connection: store.update_book(connection, change, now))

    async def DeleteBook(self, request: wire.DeleteBookRequest, context: Context) -> Empty:
        """Take a book out of the catalogue."""
        book_id, now = rules.require("book_id", request.book_id), self._now()
        return await self._write(context, Empty, now, lambda connection: store.delete_book(connection, book_id, now))

    async def AdjustStock(self, request: wire.AdjustStockRequest, context: Context) -> wire.Book:
        """Add copies, or take them away."""
        quantity, now = rules.adjustment(request), self._now()
        return await self._jot(
            context,
            wire.Book,
            now,
            lambda connection: store.adjust_stock(connection, request.book_id, quantity, now, self._low),
        )

    async def ReserveStock(self, request: wire.ReserveStockRequest, context: Context) -> wire.Reservation:
        """Take an order's items from the stock."""
        lines, now = rules.lines(request), self._now()
        return await self._jot(
            context,
            wire.Reservation,
            now,
            lambda connection: store.reserve_stock(connection, request.order_id, lines, now, self._low),
        )

    async def ReleaseStock(self, request: wire.ReleaseStockRequest, context: Context) -> wire.Reservation:
        """Give an order's items back."""
        order_id, now = rules.order_id(request), self._now()
        return await self._jot(
            context, wire.Reservation, now, lambda connection: store.release_stock(connection, order_id, now)
        )

    async def _write(self, context: Context, answer: type[M], now: int, work: Callable[[Connection], M]) -> M:
        return await shield(self._desk.write(inbox.once, context.call, answer, now, work))

    async def _jot(self, context: Context, answer: type[M], now: int, work: Callable[[Connection], M]) -> M:
        return await shield(self._desk.jot(inbox.once, context.call, answer, now, work))
