"""What a book may look like, and when an order gets its copies."""

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from twisted.trial.unittest import SynchronousTestCase

from bookd.errors import InvalidArgument
from bookd.inventory import rules
from bookd.inventory.rules import Line, OnSale
from bookd.wire.inventory.v1 import inventory_pb2 as wire
from tests.inventory.room import usd


def book(**changes: Any) -> wire.Book:
    """A good book, but for the changes."""
    return wire.Book(**{"title": "Dune", "author": "Frank Herbert", "price": usd(9), **changes})


class RulesTestCase(SynchronousTestCase):
    """Knows which fields an error names."""

    def violated(self, function: Any, *args: Any, **fields: Any) -> list[str]:
        """The fields that the call is refused for."""
        error: InvalidArgument = self.assertRaises(InvalidArgument, function, *args, **fields)
        return [violation.field for violation in error.violations]


class DraftTests(RulesTestCase):
    """CreateBook."""

    def test_good(self) -> None:
        """A good book is taken over as it is; its ISBN becomes thirteen digits."""
        made = rules.draft(
            wire.CreateBookRequest(book=book(isbn="0-441-17271-7", stock=3, title=" Dune\n "), book_id="17"), "new"
        )
        self.assertEqual((made.book_id, made.isbn, made.stock, made.title), ("17", "9780441172719", 3, " Dune\n "))

    def test_ids(self) -> None:
        """Without an id the book gets a new one; the one inside the book may repeat the one beside it."""
        self.assertEqual(rules.draft(wire.CreateBookRequest(book=book()), "new").book_id, "new")
        self.assertEqual(rules.draft(wire.CreateBookRequest(book=book(book_id="a"), book_id="a"), "new").book_id, "a")
        self.assertEqual(
            self.violated(rules.draft, wire.CreateBookRequest(book=book(book_id="a")), "n"), ["book.book_id"]
        )
        for bad in ("a/b", "ä", "x" * 65, " "):
            self.assertEqual(
                self.violated(rules.draft, wire.CreateBookRequest(book=book(), book_id=bad), "n"), ["book_id"]
            )

    def test_all_at_once(self) -> None:
        """Everything that is wrong is named in one answer."""
        request = wire.CreateBookRequest(book=wire.Book(isbn="123", stock=-1, title="x" * 1001))
        self.assertEqual(
            self.violated(rules.draft, request, "n"),
            ["book.title", "book.author", "book.isbn", "book.stock", "book.price.currency_code"],
        )

    def test_each(self) -> None:
        """Each field has its bounds."""
        for field, value in (
            ("title", ""),
            ("title", " "),
            ("title", "a\x00b"),
            ("author", "x" * 1001),
            ("isbn", "9780439023482"),
            ("stock", -1),
        ):
            request = wire.CreateBookRequest(book=book(**{field: value}))
            self.assertEqual(self.violated(rules.draft, request, "n"), [f"book.{field}"])
        self.assertEqual(
            self.violated(rules.draft, wire.CreateBookRequest(book=book(price=usd(-1))), "n"), ["book.price.units"]
        )


class ChangeTests(RulesTestCase):
    """UpdateBook."""

    def change(self, *paths: str, **fields: Any) -> rules.Change:
        """What a request with that mask changes."""
        return rules.change(
            wire.UpdateBookRequest(book=book(book_id="b", **fields), update_mask=FieldMask(paths=paths))
        )

    def test_mask(self) -> None:
        """Only what the mask names is changed, and only that is checked."""
        made = self.change("title", title="New", isbn="rubbish")
        self.assertEqual((made.title, made.author, made.isbn, made.price), ("New", None, None, None))

    def test_isbn_away(self) -> None:
        """An ISBN that is named and empty is taken away."""
        self.assertEqual(self.change("isbn").isbn, "")

    def test_empty_mask(self) -> None:
        """Without a mask the fields that have a value are changed (AIP-134); a request that names none is refused."""
        made = self.change(title="New", isbn="", stock=3)
        self.assertEqual((made.title, made.isbn), ("New", None))
        bare = wire.UpdateBookRequest(book=wire.Book(book_id="b", etag="e", stock=3))
        self.assertEqual(self.violated(rules.change, bare), ["update_mask"])
        self.assertEqual(self.violated(self.change, "etag"), ["update_mask"])

    def test_whole_book(self) -> None:
        """A client may send back the book it read; what the service makes is not taken over."""
        made = self.change("book_id", "title", "created_at", "updated_at", "etag", etag='"1-1"')
        self.assertEqual((made.title, made.etag), ("Dune", '"1-1"'))
        self.assertEqual(self.change("*").author, "Frank Herbert")

    def test_price_parts(self) -> None:
        """A price is changed as a whole, however the mask names it."""
        self.assertEqual(self.change("price.units", "price.currency_code").price, usd(9))

    def test_refused(self) -> None:
        """Stock and unknown fields cannot be changed here."""
        self.assertEqual(self.violated(self.change, "title", "stock"), ["book.stock"])
        self.assertEqual(self.violated(self.change, "title", "pages", "price_"), ["update_mask", "update_mask"])
        self.assertEqual(self.violated(self.change, "title", "isbn", title="", isbn="1"), ["book.title", "book.isbn"])

    def test_no_id(self) -> None:
        """A change needs its book."""
        request = wire.UpdateBookRequest(book=book(), update_mask=FieldMask(paths=["title"]))
        self.assertEqual(self.violated(rules.change, request), ["book.book_id"])


class StockTests(RulesTestCase):
    """AdjustStock, ReserveStock, ReleaseStock."""

    def test_adjustment(self) -> None:
        """Some copies of some book."""
        self.assertEqual(rules.adjustment(wire.AdjustStockRequest(book_id="b", quantity_change=-3)), -3)
        self.assertEqual(self.violated(rules.adjustment, wire.AdjustStockRequest()), ["book_id", "quantity_change"])

    def test_lines(self) -> None:
        """Items of one book are added up, where it came first."""
        request = wire.ReserveStockRequest(order_id="o")
        for book_id, quantity in (("a", 1), ("b", 2), ("a", 3)):
            request.items.add(book_id=book_id, quantity=quantity)
        self.assertEqual(rules.lines(request), [Line("a", 4), Line("b", 2)])

    def test_bad_lines(self) -> None:
        """Each bad item is named by its place."""
        request = wire.ReserveStockRequest(
            order_id="o o", items=[wire.ReservedItem(book_id="a", quantity=0), wire.ReservedItem(quantity=1)]
        )
        self.assertEqual(self.violated(rules.lines, request), ["order_id", "items[0].quantity", "items[1].book_id"])
        self.assertEqual(self.violated(rules.lines, wire.ReserveStockRequest(order_id="o")), ["items"])
        many = wire.ReserveStockRequest(order_id="o", items=[wire.ReservedItem(book_id="a", quantity=1)] * 1001)
        self.assertEqual(self.violated(rules.lines, many), ["items"])

    def test_release(self) -> None:
        """A release names its order."""
        self.assertEqual(rules.order_id(wire.ReleaseStockRequest(order_id="o")), "o")
        self.assertEqual(self.violated(rules.order_id, wire.ReleaseStockRequest()), ["order_id"])

    def test_refusal(self) -> None:
        """All lines or none: whatever is missing is said, for all lines."""
        on_sale = {"a": OnSale("Dune", 3, "USD"), "b": OnSale("Emma", 0, "USD"), "e": OnSale("Faust", 9, "EUR")}
        self.assertEqual(rules.refusal([Line("a", 3)], on_sale), "")
        reason = rules.refusal([Line("a", 4), Line("b", 1), Line("c", 1)], on_sale)
        for part in ("Dune", "has 3 left, 4 were ordered", "Emma", "is sold out", "book c is not in the catalogue"):
            self.assertIn(part, reason)
        self.assertIn("EUR, USD", rules.refusal([Line("a", 1), Line("e", 1)], on_sale))

    def test_etag(self) -> None:
        """A tag is quoted, as HTTP wants it, and belongs to one state of one book."""
        self.assertEqual(rules.etag(12, 7), '"12-7"')
        self.assertNotEqual(rules.etag(1, 12), rules.etag(11, 2))
