"""Tests for `bookd.mom.breaker`."""

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from bookd.errors import NotFound, Unavailable
from bookd.mom.breaker import Breaker, BreakerState
from bookd.wire.mom.v1 import mom_pb2

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class BreakerTests(SynchronousTestCase):
    """States, verdicts, and the calls that end with them."""

    def setUp(self) -> None:
        """A breaker as it begins, and what it asks and tells."""
        self.breaker = Breaker("the post")
        self.asked = self.told = 0
        self.breaker.when_doubted(self._ask)
        self.breaker.when_closed(self._tell)

    def _ask(self) -> None:
        self.asked += 1

    def _tell(self) -> None:
        self.told += 1

    def test_table(self) -> None:
        """Every state and everything that happens to it: the state after it, whether a probe is asked for, and whether
        it is told that the destination is back."""
        verbs: dict[str, Callable[[Breaker], None]] = {
            "serving": Breaker.serving,
            "down": lambda breaker: breaker.down("gone"),
            "doubt": Breaker.doubt,
            "heard": Breaker.heard,
        }
        expected = {
            (CLOSED, "serving"): (CLOSED, 0, 0),
            (CLOSED, "down"): (OPEN, 0, 0),
            (CLOSED, "doubt"): (HALF_OPEN, 1, 0),
            (CLOSED, "heard"): (CLOSED, 0, 0),
            (OPEN, "serving"): (CLOSED, 0, 1),
            (OPEN, "down"): (OPEN, 0, 0),
            (OPEN, "doubt"): (OPEN, 0, 0),
            (OPEN, "heard"): (OPEN, 0, 0),
            (HALF_OPEN, "serving"): (CLOSED, 0, 1),
            (HALF_OPEN, "down"): (OPEN, 0, 0),
            (HALF_OPEN, "doubt"): (HALF_OPEN, 0, 0),
            (HALF_OPEN, "heard"): (HALF_OPEN, 0, 0),
        }
        for (state, verb), (after, asked, told) in expected.items():
            self.breaker.state, self.asked, self.told = state, 0, 0
            verbs[verb](self.breaker)
            self.assertEqual((self.breaker.state, self.asked, self.told), (after, asked, told), f"{state.name} {verb}")

    def test_numbers(self) -> None:
        """The states have the numbers and names that operators see."""
        for state in BreakerState:
            self.assertEqual(mom_pb2.BreakerState.Name(int(state)), f"BREAKER_STATE_{state.name}")

    def test_settled(self) -> None:
        """While there is doubt a call waits for the verdict; otherwise it knows at once."""
        waiting = self.breaker.settled()
        self.assertNoResult(waiting)
        self.breaker.serving()
        self.assertIs(self.successResultOf(waiting), CLOSED)
        self.assertIs(self.successResultOf(self.breaker.settled()), CLOSED)
        self.breaker.down("gone")
        self.assertIs(self.successResultOf(self.breaker.settled()), OPEN)

    def test_verdict(self) -> None:
        """A verdict is the next one, even if it is what was known before; who stops waiting for it is left out."""
        self.breaker.serving()
        waiting, leaving = self.breaker.verdict(), self.breaker.verdict()
        leaving.cancel()
        self.failureResultOf(leaving, CancelledError)
        self.assertNoResult(waiting)
        self.breaker.serving()
        self.assertIs(self.successResultOf(waiting), CLOSED)

    def test_guard_passes_results(self) -> None:
        """A call that ends by itself ends as it does, success or not."""
        good: Deferred[bytes] = Deferred()
        bad: Deferred[bytes] = Deferred()
        guarded = self.breaker.guard(good), self.breaker.guard(bad)
        good.callback(b"receipt")
        bad.errback(NotFound("no such box"))
        self.assertEqual(self.successResultOf(guarded[0]), b"receipt")
        self.failureResultOf(guarded[1], NotFound)
        self.breaker.down("gone")

    def test_guard_ends_calls(self) -> None:
        """As soon as the breaker opens every call under way is cancelled and told when to come again."""
        cancelled: list[Deferred[bytes]] = []
        calls: list[Deferred[bytes]] = [Deferred(cancelled.append) for _ in range(3)]
        guarded = [self.breaker.guard(call) for call in calls]
        self.breaker.down("gone")
        self.assertEqual(set(cancelled), set(calls))
        for each in guarded:
            error = self.failureResultOf(each, Unavailable).value
            self.assertEqual((error.reason, error.retry_after), ("DESTINATION_DOWN", 1.0))

    def test_guard_is_cancelled(self) -> None:
        """A caller that goes away cancels its call, and the opening that comes later finds nothing to end."""
        cancelled: list[Deferred[bytes]] = []
        call: Deferred[bytes] = Deferred(cancelled.append)
        guarded = self.breaker.guard(call)
        guarded.cancel()
        self.failureResultOf(guarded, CancelledError)
        self.assertEqual(len(cancelled), 1)
        self.breaker.down("gone")
        self.assertEqual(len(cancelled), 1)

    def test_slow_cancellation(self) -> None:
        """A call that takes its time to be cancelled changes nothing for its caller when it ends at last."""
        call: Deferred[bytes] = Deferred(lambda _: None)
        call.cancel = lambda: None  # type: ignore[method-assign]
        guarded = self.breaker.guard(call)
        self.breaker.down("gone")
        self.failureResultOf(guarded, Unavailable)
        call.callback(b"late")

    def test_ends(self) -> None:
        """A stream is ended once when the breaker opens, and not at all once it is over."""
        ended: list[str] = []
        self.breaker.ends(lambda: ended.append("one"))
        done = self.breaker.ends(lambda: ended.append("two"))
        done()
        done()
        self.breaker.down("gone")
        self.breaker.down("still gone")
        self.assertEqual(ended, ["one"])
