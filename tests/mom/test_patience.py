"""Tests for `bookd.mom.patience`."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bookd.mom.patience import within


class WithinTests(SynchronousTestCase):
    """Waiting, but not longer than so many seconds."""

    def setUp(self) -> None:
        """Wait 5 s for something that can be cancelled."""
        self.clock = Clock()
        self.cancelled: list[Deferred[int]] = []
        self.awaited: Deferred[int] = Deferred(self.cancelled.append)
        self.waiting = Deferred.fromCoroutine(within(5.0, self.clock, self.awaited))

    def tearDown(self) -> None:
        """No timer is left behind, however it ended."""
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_in_time(self) -> None:
        """What fires in time is told, and not cancelled."""
        self.clock.advance(4.9)
        self.awaited.callback(1)
        self.assertTrue(self.successResultOf(self.waiting))
        self.assertEqual(self.cancelled, [])

    def test_too_late(self) -> None:
        """What does not is cancelled."""
        self.clock.advance(5.0)
        self.assertFalse(self.successResultOf(self.waiting))
        self.assertEqual(self.cancelled, [self.awaited])

    def test_fails(self) -> None:
        """A failure of what is awaited is the waiter's."""
        self.awaited.errback(KeyError())
        self.failureResultOf(self.waiting, KeyError)

    def test_cancelled_by_the_waiter(self) -> None:
        """A waiter that is cancelled itself hears of that, and is not told that time ran out."""
        self.waiting.cancel()
        self.failureResultOf(self.waiting, CancelledError)
        self.assertEqual(self.cancelled, [self.awaited])

    def test_no_time_at_all(self) -> None:
        """With no time left only what has fired already is in time."""
        self.awaited.callback(1)
        self.assertTrue(self.successResultOf(self.waiting))
        fired: Deferred[int] = Deferred()
        fired.callback(1)
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(within(-1.0, self.clock, fired))))
        late = Deferred.fromCoroutine(within(-1.0, self.clock, Deferred()))
        self.clock.advance(0)
        self.assertFalse(self.successResultOf(late))
