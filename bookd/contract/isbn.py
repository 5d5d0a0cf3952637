"""ISBNs: how they are written, checked, converted, and mended when a spreadsheet has been at them.

A book number is kept as an ISBN-13, digits only (ISO 2108:2017). An ISBN-10 converts to the ISBN-13 that begins with 978.
Both end in a check digit that finds any one wrong digit.

Spreadsheets take ISBNs for numbers, and spoil them in two ways. The leading zeros go: 0439023483 becomes 439023483, which
padding undoes. And 9780439023483 becomes 9.78043902348e+12: twelve digits are left, and the last of those is rounded.
Two numbers at most round to such a value and have a right check digit. Where there is one, it is the ISBN; where there
are two, only the ISBN-10 beside it can tell.
"""

import re
from enum import Enum

from attrs import frozen

_ISBN_10 = re.compile(r"[0-9]{9}[0-9X]")
_ISBN_13 = re.compile(r"97[89][0-9]{10}")
# What people put around and between the digits: "ISBN-13: 978-0-439-02348-1", with any kind of dash or space.
_LABEL = re.compile(r"\s*isbn(?:[- ]?1[03])?\s*:?\s*", re.IGNORECASE)
_BETWEEN = re.compile(r"[\s\-\u00ad\u2010-\u2015\u2212]")

_FLOAT = re.compile(r"[0-9](?:\.[0-9]{1,11})?e\+?12", re.IGNORECASE)
_WHOLE = re.compile(r"([0-9]+)(?:\.0+)?")
# Significant digits that a spreadsheet writes of a large number.
_WRITTEN = 12


class How(Enum):
    """How an ISBN was found in a row of a spreadsheet."""

    # There was none, and nothing to repair either.
    ABSENT = "absent"
    # It stood there, digit by digit.
    AS_WRITTEN = "as written"
    # From the ISBN-10, once its leading zeros were back; the ISBN-13 is missing, rounded, or no ISBN.
    FROM_ISBN_10 = "from the ISBN-10"
    # From the rounded ISBN-13 alone: one number only rounds to it and has a right check digit.
    FROM_CHECK_DIGIT = "from the check digit"
    # The other column holds the end of the ISBN-13 in place of an ISBN-10; the rounded one agrees.
    FROM_BOTH = "from both columns"
    # Something stood there, but no ISBN can be made of it with certainty.
    BEYOND_REPAIR = "beyond repair"


@frozen
class Found:
    """The ISBN-13 that a row has, empty when it has none, and how it was found."""

    isbn: str
    how: How


def check_digit_10(first_nine: str) -> str:
    """The tenth character: 0 to 9 or X."""
    weighted = sum(weight * int(digit) for weight, digit in zip(range(10, 1, -1), first_nine, strict=True))
    return "0123456789X"[-weighted % 11]


def check_digit_13(first_twelve: str) -> str:
    """The thirteenth digit."""
    return str(-sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(first_twelve)) % 10)


def normalise(text: str) -> str | None:
    """The ISBN-13 that `text` is, as 13 digits; None when it is no ISBN-10 and no ISBN-13.

    Hyphens, spaces and a leading "ISBN:" are taken out. The check digit has to be right.
    """
    digits = _BETWEEN.sub("", _LABEL.sub("", text, count=1) if _LABEL.match(text) else text).upper()
    if _ISBN_13.fullmatch(digits):
        return digits if check_digit_13(digits[:12]) == digits[12] else None
    return from_isbn_10(digits)


def from_isbn_10(digits: str) -> str | None:
    """The ISBN-13 of an ISBN-10 without hyphens; None when it is none."""
    if not _ISBN_10.fullmatch(digits) or check_digit_10(digits[:9]) != digits[9]:
        return None
    first_twelve = "978" + digits[:9]
    return first_twelve + check_digit_13(first_twelve)


def pad_isbn_10(text: str) -> str:
    """An ISBN-10 that lost its leading zeros, or hyphens, or gained ".0", with ten characters again."""
    digits = re.sub(r"\.0+$", "", _BETWEEN.sub("", text)).upper()
    return digits.zfill(10) if digits else ""


def rounded_isbn_13(text: str) -> list[str]:
    """The ISBN-13s that a spreadsheet would have written as `text` ("9.78043902348e+12"): none, one or two."""
    text = text.strip()
    if not _FLOAT.fullmatch(text):
        return []
    middle = int(float(text))
    # Rounding to twelve digits moves a number of thirteen by five at most.
    return [
        digits
        for digits in map(str, range(middle - 5, middle + 6))
        if _ISBN_13.fullmatch(digits) and check_digit_13(digits[:12]) == digits[12] and _as_written(digits) == middle
    ]


def find(isbn_10: str, isbn_13: str) -> Found:
    """The ISBN-13 of a row from its two columns, either of which may be empty or spoilt.

    An ISBN-13 with all its digits counts first, then the ISBN-10, whose check digit covers all of it, then what the
    rounded ISBN-13 leaves over.
    """
    whole = _WHOLE.fullmatch(isbn_13.strip())
    exact = normalise(whole[1] if whole and len(whole[1]) == 13 else isbn_13)
    if exact:
        return Found(exact, How.AS_WRITTEN)
    from_ten = from_isbn_10(pad_isbn_10(isbn_10))
    if from_ten:
        complete = not isbn_13.strip() and normalise(isbn_10) == from_ten
        return Found(from_ten, How.AS_WRITTEN if complete else How.FROM_ISBN_10)
    candidates = rounded_isbn_13(isbn_13)
    misplaced = "978" + pad_isbn_10(isbn_10)
    if misplaced in candidates:
        return Found(misplaced, How.FROM_BOTH)
    if len(candidates) == 1:
        return Found(candidates[0], How.FROM_CHECK_DIGIT)
    return Found("", How.BEYOND_REPAIR if isbn_10.strip() or isbn_13.strip() else How.ABSENT)


def _as_written(digits: str) -> int:
    return int(float(f"{int(digits):.{_WRITTEN}g}"))
