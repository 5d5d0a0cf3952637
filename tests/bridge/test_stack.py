"""Services that stand on each other stop from the top, one after the other."""

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from bookd.bridge.stack import stacked


class Recorded(Service):
    """A service that notes when it starts and stops, and takes its time to stop."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self._label = name
        self._notes = notes
        self.stopping: Deferred[None] = Deferred()

    def startService(self) -> None:
        super().startService()
        self._notes.append(f"{self._label} starts")

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._notes.append(f"{self._label} stops")
        return self.stopping


class StackTests(SynchronousTestCase):
    """The order of things."""

    def setUp(self) -> None:
        self.notes: list[str] = []
        self.lower, self.upper = Recorded("lower", self.notes), Recorded("upper", self.notes)
        self.stack = stacked(self.lower, self.upper)
        self.stack.startService()

    def test_starts_from_the_bottom(self) -> None:
        """Children start in the order they were given."""
        self.assertEqual(self.notes, ["lower starts", "upper starts"])

    def test_stops_from_the_top(self) -> None:
        """The lower service is asked to stop only when the upper one has stopped."""
        del self.notes[:]
        done = self.stack.stopService()
        self.assertEqual(self.notes, ["upper stops"])
        self.upper.stopping.callback(None)
        self.assertEqual(self.notes, ["upper stops", "lower stops"])
        self.assertNoResult(done)
        self.lower.stopping.callback(None)
        self.successResultOf(done)

    def test_failure_does_not_keep_the_others(self) -> None:
        """A child that fails to stop is logged, and the one beneath it is stopped."""
        done = self.stack.stopService()
        self.upper.stopping.errback(ZeroDivisionError())
        self.lower.stopping.callback(None)
        self.successResultOf(done)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
