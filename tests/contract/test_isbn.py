"""ISBNs as people and spreadsheets write them."""

import csv
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import bookd
from bookd.contract import isbn
from bookd.contract.isbn import Found, How

CATALOGUE = Path(bookd.__file__).parents[2] / "shared/data/goodbooks-10k/books.csv"

nine_digits = st.text("0123456789", min_size=9, max_size=9)


class NormaliseTests(SynchronousTestCase):
    """One form for all ways of writing."""

    def test_forms(self) -> None:
        """Hyphens, spaces, labels and ISBN-10s all end as thirteen digits."""
        for text in (
            "9780439023481",
            "978-0-439-02348-1",
            " 978 0 439 02348 1 ",
            "ISBN 978-0-439-02348-1",
            "isbn-13: 9780439023481",
            "978\u20110\u2013439\u00a002348\u20111",
            "0439023483",
            "0-439-02348-3",
            "ISBN-10 0 439 02348 3",
        ):
            self.assertEqual(isbn.normalise(text), "9780439023481", text)

    def test_x(self) -> None:
        """The check digit of an ISBN-10 may be X, in either case."""
        self.assertEqual(isbn.normalise("080442957X"), "9780804429573")
        self.assertEqual(isbn.normalise("0-8044-2957-x"), "9780804429573")

    def test_979(self) -> None:
        """Newer ISBN-13s begin with 979."""
        self.assertEqual(isbn.normalise("979-10-90636-07-1"), "9791090636071")

    def test_refused(self) -> None:
        """Wrong check digits, other lengths, other prefixes, other digits and plain words are no ISBN."""
        for text in (
            "",
            "X",
            "9780439023482",
            "0439023484",
            "439023483",
            "97804390234811",
            "1234567890128",
            "X439023483",
            "978043902348X",
            "٩٧٨٠٤٣٩٠٢٣٤٨١",
            "harry potter",
            "0" * 10_000,
        ):
            self.assertIsNone(isbn.normalise(text), text[:30])

    @given(nine_digits)
    def test_conversion(self, digits: str) -> None:
        """Every ISBN-10 has an ISBN-13 that holds its nine digits and a right check digit."""
        thirteen = isbn.normalise(digits + isbn.check_digit_10(digits))
        self.assertEqual(thirteen, isbn.normalise(f"978{digits}{isbn.check_digit_13('978' + digits)}"))

    @given(nine_digits, st.integers(0, 11), st.integers(1, 9))
    def test_one_wrong_digit(self, digits: str, place: int, off: int) -> None:
        """Any one wrong digit is found."""
        right = f"978{digits}{isbn.check_digit_13('978' + digits)}"
        wrong = right[:place] + str((int(right[place]) + off) % 10) + right[place + 1 :]
        self.assertIsNone(isbn.normalise(wrong))


class FindTests(SynchronousTestCase):
    """The ISBN of a spreadsheet's row, from its two columns."""

    def test_blemishes(self) -> None:
        """Each way in which real rows are spoilt, and what becomes of it."""
        for ten, thirteen, expected in (
            # leading zeros gone, the ISBN-13 rounded
            ("439023483", "9.78043902348e+12", Found("9780439023481", How.FROM_ISBN_10)),
            ("61120081", "9.78006112008e+12", Found("9780061120084", How.FROM_ISBN_10)),
            ("7442912", "9.78000744291e+12", Found("9780007442911", How.FROM_ISBN_10)),
            # trailing zeros of the rounded number are not written
            ("61234001", "9.780061234e+12", Found("9780061234002", How.FROM_ISBN_10)),
            # no ISBN-13, or a number that is none (a UPC, a bar code)
            ("439023483", "", Found("9780439023481", How.FROM_ISBN_10)),
            ("553609416", "76783609419.0", Found("9780553609417", How.FROM_ISBN_10)),
            ("078948045X", "6.35517080452e+11", Found("9780789480453", How.FROM_ISBN_10)),
            # nothing is spoilt
            ("0439023483", "", Found("9780439023481", How.AS_WRITTEN)),
            ("", "9780439023481", Found("9780439023481", How.AS_WRITTEN)),
            ("439023483", "9780439023481.0", Found("9780439023481", How.AS_WRITTEN)),
            # the rounded ISBN-13 alone: one number fits, or two do
            ("", "9.7804251888e+12", Found("", How.BEYOND_REPAIR)),
            ("", "9.78067172365e+12", Found("9780671723651", How.FROM_CHECK_DIGIT)),
            # the end of the ISBN-13 stands in the ISBN-10's column
            ("385535144", "9.78038553514e+12", Found("9780385535144", How.FROM_BOTH)),
            # numbers of e-book shops
            ("", "2.94001623192e+12", Found("", How.BEYOND_REPAIR)),
            ("152061548", "", Found("", How.BEYOND_REPAIR)),
            ("", "", Found("", How.ABSENT)),
            (" ", " ", Found("", How.ABSENT)),
        ):
            self.assertEqual(isbn.find(ten, thirteen), expected, (ten, thirteen))

    @given(nine_digits)
    def test_rounded(self, digits: str) -> None:
        """Of a rounded ISBN-13 the right one is always among the candidates, and they are two at most."""
        right = f"978{digits}{isbn.check_digit_13('978' + digits)}"
        candidates = isbn.rounded_isbn_13(f"{float(right):.12g}")
        self.assertIn(right, candidates)
        self.assertLessEqual(len(candidates), 2)

    @given(nine_digits)
    def test_both_columns_spoilt(self, digits: str) -> None:
        """As long as the ISBN-10 has only lost zeros the ISBN is found."""
        ten = digits + isbn.check_digit_10(digits)
        right = isbn.from_isbn_10(ten) or ""
        self.assertEqual(isbn.find(ten.lstrip("0"), f"{float(right):.12g}").isbn, right)

    @given(st.text(max_size=30), st.text(max_size=30))
    def test_garbage(self, ten: str, thirteen: str) -> None:
        """Any two texts give an answer."""
        isbn.find(ten, thirteen)

    def test_real_catalogue(self) -> None:
        """Of a real list of 10,000 books 9,335 get an ISBN, no two of them the same."""
        if not CATALOGUE.exists():
            self.skipTest(f"the real catalogue is not at {CATALOGUE}")
        with CATALOGUE.open(encoding="utf-8", newline="") as file:
            found = [isbn.find(row["isbn"], row["isbn13"]) for row in csv.DictReader(file)]
        self.assertEqual(
            Counter(each.how for each in found),
            {
                How.FROM_ISBN_10: 9261,
                How.FROM_CHECK_DIGIT: 41,
                How.FROM_BOTH: 17,
                How.AS_WRITTEN: 16,
                How.ABSENT: 565,
                How.BEYOND_REPAIR: 100,
            },
        )
        numbers = [each.isbn for each in found if each.isbn]
        self.assertEqual(len(numbers), 9335)
        self.assertEqual(len(set(numbers)), len(numbers))
        self.assertEqual([isbn.normalise(number) for number in numbers], numbers)
