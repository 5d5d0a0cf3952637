"""What of a text can be searched for: its words, folded. Pure functions.

Accents, case and punctuation do not matter: "García Márquez" and "garcia marquez" are the same words, and so are "Nesbø"
and "nesbo", which no Unicode decomposition tells. An apostrophe is dropped ("Sorcerer's" is "sorcerers"), whatever else is
neither letter nor digit separates words. So a query holds words and nothing else; no character of it means anything to
the database.

Both sides are folded here, and not by the database, so that each database finds the same.
"""

import re
from unicodedata import category, normalize

from attrs import frozen

from bookd.contract import isbn
from bookd.errors import InvalidArgument

# Longer queries are refused: no title has so many words, and each costs a look into the index.
LONGEST_QUERY = 500
MOST_WORDS = 32

# Letters that look like another with a stroke or two in one, but do not decompose.
_LOOKS_LIKE = str.maketrans(
    {
        "ø": "o",
        "ł": "l",
        "đ": "d",
        "ð": "d",
        "ħ": "h",
        "ŧ": "t",
        "ı": "i",  # noqa: RUF001 - the Turkish letter is meant
        "æ": "ae",
        "œ": "oe",
        "þ": "th",
        "ĸ": "k",
        "ŋ": "ng",
    }
)
_APOSTROPHE = re.compile(r"['\u2019\u02bc\u2018\u0060\u00b4]")
_COMPOUND = re.compile(r"[^\W_]+(?:-[^\W_]+)+")
_ELIDED = re.compile(rf"\w+{_APOSTROPHE.pattern}\w+")
# "J.R.R.", "J. R. R.": readers look for "jrr" as well.
_INITIALS = re.compile(r"(?:\b[^\W\d_]\.\s?){2,}")


@frozen
class Query:
    """What to look for: every one of the words; the last may be the beginning of one.

    An ISBN among the words is there as its thirteen digits. `nothing` is a query that has characters but no words: it
    finds nothing. An empty query has neither and stands for all books.
    """

    words: tuple[str, ...] = ()
    nothing: bool = False


def fold(text: str) -> list[str]:
    """The words of `text`, folded, in their order."""
    decomposed = normalize("NFKD", _APOSTROPHE.sub("", text)).casefold().translate(_LOOKS_LIKE)
    # Case folding may compose what was taken apart ("ΐ"), hence the second time.
    return "".join(_kept(character) for character in normalize("NFKD", decomposed)).split()


def _kept(character: str) -> str:
    kind = category(character)
    if kind == "Mn":
        return ""
    # Mc: the vowel signs of Indic scripts, which stand within words.
    return character if character.isalnum() or kind == "Mc" else " "


def spellings(text: str) -> list[str]:
    """Other ways in which people write words of `text`: initials together ("jk" of "J.K. Rowling"), what stands at the
    sides of an apostrophe ("engle" of "L'Engle"), and compounds in one ("spiderman" of "Spider-Man")."""
    together = ["".join(fold(run)) for run in (*_INITIALS.findall(text), *_COMPOUND.findall(text))]
    apart = [word for run in _ELIDED.findall(text) for word in fold(_APOSTROPHE.sub(" ", run))]
    return [word for word in together + apart if word]


def parse(text: str) -> Query:
    """The query that a person typed. Raises `InvalidArgument` for one that is too long."""
    if len(text) > LONGEST_QUERY:
        raise InvalidArgument.field("query", f"must have at most {LONGEST_QUERY} characters, has {len(text):,}")
    if not text.strip():
        return Query()
    number = isbn.normalise(text)
    words = [number] if number else [word for part in text.split() for word in _words(part)]
    if len(words) > MOST_WORDS:
        raise InvalidArgument.field("query", f"must have at most {MOST_WORDS} words, has {len(words)}")
    return Query(tuple(words), nothing=not words)


def _words(part: str) -> list[str]:
    number = isbn.normalise(part)
    return [number] if number else fold(part)
