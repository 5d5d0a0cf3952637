"""Words as the search compares them."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bookd.errors import InvalidArgument
from bookd.inventory.words import Query, fold, parse, spellings


class FoldTests(SynchronousTestCase):
    """Accents, case and punctuation."""

    def test_accents_and_case(self) -> None:
        """What looks alike to a reader in a hurry is the same word."""
        for written, plain in (
            ("Gabriel García Márquez", "gabriel garcia marquez"),
            ("GARCI\u0301A", "garcia"),
            ("Jo Nesbø", "jo nesbo"),
            ("Stanisław Lem", "stanislaw lem"),
            ("Straße", "strasse"),
            ("Æsop", "aesop"),
            ("İstanbul", "istanbul"),
            ("ﬁne", "fine"),
            ("\uff26\uff55\uff4c\uff4c", "full"),
        ):
            self.assertEqual(" ".join(fold(written)), plain)

    def test_punctuation(self) -> None:
        """An apostrophe joins, all else separates."""
        self.assertEqual(
            fold("The Sorcerer's Stone (Harry Potter, #1)"), ["the", "sorcerers", "stone", "harry", "potter", "1"]
        )
        self.assertEqual(fold("Catch-22\x00\t“quoted”…"), ["catch", "22", "quoted"])

    def test_other_scripts(self) -> None:
        """Letters of all scripts are letters."""
        self.assertEqual(fold("Преступление 村上 春樹"), ["преступление", "村上", "春樹"])
        self.assertEqual(fold("किताब"), ["किताब"])

    @given(st.text(max_size=100))
    def test_stable(self, text: str) -> None:
        """Folding what was folded changes nothing, and leaves no character that FTS5 could read as syntax."""
        words = fold(text)
        self.assertEqual(fold(" ".join(words)), words)
        self.assertFalse(set(" ".join(words)) & set("\"'*^:()+-{}\x00"))

    def test_spellings(self) -> None:
        """Initials, names with an apostrophe and compounds have a second spelling."""
        self.assertEqual(spellings("J.K. Rowling, J. R. R. Tolkien"), ["jk", "jrr"])
        self.assertEqual(spellings("Madeleine L'Engle, Flann O\u2019Brien"), ["l", "engle", "o", "brien"])
        self.assertEqual(spellings("Spider-Man"), ["spiderman"])
        self.assertEqual(spellings("Dune"), [])


class ParseTests(SynchronousTestCase):
    """What a person may type."""

    def test_words(self) -> None:
        """A query is its words."""
        self.assertEqual(parse("  García   Márquez "), Query(("garcia", "marquez")))

    def test_isbn(self) -> None:
        """An ISBN becomes its thirteen digits, alone or among words, hyphens or not."""
        for text in ("0-439-02348-3", "978 0 439 02348 1", "ISBN 9780439023481"):
            self.assertEqual(parse(text), Query(("9780439023481",)), text)
        self.assertEqual(parse("hunger 0-439-02348-3"), Query(("hunger", "9780439023481")))

    def test_blank(self) -> None:
        """Nothing but spaces asks for all books."""
        self.assertEqual(parse(" \t\n"), Query())

    def test_no_words(self) -> None:
        """Characters without a word in them ask for nothing."""
        for text in ("!!!", "*", '"', "\x00", "- -", "'"):
            self.assertEqual(parse(text), Query(nothing=True), text)

    def test_too_long(self) -> None:
        """Too many characters or words are refused by name."""
        for text in ("x" * 501, "x" * 10_000, "a " * 33):
            error = self.assertRaises(InvalidArgument, parse, text)
            self.assertEqual(error.violations[0].field, "query")
