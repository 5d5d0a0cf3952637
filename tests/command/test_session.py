"""The file that holds a session."""

import os
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bookd.command.home import CommandError, Home
from bookd.command.session import Session, Tokens, file_for

OPEN = Tokens("u1", "a1", "r1", 12.5)


class SessionTests(SynchronousTestCase):
    """Kept and forgotten."""

    def setUp(self) -> None:
        """A path in a folder that is not there yet."""
        self.path = Path(self.mktemp()) / "client" / "session.json"

    def test_kept_for_the_next_process(self) -> None:
        """The tokens come back, from a file and a folder that only this user can read."""
        Session(self.path).keep(OPEN)
        self.assertEqual(Session(self.path).tokens, OPEN)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(self.path.parent.stat().st_mode), 0o700)
        self.assertEqual([path.name for path in self.path.parent.iterdir()], [self.path.name])

    def test_forgotten(self) -> None:
        """A session that is forgotten leaves no file; forgetting twice does no harm."""
        session = Session(self.path)
        session.keep(OPEN)
        session.keep(None)
        session.keep(None)
        self.assertEqual((self.path.exists(), Session(self.path).tokens), (False, None))

    def test_without_a_file(self) -> None:
        """Tokens without a file end with the process."""
        session = Session()
        session.keep(OPEN)
        with session.alone():
            session.read()
        self.assertEqual((session.tokens, Session().tokens), (OPEN, None))

    def test_spoilt_file(self) -> None:
        """A file that is no session counts as nobody logged in."""
        self.path.parent.mkdir(parents=True)
        for text in ("", "{", "[]", '{"user_id": "u"}', "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")):
            self.path.write_text(text)
            self.assertIsNone(Session(self.path).tokens)

    def test_no_room(self) -> None:
        """A session that cannot be kept is told in one line."""
        self.path.parent.parent.mkdir(parents=True, exist_ok=True)
        self.path.parent.write_text("")
        self.assertIn("cannot make the folder", self.assertRaises(CommandError, Session(self.path).keep, OPEN).message)

    def test_one_at_a_time(self) -> None:
        """Whoever renews keeps others out, and lets them in afterwards."""
        session = Session(self.path)
        session.keep(OPEN)
        for _ in range(2):
            with session.alone():
                pass
        self.assertTrue(self.path.with_suffix(".lock").exists())

    def test_where(self) -> None:
        """A session lies in its home, or among the user's state when there is none; each address has its own."""
        home = Home(Path(self.mktemp()).absolute())
        self.patch(os, "environ", {**os.environ, "XDG_STATE_HOME": "/state"})
        self.assertEqual(file_for(home, "https://a").parent, Path("/state/bookd"))
        home.path.mkdir()
        home.config_file.touch()
        self.assertEqual(file_for(home, "https://a").parent, home.path / "client")
        self.assertNotEqual(file_for(home, "https://a"), file_for(home, "https://b"))
