"""The checks of a request's fields."""

from twisted.trial.unittest import SynchronousTestCase

from bookd.contract.checks import Checks


class TextTests(SynchronousTestCase):
    """What counts as text."""

    def test_joiners_and_spaces_are_text(self) -> None:
        """Persian and Hindi joiners, ideographic and no-break spaces, newline and tab are all text."""
        for text in ("اسماعیل\u200cزاده", "क्\u200dष", "紅樓夢\u3000曹雪芹", "a\u00a0b", "a\n\tb"):  # noqa: RUF001
            self.assertTrue(Checks().text("author", text, 1, 100), text)

    def test_control_characters_are_none(self) -> None:
        """Control characters are refused: those of ASCII, DEL, and those of Latin-1."""
        for character in "\x00\x07\x1b\r\x7f\x85":
            self.assertFalse(Checks().text("author", f"a{character}b", 1, 100), character)
