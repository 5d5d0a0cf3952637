"""Reading books from CSV files, sound, spoilt and hostile."""

import os
from decimal import Decimal
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from bookd.command import catalogue
from bookd.command.catalogue import Defaults, Refused, Repeated, Row
from bookd.command.home import CommandError

GOODBOOKS = Path(__file__).parents[3] / "shared" / "data" / "goodbooks-10k" / "books.csv"
DEFAULTS = Defaults(5, Decimal("9.99"))


class CatalogueCase(SynchronousTestCase):
    """Files in a folder of the test's own."""

    def file(self, content: str | bytes) -> Path:
        """A file that holds `content`."""
        path = Path(self.mktemp())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def read(self, content: str | bytes, defaults: Defaults = DEFAULTS) -> list[Row | Refused | Repeated]:
        """The rows of a file that holds `content`."""
        return list(catalogue.read(self.file(content), defaults))

    def row(self, content: str, defaults: Defaults = DEFAULTS) -> Row:
        """The only row of a file."""
        (row,) = self.read(content, defaults)
        assert isinstance(row, Row), row
        return row

    def refusal(self, content: str | bytes, defaults: Defaults = DEFAULTS) -> str:
        """What is said of a file that is no catalogue: one line."""
        error = self.assertRaises(CommandError, self.read, content, defaults)
        self.assertNotIn("\n", error.message)
        return str(error.message)


class RowTests(CatalogueCase):
    """What a row becomes."""

    def test_all_columns(self) -> None:
        """Title, author, ISBN, stock, price and currency are taken from their columns, in any order."""
        row = self.row("price,isbn13,author,title,stock,currency\n7.5,978-0-439-02348-1,A,T,3,eur\n")
        self.assertEqual((row.title, row.author, row.isbn, row.stock, row.number), ("T", "A", "9780439023481", 3, 2))
        self.assertEqual(row.price, {"currency_code": "EUR", "units": "7", "nanos": 500_000_000})
        self.assertEqual(set(row.body()), {"title", "author", "stock", "price", "isbn"})

    def test_defaults(self) -> None:
        """What a row does not say comes from the options."""
        row = self.row("title,authors,stock,price\nT,A,,\n")
        self.assertEqual((row.stock, row.price["units"], row.price["nanos"]), (5, "9", 990_000_000))
        self.assertNotIn("isbn", row.body())

    def test_titles_as_they_are(self) -> None:
        """Commas, quotes, line breaks and every script stay; only white space around is taken away."""
        row = self.row('title,author\n" Die ""Räuber"",\n2. Teil ","紅樓夢, Лев"\n')
        self.assertEqual((row.title, row.author), ('Die "Räuber",\n2. Teil', "紅樓夢, Лев"))

    def test_spreadsheet_isbn(self) -> None:
        """A rounded ISBN-13 and an ISBN-10 without its zero are mended, and the row says how."""
        row = self.row("title,author,isbn,isbn13\nT,A,439023483,9.78043902348e+12\n")
        self.assertEqual((row.isbn, row.repair), ("9780439023481", "from the ISBN-10"))

    def test_isbn_beyond_repair(self) -> None:
        """A book whose ISBN cannot be mended is loaded without one."""
        row = self.row("title,author,isbn13\nT,A,12345\n")
        self.assertEqual((row.isbn, row.repair), ("", "beyond repair"))

    def test_refused_rows(self) -> None:
        """Each row that is no book is refused with its line and reason, and the others are read."""
        rows = self.read(
            "title,author,stock,price\n,A,1,1\nT,,1,1\nT,A,-1,1\nT,A,1e3,1\nT,A,1,x\nT,A,1,-1\nT,A,1,NaN\nT,A\nT,A,1,1,1\nT,A,1,1\n"
        )
        reasons = {row.number: row.reason for row in rows if isinstance(row, Refused)}
        self.assertEqual(sorted(reasons), [2, 3, 4, 5, 6, 7, 8, 9, 10])
        self.assertEqual((reasons[2], reasons[3]), ("has no title", "has no author"))
        self.assertIn("'-1'", reasons[4])
        self.assertIn("'x'", reasons[6])
        self.assertIn("2 cells", reasons[9])
        self.assertIsInstance(rows[-1], Row)

    def test_lines_are_those_of_the_file(self) -> None:
        """A row's number is the line on which it starts, however many lines the rows before it take."""
        rows = self.read('title,author\n"a\nb",A\n\n\nT,A\n')
        self.assertEqual([row.number for row in rows], [2, 6])

    def test_delimiters(self) -> None:
        """Semicolons and tabs separate cells when the first row has them."""
        for mark in ";\t|":
            self.assertEqual(self.row(f"title{mark}author\nA, B{mark}C\n").title, "A, B")

    def test_byte_order_mark(self) -> None:
        """What a spreadsheet puts before the first letter is no part of a name."""
        self.assertEqual(self.row("\ufefftitle,author\nT,A\n").title, "T")


class IdentityTests(CatalogueCase):
    """Ids that follow from the books."""

    def test_same_book_same_id(self) -> None:
        """An id depends on the ISBN only, or on title and author of a book without."""
        one = self.row("title,author,isbn\nT,A,0439023483\n").book_id
        two = self.row("author,title,isbn13\nB,U,9780439023481\n").book_id
        self.assertEqual(one, two)
        self.assertEqual(self.row("title,author\nT,A\n").book_id, self.row("author,title\nA,T\n").book_id)

    def test_title_and_author_cannot_be_confused(self) -> None:
        """Moving words from title to author makes another book."""
        self.assertNotEqual(self.row("title,author\nA B,C\n").book_id, self.row("title,author\nA,B C\n").book_id)

    def test_repeated_rows(self) -> None:
        """The same book once more is told with the earlier line; another book with its ISBN is loaded without it."""
        rows = self.read(
            "title,author,isbn\nT,A,0439023483\nT,A,0439023483\nU,B,0439023483\nU,B,0439023483\nV,C,\nV,C,\n"
        )
        first, again, other, other_again, plain, plain_again = rows
        self.assertEqual(again, Repeated(3, 2))
        assert isinstance(first, Row) and isinstance(other, Row) and isinstance(plain, Row)
        self.assertEqual((other.isbn, other.repair), ("", "repeated by another book"))
        self.assertEqual((other_again, plain_again), (Repeated(5, 4), Repeated(7, 6)))
        self.assertEqual(len({first.book_id, other.book_id, plain.book_id}), 3)


class HostileTests(CatalogueCase):
    """Files that are no catalogue get one clear line, and never the memory."""

    def test_missing_columns(self) -> None:
        """The line names what is missing and what is there."""
        self.assertIn(
            "has no column title and no column authors or author; its first row holds a, b", self.refusal("a,b\n1,2\n")
        )

    def test_empty_file(self) -> None:
        """A file without a byte, and one of empty lines."""
        for content in ("", "\n\n\n", "\ufeff"):
            self.assertIn("its first row holds nothing", self.refusal(content))

    def test_no_price(self) -> None:
        """Without a column and without the option, nobody knows what a book costs."""
        self.assertIn("--price", self.refusal("title,author\nT,A\n", Defaults()))

    def test_other_encoding(self) -> None:
        """A file in Latin-1 is told with the byte, and can be read with its encoding named."""
        content = "title,author\nÄ,É\n".encode("latin-1")
        self.assertIn("--encoding", self.refusal(content))
        (row,) = catalogue.read(self.file(content), DEFAULTS, "latin-1")
        self.assertEqual((row.title, row.author) if isinstance(row, Row) else row, ("Ä", "É"))

    def test_no_such_encoding(self) -> None:
        """An encoding that Python does not have."""
        error = self.assertRaises(CommandError, list, catalogue.read(self.file(""), DEFAULTS, "klingon"))
        self.assertIn("klingon", error.message)

    def test_binary(self) -> None:
        """An image, a compressed file, zeros."""
        for content in (b"\x89PNG\r\n\x1a\n\xff", b"\x1f\x8b\x08\x00\xe9", b"\x00" * 5000):
            self.refusal(content)

    def test_no_file(self) -> None:
        """A missing file and a folder."""
        folder = self.file("").parent
        for path, said in ((folder / "missing.csv", "No such file"), (folder, "Is a directory")):
            self.assertIn(said, self.assertRaises(CommandError, list, catalogue.read(path, DEFAULTS)).message)

    def test_line_of_a_gigabyte(self) -> None:
        """A line without an end is given up at its first megabyte."""
        path = self.file("title,author\n")
        with path.open("ab") as file:
            file.truncate(1 << 30)
        error = self.assertRaises(CommandError, list, catalogue.read(path, DEFAULTS))
        self.assertIn("line 2 has more than", error.message)

    def test_quote_that_is_never_closed(self) -> None:
        """It spoils the rows that it swallows, up to the largest cell there is, and not the whole file."""
        rows = self.read("title,author\n" + '"open,A\n' + "T,A,more than two\n" * 40_000)
        self.assertTrue(all(isinstance(row, Refused) for row in rows))
        self.assertIn("is no CSV", rows[0].reason if isinstance(rows[0], Refused) else "")
        self.assertGreater(len(rows), 1000)

    def test_amounts_that_explode(self) -> None:
        """An amount with a huge exponent is refused, and costs no time."""
        for text in ("1e999999999", "1e-999999999", "9" * 10_000, "Infinity", "-0.01", "0.0000000001"):
            (row,) = self.read(f"title,author,price\nT,A,{text}\n")
            self.assertIsInstance(row, Refused, text[:20])

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=300))
    def test_anything(self, content: bytes) -> None:
        """Whatever a file holds below sound names of columns, each row is a book or refused, or the file is."""
        path = Path(self.mktemp() + os.urandom(4).hex())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"title,author,isbn,isbn13,stock,price\n" + content)
        try:
            for row in catalogue.read(path, DEFAULTS):
                self.assertIsInstance(row, Row | Refused | Repeated)
        except CommandError as error:
            self.assertNotIn("\n", error.message)
        finally:
            path.unlink()


class GoodbooksTests(CatalogueCase):
    """The real catalogue of 10,000 books."""

    def test_every_row_is_a_book(self) -> None:
        """No row is refused or repeated, all ids differ, and nearly every ISBN is mended."""
        if not GOODBOOKS.exists():
            raise SkipTest(f"{GOODBOOKS} is not here")
        rows = list(catalogue.read(GOODBOOKS, DEFAULTS))
        books = [row for row in rows if isinstance(row, Row)]
        self.assertEqual((len(rows), len(books), len({book.book_id for book in books})), (10_000, 10_000, 10_000))
        isbns = [book.isbn for book in books if book.isbn]
        self.assertEqual(len(isbns), len(set(isbns)))
        self.assertGreater(len(isbns), 9_300)

    def test_no_sample_among_them(self) -> None:
        """The sample that ships has books of its own only."""
        if not GOODBOOKS.exists():
            raise SkipTest(f"{GOODBOOKS} is not here")
        sample = list(catalogue.read(Path(catalogue.__file__).with_name("sample.csv"), DEFAULTS))
        theirs = {row.book_id for row in catalogue.read(GOODBOOKS, DEFAULTS) if isinstance(row, Row)}
        self.assertEqual([row for row in sample if not isinstance(row, Row) or row.book_id in theirs], [])
