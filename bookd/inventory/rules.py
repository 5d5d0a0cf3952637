"""What a book may look like, and when an order gets its copies. Pure functions of requests and of what is in stock."""

import re
from collections.abc import Mapping, Sequence

from attrs import frozen
from google.type.money_pb2 import Money

from bookd.contract import isbn, money
from bookd.contract.checks import Checks
from bookd.errors import InvalidArgument
from bookd.wire.inventory.v1 import inventory_pb2

INT32_MAX = 2**31 - 1
MAX_TEXT = 1000
# The most lines an order has (bookd.orders.v1), with room for other callers.
MAX_LINES = 1000

UPDATABLE = ("title", "author", "isbn", "price")
# May stand in a mask, as a client that sends back a whole book names them; they are not taken over (AIP-203).
_NOT_TAKEN = frozenset({"book_id", "created_at", "updated_at", "etag"})

_BOOK_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ORDER_ID = re.compile(r"[!-~]{1,64}")


@frozen
class Draft:
    """A book that is about to be added. `isbn` is an ISBN-13 or empty."""

    book_id: str
    title: str
    author: str
    isbn: str
    stock: int
    price: Money


@frozen
class Change:
    """New values of a book's fields; None leaves a field as it is. An empty `isbn` takes the ISBN away."""

    book_id: str
    etag: str
    title: str | None = None
    author: str | None = None
    isbn: str | None = None
    price: Money | None = None


@frozen
class Line:
    """Copies of one book that an order asks for."""

    book_id: str
    quantity: int


@frozen
class OnSale:
    """What counts of a book when an order asks for it."""

    title: str
    stock: int
    currency_code: str


def draft(request: inventory_pb2.CreateBookRequest, new_id: str) -> Draft:
    """The book that the request describes, with `new_id` if it names no id. Raises `InvalidArgument` with all that is
    wrong with it."""
    book = request.book
    checks = Checks()
    if request.book_id:
        checks.require(
            _BOOK_ID.fullmatch(request.book_id) is not None,
            "book_id",
            "must be 1 to 64 characters of A-Z a-z 0-9 - _ .",
        )
    checks.require(
        book.book_id in ("", request.book_id), "book.book_id", "must be empty, or the book_id beside the book"
    )
    checks.text("book.title", book.title, 1, MAX_TEXT)
    checks.text("book.author", book.author, 1, MAX_TEXT)
    number = _isbn(checks, book.isbn)
    checks.require(book.stock >= 0, "book.stock", "must not be negative")
    money.check(checks, "book.price", book.price)
    checks.done()
    return Draft(request.book_id or new_id, book.title, book.author, number, book.stock, book.price)


def change(request: inventory_pb2.UpdateBookRequest) -> Change:
    """What the request changes. Raises `InvalidArgument` with all that is wrong with it."""
    book = request.book
    checks = Checks()
    checks.require(bool(book.book_id), "book.book_id", "must not be empty")
    # Without a mask it is the fields that have a value (AIP-134).
    named = set(request.update_mask.paths) or {field.name for field, _ in book.ListFields()} & set(UPDATABLE)
    paths = set(UPDATABLE) if named == {"*"} else named - _NOT_TAKEN  # "*" replaces the whole book (AIP-134)
    # A client that sends a price sends all of it; a mask that was made from its JSON may name the parts.
    paths = {"price" if path.startswith("price.") else path for path in paths}
    for path in sorted(paths - set(UPDATABLE)):
        if path == "stock":
            checks.require(False, "book.stock", "is changed with adjustStock")
        else:
            checks.require(False, "update_mask", f"names {path[:64]!r}, which a book does not have")
    checks.require(bool(paths), "update_mask", f"must name a field to change: {', '.join(UPDATABLE)}")
    if "title" in paths:
        checks.text("book.title", book.title, 1, MAX_TEXT)
    if "author" in paths:
        checks.text("book.author", book.author, 1, MAX_TEXT)
    number = _isbn(checks, book.isbn) if "isbn" in paths else None
    if "price" in paths:
        money.check(checks, "book.price", book.price)
    checks.done()
    return Change(
        book_id=book.book_id,
        etag=book.etag,
        title=book.title if "title" in paths else None,
        author=book.author if "author" in paths else None,
        isbn=number,
        price=book.price if "price" in paths else None,
    )


def adjustment(request: inventory_pb2.AdjustStockRequest) -> int:
    """The copies to add or take away. Raises `InvalidArgument` for none, and when there is no id."""
    checks = Checks()
    checks.require(bool(request.book_id), "book_id", "must not be empty")
    checks.require(request.quantity_change != 0, "quantity_change", "must not be zero")
    checks.done()
    return request.quantity_change


def lines(request: inventory_pb2.ReserveStockRequest) -> list[Line]:
    """What the order asks for, one line a book. Raises `InvalidArgument` with all that is wrong with the request."""
    checks = Checks()
    _order_id(checks, request.order_id)
    if not checks.require(1 <= len(request.items) <= MAX_LINES, "items", f"must have 1 to {MAX_LINES:,} items"):
        checks.done()
    wanted: dict[str, int] = {}
    for index, item in enumerate(request.items):
        checks.require(bool(item.book_id), f"items[{index}].book_id", "must not be empty")
        if checks.require(item.quantity >= 1, f"items[{index}].quantity", "must be at least 1"):
            wanted[item.book_id] = wanted.get(item.book_id, 0) + item.quantity
    checks.done()
    return [Line(book_id, quantity) for book_id, quantity in wanted.items()]


def order_id(request: inventory_pb2.ReleaseStockRequest) -> str:
    """The order that gives its copies back. Raises `InvalidArgument` when it cannot be one."""
    checks = Checks()
    _order_id(checks, request.order_id)
    checks.done()
    return request.order_id


def require(field: str, value: str) -> str:
    """`value`; raises `InvalidArgument` when it is empty."""
    if not value:
        raise InvalidArgument.field(field, "must not be empty")
    return value


def refusal(wanted: Sequence[Line], on_sale: Mapping[str, OnSale]) -> str:
    """Why the order cannot have all its lines, for a person; empty when it can."""
    reasons = []
    for line in wanted:
        book = on_sale.get(line.book_id)
        if book is None:
            reasons.append(f"book {line.book_id[:64]} is not in the catalogue")
        elif book.stock < line.quantity:
            left = "is sold out" if book.stock == 0 else f"has {book.stock} left, {line.quantity} were ordered"
            reasons.append(f"book {line.book_id} ({book.title}) {left}")
    if reasons:
        return "; ".join(reasons)
    currencies = sorted({on_sale[line.book_id].currency_code for line in wanted})
    if len(currencies) > 1:
        return f"the books have prices in different currencies: {', '.join(currencies)}"
    return ""


def etag(seq: int, version: int) -> str:
    """A strong entity tag (RFC 9110, section 8.8.3), quotes included. A book that was deleted and added again under its
    old id has another `seq`, so no tag comes twice."""
    return f'"{seq}-{version}"'


def _isbn(checks: Checks, text: str) -> str:
    number = isbn.normalise(text) if text.strip() else ""
    checks.require(number is not None, "book.isbn", "must be an ISBN-13 or ISBN-10 with a right check digit")
    return number or ""


def _order_id(checks: Checks, value: str) -> None:
    checks.require(_ORDER_ID.fullmatch(value) is not None, "order_id", "must be 1 to 64 visible characters")
