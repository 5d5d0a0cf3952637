"""Tests for `bookd.mom.watch`, with a channel whose probes the test answers and a clock that it pushes."""

from collections.abc import Callable
from typing import Any

from grpc_health.v1.health_pb2 import HealthCheckResponse
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bookd.errors import Internal, NotFound, Unavailable, Unimplemented
from bookd.mom.breaker import Breaker, BreakerState
from bookd.mom.watch import PATH, RETURN, Watch

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
SERVING = HealthCheckResponse(status=HealthCheckResponse.SERVING)
NOT_SERVING = HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING)
INTERVAL, TIMEOUT = 0.5, 1.0


class WatchTests(SynchronousTestCase):
    """A watch that is started."""

    def setUp(self) -> None:
        """Start; the first probe is under way."""
        self.clock = Clock()
        self.probes: list[Deferred[Any]] = []
        self.cancelled: list[Deferred[Any]] = []
        self.at_once: Callable[[], Deferred[Any]] | None = None
        self.breaker = Breaker("the post")
        self.watch = Watch(self.clock, self, self.breaker, INTERVAL, TIMEOUT)
        self.watch.startService()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        """Stop; no timer is left and no probe is under way."""
        if self.watch.running:
            self.watch.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def unary_unary(self, path: str, *_: Any) -> Callable[..., Deferred[Any]]:
        """The channel."""
        self.assertEqual(path, PATH)

        def check(request: Any, timeout: float | None = None) -> Deferred[Any]:
            if self.at_once is not None:
                return self.at_once()
            self.probes.append(Deferred(self.cancelled.append))
            return self.probes[-1]

        return check

    def answer(self, response: Any = SERVING) -> None:
        """Answer the probe that is under way."""
        if isinstance(response, Exception):
            self.probes[-1].errback(response)
        else:
            self.probes[-1].callback(response)

    def push(self, seconds: float, answers: int = 0) -> None:
        """Let time pass in small steps; in each step so many calls are answered."""
        for _ in range(round(seconds / 0.05)):
            for _ in range(answers):
                self.breaker.heard()
            self.clock.advance(0.05)

    def test_well(self) -> None:
        """A good answer closes the breaker; the next probe follows an interval later."""
        self.assertIs(self.breaker.state, HALF_OPEN)
        self.answer()
        self.assertIs(self.breaker.state, CLOSED)
        self.push(INTERVAL - 0.1)
        self.assertEqual(len(self.probes), 1)
        self.push(0.2)
        self.assertEqual(len(self.probes), 2)

    def test_answers_that_open(self) -> None:
        """A destination that is gone, that fails, or that says it is not serving, is down."""
        for answer in (Unavailable("nobody"), Internal("broken"), NOT_SERVING):
            self.breaker.state = CLOSED
            self.answer(answer)
            self.assertIs(self.breaker.state, OPEN)
            self.push(INTERVAL)

    def test_no_health_service(self) -> None:
        """A destination that keeps no health service is there."""
        for answer in (Unimplemented("what?"), NotFound("who?")):
            self.breaker.state = OPEN
            self.answer(answer)
            self.assertIs(self.breaker.state, CLOSED)
            self.push(INTERVAL + 0.1)

    def test_down_is_asked_more_often(self) -> None:
        """While a destination is down the pauses are short."""
        self.answer(Unavailable("nobody"))
        self.push(RETURN + 0.05)
        self.assertEqual(len(self.probes), 2)

    def test_hangs(self) -> None:
        """One that answers nothing at all is down after the timeout, and the probe is cancelled."""
        self.answer()
        self.push(INTERVAL + 0.05)
        self.push(TIMEOUT - 0.15)
        self.assertIs(self.breaker.state, CLOSED)
        self.push(0.2)
        self.assertIs(self.breaker.state, OPEN)
        self.assertEqual(self.cancelled, self.probes[1:2])

    def test_busy(self) -> None:
        """One that answers calls is not down, however long its health check stands in a queue."""
        self.answer()
        self.push(INTERVAL)
        self.push(10, answers=1)
        self.assertIs(self.breaker.state, CLOSED)
        self.assertEqual(self.cancelled, [])

    def test_busy_settles_doubt(self) -> None:
        """Whoever waits for a verdict on a busy destination gets it after the timeout, not when the probe ends."""
        waiting = self.breaker.settled()
        self.push(TIMEOUT + 0.25, answers=1)
        self.assertIs(self.successResultOf(waiting), CLOSED)

    def test_busy_then_hangs(self) -> None:
        """It is down a timeout after its last answer, also when a probe was under way all the time."""
        self.answer()
        self.push(3, answers=1)
        self.push(TIMEOUT + TIMEOUT / 5)
        self.assertIs(self.breaker.state, OPEN)

    def test_late_answers_prove_nothing(self) -> None:
        """Answers to calls of before do not close a breaker that is open."""
        self.push(TIMEOUT + 0.1)
        self.assertIs(self.breaker.state, OPEN)
        self.push(3, answers=1)
        self.assertIs(self.breaker.state, OPEN)
        self.answer()
        self.assertIs(self.breaker.state, CLOSED)

    def test_doubt(self) -> None:
        """Doubt brings a probe at once, but not a second one beside it."""
        self.answer()
        self.breaker.doubt()
        self.assertEqual(len(self.probes), 2)
        self.watch.hurry()
        self.assertEqual(len(self.probes), 2)
        self.answer()
        self.push(INTERVAL + 0.05)
        self.assertEqual(len(self.probes), 3)

    def test_answered_at_once(self) -> None:
        """A channel that answers without delay is not asked without end."""
        asked: list[None] = []

        def refuse() -> Deferred[Any]:
            asked.append(None)
            return fail(Unavailable("closed"))

        self.at_once = refuse
        self.answer()
        self.push(1)
        self.assertTrue(1 <= len(asked) <= 6, len(asked))

    def test_outlives_its_errors(self) -> None:
        """A probe that fails in a way nobody thought of is logged, and the next one follows."""
        self.probes[-1].errback(KeyError("what"))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.push(INTERVAL + 0.05)
        self.assertEqual(len(self.probes), 2)

    def test_stops(self) -> None:
        """A stopped watch cancels its probe, tells the breaker nothing, and asks no more."""
        self.watch.stopService()
        self.assertEqual(self.cancelled, self.probes)
        self.assertIs(self.breaker.state, HALF_OPEN)
        self.breaker.serving()
        self.breaker.doubt()
        self.push(5)
        self.assertEqual(len(self.probes), 1)

    def test_starts_again(self) -> None:
        """A watch that is started again probes again."""
        self.watch.stopService()
        self.watch.startService()
        self.assertEqual(len(self.probes), 2)
