"""What becomes of work that nobody waits for any more."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from bookd.bridge.crossing import shield
from bookd.errors import BY_CODE, FINAL, BookdError, Code, Unavailable


class ShieldTests(SynchronousTestCase):
    """`shield`, before and after the caller has left."""

    def left(self) -> Deferred[int]:
        """Work whose caller has left."""
        work: Deferred[int] = Deferred()
        outer = shield(work)
        outer.cancel()
        self.failureResultOf(outer, CancelledError)
        return work

    def test_passes_on(self) -> None:
        """A caller that waits gets the result or the error."""
        work: Deferred[int] = Deferred()
        outer = shield(work)
        work.callback(7)
        self.assertEqual(self.successResultOf(outer), 7)
        failing: Deferred[int] = Deferred()
        outer = shield(failing)
        failing.errback(Unavailable("no"))
        self.failureResultOf(outer, Unavailable)

    def test_work_goes_on(self) -> None:
        """The work is not cancelled with its caller, and its result stays on it."""
        work = self.left()
        self.assertFalse(work.called)
        work.callback(7)
        self.assertEqual(self.successResultOf(work), 7)

    def test_final_errors_are_quiet(self) -> None:
        """That the service said no is told to nobody once nobody asks; a cancellation neither."""
        quiet: list[BaseException] = [BY_CODE[code]("no") for code in FINAL]
        for error in (*quiet, BY_CODE[Code.CANCELLED]("gone"), CancelledError()):
            work = self.left()
            work.errback(error)
            self.assertIsNone(self.successResultOf(work))

    def test_unexpected_errors_stay(self) -> None:
        """What broke stays on the work, and is logged when nobody takes it."""
        for error in (ZeroDivisionError(), Unavailable("the disk is full", reason="CONNECTION_LOST")):
            work = self.left()
            work.errback(error)
            del work
            self.assertEqual(len(self.flushLoggedErrors(type(error))), 1)
        self.assertTrue(issubclass(Unavailable, BookdError))
