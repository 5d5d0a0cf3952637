"""Which access tokens are void before their time."""

from twisted.trial.unittest import SynchronousTestCase

from bookd.gateway.revocations import Revocations
from bookd.wire.mom.v1.event_pb2 import Event
from bookd.wire.users.v1.events_pb2 import SessionsRevoked, UserDeleted

SECOND = 1_000_000
NOW = 1_800_000_000 * SECOND


class RevocationsTests(SynchronousTestCase):
    """The table."""

    def setUp(self) -> None:
        self.now = NOW
        self.table = Revocations(900.0, lambda: self.now, entries=3)

    def test_session(self) -> None:
        """A session that has ended is void, whenever its token was issued; other sessions of the user are not."""
        self.table.note("ada", "s1", NOW)
        self.assertTrue(self.table.void("ada", "s1", NOW - SECOND))
        self.assertTrue(self.table.void("ada", "s1", NOW + SECOND))
        self.assertFalse(self.table.void("ada", "s2", NOW - SECOND))
        self.assertFalse(self.table.void("ada", "", NOW - SECOND))

    def test_user(self) -> None:
        """What was issued to a user until then is void; what is issued afterwards, and what others have, is not."""
        self.table.note("ada", "", NOW)
        self.assertTrue(self.table.void("ada", "s1", NOW))
        self.assertFalse(self.table.void("ada", "s1", NOW + 1))
        self.assertFalse(self.table.void("bob", "s2", NOW))

    def test_disorder(self) -> None:
        """An older end of a user's sessions, told later, takes nothing back."""
        self.table.note("ada", "", NOW)
        self.table.note("ada", "", NOW - 60 * SECOND)
        self.assertTrue(self.table.void("ada", "s1", NOW - SECOND))

    def test_names_do_not_mix(self) -> None:
        """A user whose id is another's session id is not that session."""
        self.table.note("ada", "x", NOW)
        self.assertFalse(self.table.void("x", "s1", NOW))

    def test_forgotten_with_the_tokens(self) -> None:
        """What is older than any token is not kept, and what gets so is forgotten."""
        self.table.note("ada", "", NOW - 901 * SECOND)
        self.assertEqual(len(self.table), 0)
        self.table.note("ada", "", NOW)
        self.now += 901 * SECOND
        self.table.note("bob", "", self.now)
        self.assertEqual(len(self.table), 1)

    def test_bounded(self) -> None:
        """A table that is full errs on the safe side: what was issued until its oldest entry is void, whoever has it."""
        for number in range(5):
            self.table.note("ada", f"s{number}", NOW + number)
        self.assertEqual(len(self.table), 3)
        self.assertTrue(self.table.void("ada", "s0", NOW))
        self.assertTrue(self.table.void("ada", "s4", NOW + 9))
        self.assertTrue(self.table.void("bob", "other", NOW + 1))
        self.assertFalse(self.table.void("bob", "other", NOW + 2))

    def test_heard(self) -> None:
        """An event of a session's end is in the table at once; one of another kind is passed over."""
        revoked = SessionsRevoked(user_id="ada")
        revoked.revoked_at.FromMicroseconds(NOW)
        for told in (revoked, UserDeleted(user_id="bob")):
            event = Event()
            event.data.Pack(told)
            self.table.heard(event)
        self.assertTrue(self.table.void("ada", "s1", NOW))
        self.assertFalse(self.table.void("bob", "s1", NOW))
