"""Reads books from a CSV file (RFC 4180), and mends what a spreadsheet has done to their ISBNs.

The first row names the columns. `title` and `authors` (or `author`) have to be there; `isbn13`, `isbn`, `stock`, `price`
and `currency` may be; others are ignored. Titles and authors are taken as they are, without white space around them.

Every book gets an id that follows from what it is: from its ISBN, or from title and author when it has none. So the same
file names the same books whenever it is read. A second row with the same ISBN is another book that bears a wrong one,
unless title and author agree too: then it is the same book once more.
"""

import csv
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from uuid import UUID

from attrs import evolve, field, frozen

from bookd.command.home import CommandError
from bookd.contract import isbn
from bookd.contract.names import named

# Book ids are UUIDs of this namespace (RFC 9562, section 5.5).
NAMESPACE = UUID("6a3f2d0e-6e1b-5f0c-9a57-0b7f3c0de5b1")
COLUMNS = {
    "title": ("title",),
    "author": ("authors", "author"),
    "isbn13": ("isbn13", "isbn_13", "isbn-13"),
    "isbn": ("isbn", "isbn10", "isbn_10", "isbn-10"),
    "stock": ("stock",),
    "price": ("price",),
    "currency": ("currency", "currency_code"),
}
REQUIRED = ("title", "author")
DELIMITERS = ",;\t|"
# Characters in one line. A longer one is no row of a catalogue.
LONGEST_LINE = 1 << 20
_INT32_MAX = 2**31 - 1


@frozen
class Defaults:
    """What a row that does not say has."""

    stock: int = 0
    price: Decimal | None = None
    currency: str = "USD"


@frozen
class Row:
    """A book as its row describes it."""

    number: int  # the line of the file on which it starts; 1 is that with the names of the columns
    book_id: str
    title: str
    author: str
    isbn: str  # ISBN-13, or empty
    repair: str  # how the ISBN was found, in the words of `isbn.How`, or "repeated by another book"
    stock: int
    price: dict[str, Any] = field(factory=dict)  # google.type.Money in JSON

    def body(self) -> dict[str, Any]:
        """The book as `POST /v1/books` takes it."""
        book = {"title": self.title, "author": self.author, "stock": self.stock, "price": self.price}
        return {**book, "isbn": self.isbn} if self.isbn else book


@frozen
class Refused:
    """A row that no book can be made of."""

    number: int
    reason: str


@frozen
class Repeated:
    """A row that describes the same book as an earlier one."""

    number: int
    earlier: int


REPEATED_ISBN = "repeated by another book"


def read(path: Path, defaults: Defaults, encoding: str = "utf-8-sig") -> Iterator[Row | Refused | Repeated]:
    """The rows of the file, in order. Raises `CommandError` when it is not a CSV file of books at all."""
    try:
        with path.open(encoding=encoding, newline="") as file:
            yield from _rows(_Lines(file, path), path, defaults)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CommandError(
            f"{path} is not a text in {encoding.removesuffix('-sig')} (byte {error.object[error.start]:#04x});"
            " if it is one in another encoding, name that with --encoding"
        ) from error
    except LookupError as error:
        raise CommandError(f"there is no encoding {encoding!r}") from error


class _Lines:
    """The lines of a file, none of which may fill the memory."""

    def __init__(self, file: Any, path: Path) -> None:
        self._file = file
        self._path = path
        self._number = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line: str = self._file.readline(LONGEST_LINE + 1)
        if not line:
            raise StopIteration
        self._number += 1
        if len(line) > LONGEST_LINE:
            raise CommandError(
                f"{self._path}: line {self._number} has more than {LONGEST_LINE:,} characters; this is no list of books"
            )
        return line


def _rows(lines: _Lines, path: Path, defaults: Defaults) -> Iterator[Row | Refused | Repeated]:
    heading = next(lines, "")
    delimiter = max(DELIMITERS, key=heading.count)
    names = [name.strip().lower() for name in next(csv.reader([heading], delimiter=delimiter), [])]
    where = _columns(names, path)
    if "price" not in where and defaults.price is None:
        raise CommandError(f"{path} has no column price; say what a book costs with --price")
    seen = Seen()
    # strict: a quote that is never closed would swallow the rest of the file
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 2
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Refused(number, f"is no CSV: {error}")
            continue
        if not cells:
            continue  # an empty line
        if len(cells) != len(names):
            yield Refused(number, f"has {len(cells)} cells where the first row names {len(names)} columns")
        else:
            made = _book(number, {name: cells[place].strip() for name, place in where.items()}, defaults)
            yield seen.place(made) if isinstance(made, Row) else made


def _columns(names: list[str], path: Path) -> dict[str, int]:
    where = {}
    for column, spellings in COLUMNS.items():
        found = [names.index(spelling) for spelling in spellings if spelling in names]
        if found:
            where[column] = found[0]
    missing = [" or ".join(COLUMNS[column]) for column in REQUIRED if column not in where]
    if missing:
        shown = ", ".join(name[:30] if name.isprintable() else "?" for name in names[:12]) or "nothing"
        raise CommandError(f"{path} has no column {' and no column '.join(missing)}; its first row holds {shown}")
    return where


def _book(number: int, cells: dict[str, str], defaults: Defaults) -> Row | Refused:
    for column in REQUIRED:
        if not cells[column]:
            return Refused(number, f"has no {column}")
    found = isbn.find(cells.get("isbn", ""), cells.get("isbn13", ""))
    try:
        stock = _stock(cells.get("stock", ""), defaults.stock)
        price = money(cells.get("price", ""), cells.get("currency", ""), defaults)
    except ValueError as error:
        return Refused(number, str(error))
    return Row(number, "", cells["title"], cells["author"], found.isbn, found.how.value, stock, price)


def _stock(text: str, default: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > _INT32_MAX:
        raise ValueError(f"stock is {text[:40]!r}, which is no number of copies")
    return int(text)


def money(text: str, currency: str, defaults: Defaults) -> dict[str, Any]:
    """google.type.Money in JSON for an amount like "15.99". Raises `ValueError` for what is no amount."""
    try:
        amount = Decimal(text) if text else defaults.price
    except InvalidOperation:
        raise ValueError(f"price is {text[:40]!r}, which is no amount like 15.99") from None
    if amount is None:
        raise ValueError("has no price, and there is no --price")
    if not amount.is_finite() or amount < 0 or amount > 10**12 or amount != round(amount, 9):
        raise ValueError(f"price is {str(amount)[:40]}, which is no amount of money")
    units = int(amount)
    nanos = int((amount - units) * 10**9)
    return {"currency_code": (currency or defaults.currency).upper(), "units": str(units), "nanos": nanos}


class Seen:
    """Gives the rows of one file their ids, and finds those that come again."""

    def __init__(self) -> None:
        self._isbns: dict[str, Row] = {}
        self._ids: dict[str, int] = {}

    def place(self, row: Row) -> Row | Repeated:
        """The row with its id, without its ISBN when that belongs to an earlier one; or the news that it is the same."""
        if row.isbn:
            first = self._isbns.setdefault(row.isbn, row)
            if first is not row:
                if (first.title, first.author) == (row.title, row.author):
                    return Repeated(row.number, first.number)
                row = evolve(row, isbn="", repair=REPEATED_ISBN)
        row = evolve(row, book_id=named(NAMESPACE, identity(row)))
        earlier = self._ids.setdefault(row.book_id, row.number)
        return row if earlier == row.number else Repeated(row.number, earlier)


def identity(row: Row) -> str:
    """What makes the row's book the same book in another file."""
    return f"isbn:{row.isbn}" if row.isbn else f"title:{row.title}\nauthor:{row.author}"
