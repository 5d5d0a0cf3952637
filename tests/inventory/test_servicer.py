"""The rpcs, from request to response, over a desk without threads."""

from itertools import count
from typing import Any

from attrs import define
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from twisted.internet.defer import Deferred

from bookd.contract.call import Call, fingerprint
from bookd.errors import AlreadyExists, InvalidArgument, NotFound
from bookd.inventory.servicer import InventoryServicer
from bookd.testing.desk import ImmediateDesk
from bookd.wire.inventory.v1 import inventory_pb2 as wire
from tests.inventory.room import NOW, InventoryTestCase, usd

INTENT = "0190a0b0-0000-7000-8000-000000000001"


@define
class FakeContext:
    """The call as the server's context tells it."""

    call: Call


class ServicerTests(InventoryTestCase):
    """One servicer over a database in memory."""

    def setUp(self) -> None:
        """Make it."""
        super().setUp()
        ids = count(1)
        self.now = NOW
        self.servicer = InventoryServicer(
            ImmediateDesk(self.engine),
            lambda: self.now,
            lambda: f"new-{next(ids)}",
            low=5,
        )

    def call(self, name: str, request: Message, message_id: str | None = None) -> Any:
        """Call an rpc as a client does."""
        path = f"/bookd.inventory.v1.InventoryService/{name}"
        context = FakeContext(Call(message_id, path, fingerprint(path, request)))
        return self.successResultOf(Deferred.fromCoroutine(getattr(self.servicer, name)(request, context)))

    def refused(self, kind: type[Exception], name: str, request: Message, message_id: str | None = None) -> Any:
        """Call an rpc that fails; its error."""
        path = f"/bookd.inventory.v1.InventoryService/{name}"
        context = FakeContext(Call(message_id, path, fingerprint(path, request)))
        failure = self.failureResultOf(Deferred.fromCoroutine(getattr(self.servicer, name)(request, context)), kind)
        return failure.value

    def create(self, title: str = "Dune", message_id: str | None = None, **changes: Any) -> wire.Book:
        """Add a book."""
        book = wire.Book(**{"title": title, "author": "Frank Herbert", "price": usd(9), "stock": 5, **changes})
        made: wire.Book = self.call("CreateBook", wire.CreateBookRequest(book=book), message_id)
        return made

    def test_life_of_a_book(self) -> None:
        """Created, read, found, changed, stocked, deleted."""
        book = self.create(isbn="0-441-17271-7")
        self.assertEqual((book.book_id, book.isbn), ("new-1", "9780441172719"))
        self.assertEqual(self.call("GetBook", wire.GetBookRequest(book_id="new-1")), book)
        self.assertEqual(self.call("ListBooks", wire.ListBooksRequest(query="herbert")).books[0], book)
        self.now += 1
        update = wire.UpdateBookRequest(
            book=wire.Book(book_id="new-1", title="Dune Messiah"), update_mask=FieldMask(paths=["title"])
        )
        self.assertEqual(self.call("UpdateBook", update).title, "Dune Messiah")
        adjust = wire.AdjustStockRequest(book_id="new-1", quantity_change=-2)
        self.assertEqual(self.call("AdjustStock", adjust).stock, 3)
        self.assertEqual(self.call("DeleteBook", wire.DeleteBookRequest(book_id="new-1")), Empty())
        self.refused(NotFound, "GetBook", wire.GetBookRequest(book_id="new-1"))

    def test_order(self) -> None:
        """Reserved and released."""
        book = self.create()
        request = wire.ReserveStockRequest(order_id="o", items=[wire.ReservedItem(book_id=book.book_id, quantity=2)])
        made = self.call("ReserveStock", request)
        self.assertEqual((made.status, made.items[0].unit_price), (wire.RESERVATION_STATUS_RESERVED, usd(9)))
        released = self.call("ReleaseStock", wire.ReleaseStockRequest(order_id="o"))
        self.assertEqual(released.status, wire.RESERVATION_STATUS_RELEASED)
        self.assert_balanced()

    def test_every_write_counts_once(self) -> None:
        """Each write that comes twice under one id is answered from the record, also when it could not be done again."""
        book = self.create(message_id=INTENT)
        self.assertEqual(self.create(message_id=INTENT), book)
        for number, (name, request) in enumerate(
            (
                ("AdjustStock", wire.AdjustStockRequest(book_id=book.book_id, quantity_change=1)),
                (
                    "UpdateBook",
                    wire.UpdateBookRequest(
                        book=wire.Book(book_id=book.book_id, title="T"), update_mask=FieldMask(paths=["title"])
                    ),
                ),
                (
                    "ReserveStock",
                    wire.ReserveStockRequest(order_id="o", items=[wire.ReservedItem(book_id=book.book_id, quantity=1)]),
                ),
                ("ReleaseStock", wire.ReleaseStockRequest(order_id="o")),
                ("DeleteBook", wire.DeleteBookRequest(book_id=book.book_id)),
            ),
            2,
        ):
            message_id = f"{INTENT[:-1]}{number}"
            first = self.call(name, request, message_id)
            self.now += 1
            self.assertEqual(self.call(name, request, message_id), first, name)
        self.assertEqual(self.page().total_size, 0)

    def test_id_of_another_request(self) -> None:
        """An id that was used for another request is refused."""
        self.create(message_id=INTENT)
        error = self.refused(
            InvalidArgument, "AdjustStock", wire.AdjustStockRequest(book_id="new-1", quantity_change=1), INTENT
        )
        self.assertEqual(error.reason, "IDEMPOTENCY_KEY_REUSED")

    def test_refused_write_stays_refused(self) -> None:
        """A write that was refused is refused under its id for ever: its sender was told so. Under another it may succeed."""
        request = wire.AdjustStockRequest(book_id="new-1", quantity_change=1)
        self.refused(NotFound, "AdjustStock", request, INTENT)
        self.create()
        self.refused(NotFound, "AdjustStock", request, INTENT)
        self.assertEqual(self.call("AdjustStock", request, INTENT[:-1] + "f").stock, 6)

    def test_bad_requests(self) -> None:
        """Empty requests are refused, each by a field."""
        for name, request in (
            ("CreateBook", wire.CreateBookRequest()),
            ("GetBook", wire.GetBookRequest()),
            ("ListBooks", wire.ListBooksRequest(page_size=-1)),
            ("ListBooks", wire.ListBooksRequest(page_token="x")),
            ("ListBooks", wire.ListBooksRequest(query="x" * 501)),
            ("UpdateBook", wire.UpdateBookRequest()),
            ("DeleteBook", wire.DeleteBookRequest()),
            ("AdjustStock", wire.AdjustStockRequest()),
            ("ReserveStock", wire.ReserveStockRequest()),
            ("ReleaseStock", wire.ReleaseStockRequest()),
        ):
            error = self.refused(InvalidArgument, name, request)
            self.assertTrue(error.violations, name)

    def test_taken(self) -> None:
        """A second book with the ISBN is refused."""
        self.create(isbn="9780441172719")
        book = wire.Book(title="x", author="y", price=usd(1), isbn="0441172717")
        error = self.refused(AlreadyExists, "CreateBook", wire.CreateBookRequest(book=book))
        self.assertEqual(error.violations[0].field, "book.isbn")
