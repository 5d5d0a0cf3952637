"""Tests for `bookd.mom.ledger` on a real database."""

from bookd.errors import (
    Unavailable,
)
from bookd.mom import ledger, overview, records, settling, store
from tests.mom.room import DESTINATION, NOW, OTHER, StoreTestCase, done, draft, number_id


class BoundsTests(StoreTestCase):
    """Queues that take no more."""

    def test_messages(self) -> None:
        """Beyond so many messages a new one is refused, and nothing of it is written; one that is known is found."""
        bounds = records.Bounds(2, 1000)
        self.do(store.keep, draft(1), NOW, bounds)
        self.do(store.keep, draft(2), NOW, bounds)
        with self.assertRaises(Unavailable) as caught:
            self.do(store.keep, draft(3, "other"), NOW, bounds)
        self.assertEqual((caught.exception.reason, caught.exception.retry_after), ("QUEUE_FULL", ledger.FULL_RETRY))
        self.assertEqual(caught.exception.details, ())
        self.assertEqual(self.do(overview.queue, DESTINATION).depth, 2)
        self.assertFalse(self.do(store.keep, draft(2), NOW, bounds)[1])
        self.do(store.keep, draft(3, destination=OTHER), NOW, bounds)
        self.do(settling.finish, self.found(number_id(1)).seq, done(), NOW)
        self.do(store.keep, draft(4), NOW, bounds)

    def test_bytes(self) -> None:
        """Likewise beyond so many bytes of requests."""
        bounds = records.Bounds(100, 10)
        self.do(store.keep, draft(1, request=bytes(7)), NOW, bounds)
        self.assertRaises(Unavailable, self.do, store.keep, draft(2, request=bytes(4)), NOW, bounds)
        self.do(store.keep, draft(2, request=bytes(3)), NOW, bounds)

    def test_outcomes_are_not_bounded(self) -> None:
        """A full queue does not keep an outcome from being written: its reply is taken."""
        bounds = records.Bounds(1, 1000)
        self.do(store.keep, draft(1, destination=OTHER), NOW, bounds)
        self.do(settling.finish, self.keep(2).seq, done(), NOW, reply=draft(3, destination=OTHER))
        self.assertEqual(self.do(overview.queue, OTHER).depth, 2)


class PauseTests(StoreTestCase):
    """Queues that an operator stopped."""

    def test_pause(self) -> None:
        """That a destination is paused is remembered, until it goes on."""
        self.do(ledger.pause, DESTINATION, NOW)
        self.do(ledger.pause, OTHER, NOW)
        self.assertEqual(self.do(ledger.paused), {DESTINATION, OTHER})
        self.do(ledger.pause, OTHER, None)
        self.assertEqual(self.do(ledger.paused), {DESTINATION})
        self.assertEqual(self.do(overview.queue, DESTINATION).paused_at, NOW)
