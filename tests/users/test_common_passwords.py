"""The passwords that are tried first."""

from twisted.trial.unittest import SynchronousTestCase

from bookd.users import common_passwords, rules


class WordsTests(SynchronousTestCase):
    """The words of the list, and those that only look like it."""

    def setUp(self) -> None:
        """Load it."""
        self.words = common_passwords.load(rules.MIN_PASSWORD)

    def test_there(self) -> None:
        """What everybody tries is there, and so are the first and the last that are long enough."""
        for word in ("baseball", "12345678", "password123", "qwertyuiop"):
            self.assertIn(word, self.words)
        few = common_passwords.Words(["first one", "between", "last one"])
        self.assertEqual([word in few for word in ("first one", "between", "last one")], [True] * 3)

    def test_not_there(self) -> None:
        """Parts of words are not, nor two of them in a row, nor what is too short, nor what is no text at all."""
        few = common_passwords.Words(["first one", "between"])
        for word in ("first", "one", "first one\nbetween", "\n", "", "between\n", "\udc80", "b\u00e4tween"):
            self.assertNotIn(word, few)
        for word in ("123456", "correct horse battery staple", "asebal"):
            self.assertNotIn(word, self.words)

    def test_refused(self) -> None:
        """However its letters are written."""
        self.assertTrue(rules.is_common("BaseBall"))
        self.assertTrue(rules.is_common("\u00e4" * 12))
        self.assertFalse(rules.is_common("baseball at nine"))
