"""How late refusals are told."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bookd.gateway.refusals import FIRST, LONGEST, RATE, Refusals


class RefusalsTests(SynchronousTestCase):
    """By a clock of the test's."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.refusals = Refusals(self.clock)

    def refuse(self) -> Deferred[None]:
        """One more."""
        return Deferred.fromCoroutine(self.refusals.hold())

    def told_within(self, flood: int, seconds: float) -> int:
        """How many are told in so many seconds, of clients that come again as soon as they are."""
        told = 0

        def again(_: object) -> None:
            nonlocal told
            told += 1
            waiting.append(self.refuse().addCallback(again))

        waiting = [self.refuse().addCallback(again) for _ in range(flood)]
        for _ in range(round(seconds * 20)):
            self.clock.advance(0.05)
        for each in waiting:
            if not each.called:
                each.addErrback(lambda failure: failure.trap(CancelledError))
                each.cancel()
        return told

    def test_one(self) -> None:
        """One that is alone waits for about a second."""
        one = self.refuse()
        self.clock.advance(FIRST * 0.49)
        self.assertNoResult(one)
        self.clock.advance(FIRST * 1.1)
        self.successResultOf(one)

    def test_flood(self) -> None:
        """However many there are, about so many are told in a second."""
        for flood in (100, 200, 300):
            self.assertLess(self.told_within(flood, 30.0), 30 * RATE * 1.4, flood)

    def test_bound(self) -> None:
        """None waits for ever, and one that was given up counts no more."""
        flood = [self.refuse() for _ in range(5000)]
        last = self.refuse()
        self.clock.advance(LONGEST * 1.5)
        self.successResultOf(last)
        for each in flood:
            self.successResultOf(each)
        gone = [self.refuse() for _ in range(500)]
        for each in gone:
            each.cancel()
            self.failureResultOf(each, CancelledError)
        self.test_one()
        self.assertEqual(self.clock.getDelayedCalls(), [])
