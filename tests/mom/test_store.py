"""Tests for `bookd.mom.store` on a real database."""

from pathlib import Path

from bookd.errors import (
    InvalidArgument,
)
from bookd.mom import overview, records, settling, store
from bookd.mom.machine import Event, MessageState
from bookd.storage.engine import open_engine
from tests.mom.room import (
    DESTINATION,
    NOW,
    OTHER,
    SECOND,
    StoreTestCase,
    done,
    draft,
    number_id,
)


class KeepTests(StoreTestCase):
    """What happens to a message that comes."""

    def test_appends(self) -> None:
        """A kept message is queued behind those before it, as it was given."""
        first, second = self.keep(1), self.keep(2)
        self.assertLess(first.seq, second.seq)
        found = self.found(number_id(2))
        self.assertEqual(found, second)
        self.assertIs(found.state, MessageState.QUEUED)
        self.assertEqual(
            {name: getattr(second, name) for name in ("request", "metadata", "lane", "subject", "expire_at")},
            {name: getattr(draft(2), name) for name in ("request", "metadata", "lane", "subject", "expire_at")},
        )
        self.assertEqual((second.attempts, second.created_at, second.ready_at), (0, NOW, NOW))

    def test_same_id(self) -> None:
        """The same id again finds the message that is kept, and writes nothing."""
        kept = self.keep(1)
        again, is_new = self.do(store.keep, draft(1), NOW + 5)
        self.assertFalse(is_new)
        self.assertEqual(again, kept)
        self.assertEqual(self.do(overview.count), 1)

    def test_same_id_when_finished(self) -> None:
        """The same id of a finished message finds its outcome."""
        self.do(settling.finish, self.keep(1).seq, done("receipt"), NOW)
        again, is_new = self.do(store.keep, draft(1), NOW)
        self.assertFalse(is_new)
        self.assertIs(again.state, MessageState.SUCCEEDED)
        self.assertIn(b"receipt", again.response)

    def test_same_id_other_request(self) -> None:
        """An id that is known for another request is refused."""
        self.keep(1)
        error = self.assertRaises(InvalidArgument, self.do, store.keep, draft(1, fingerprint=bytes(32)), NOW)
        self.assertEqual(error.reason, "IDEMPOTENCY_KEY_REUSED")
        self.assertEqual(error.info, {"message_id": number_id(1)})

    def test_same_id_other_subject(self) -> None:
        """So is one that another subject used: it would see what is not its own."""
        self.keep(1)
        error = self.assertRaises(InvalidArgument, self.do, store.keep, draft(1, subject="eve"), NOW)
        self.assertEqual(error.reason, "IDEMPOTENCY_KEY_REUSED")

    def test_look(self) -> None:
        """A call learns in one look whether its id is known and whether its lane has anything."""
        self.assertEqual(self.do(store.look, number_id(1), DESTINATION, "lane"), (None, False))
        kept = self.keep(1)
        self.assertEqual(self.do(store.look, number_id(1), DESTINATION, "lane"), (kept, True))
        self.assertEqual(self.do(store.look, number_id(2), DESTINATION, "lane"), (None, True))
        self.assertEqual(self.do(store.look, number_id(2), DESTINATION, "other"), (None, False))
        self.assertEqual(self.do(store.look, number_id(2), OTHER, "lane"), (None, False))
        self.do(settling.finish, kept.seq, done(), NOW)
        self.assertFalse(self.do(store.look, number_id(2), DESTINATION, "lane")[1])

    def test_survives(self) -> None:
        """What was committed is there when the file is opened again; what was not is not."""
        path = Path(self.mktemp()) / "mom.sqlite"
        self.engine = self.open(path)
        self.keep(1)
        connection = self.engine.connect()
        transaction = connection.begin()
        store.keep(connection, draft(2), NOW)
        transaction.rollback()
        connection.close()
        self.engine.dispose()
        self.engine = open_engine(path)
        self.assertEqual(self.heads(), [number_id(1)])
        self.assertEqual(self.do(overview.count), 1)


class ReadyTests(StoreTestCase):
    """Which messages may be delivered."""

    def test_heads_only(self) -> None:
        """Of each lane the first message, those ready longest first."""
        for number, lane in enumerate("aabbc"):
            self.keep(number, lane, now=NOW - number)
        self.assertEqual(self.heads(), [number_id(4), number_id(2), number_id(0)])

    def test_limit_and_excluded(self) -> None:
        """Not more than asked for, and none of the lanes that are busy."""
        for number, lane in enumerate("abcd"):
            self.keep(number, lane, now=NOW + number)
        found = self.do(store.ready, DESTINATION, NOW + 9, 2, frozenset("ac"))
        self.assertEqual([kept.lane for kept in found.messages], ["b", "d"])
        self.assertEqual([kept.lane for kept in self.do(store.ready, DESTINATION, NOW + 9, 1).messages], ["a"])

    def test_not_yet(self) -> None:
        """A message that is to wait is not there yet; it is told when the next one will be."""
        kept = self.keep(1, "a")
        self.keep(2, "b")
        self.do(settling.postpone, kept.seq, Event.FAILED, NOW + SECOND, "INTERNAL: broken", NOW)
        found = self.do(store.ready, DESTINATION, NOW, 10)
        self.assertEqual([each.message_id for each in found.messages], [number_id(2)])
        self.assertEqual(found.next_at, NOW + SECOND)
        self.assertEqual(len(self.heads(NOW + SECOND)), 2)

    def test_clock_that_was_ahead(self) -> None:
        """What was kept, or postponed, while the clock was an hour ahead does not wait for that hour; what waits for its
        next attempt does."""
        minute = 60 * SECOND
        self.keep(1, "a", now=NOW + 60 * minute)
        self.do(settling.postpone, self.keep(2, "b").seq, Event.FAILED, NOW + minute, "INTERNAL: broken", NOW)
        self.keep(3, "c")
        found = self.do(store.ready, DESTINATION, NOW, 9, (), minute)
        self.assertEqual([kept.lane for kept in found.messages], ["c", "a"])
        self.assertEqual(found.next_at, NOW + minute)

    def test_nothing(self) -> None:
        """An empty queue has nothing, now or later."""
        self.assertEqual(self.do(store.ready, DESTINATION, NOW, 10), records.Ready((), None))

    def test_destinations_keep_apart(self) -> None:
        """Lanes of the same key of two destinations have nothing to do with each other."""
        self.keep(1, destination=OTHER)
        self.keep(2)
        self.assertEqual(self.heads(), [number_id(2)])
        self.assertEqual(self.heads(destination=OTHER), [number_id(1)])

    def test_expired(self) -> None:
        """What is queued beyond its time is found, the longest first; finished messages never are."""
        self.keep(1, expire_at=NOW + 2)
        self.keep(2, expire_at=NOW + 1)
        self.keep(3, expire_at=NOW + 3)
        self.do(settling.finish, self.keep(4, expire_at=NOW).seq, done(), NOW)
        self.assertEqual([each.message_id for each in self.do(store.expired, NOW + 2, 9)], [number_id(2), number_id(1)])
        self.assertEqual([each.message_id for each in self.do(store.expired, NOW + 2, 1)], [number_id(2)])
        self.assertEqual(self.do(store.expired, NOW, 9), [])
