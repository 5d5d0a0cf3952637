"""Tests for `bookd.mom.destination`: what calls and streams tell the breaker, and what the breaker tells them."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from bookd.errors import BookdError, Cancelled, DeadlineExceeded, Internal, NotFound, Unavailable
from bookd.mom.breaker import Breaker, BreakerState
from bookd.mom.destination import Destination

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class Responses:
    """A stream of responses that the test feeds."""

    def __init__(self) -> None:
        self.coming: list[Deferred[bytes]] = []
        self.cancelled = 0

    def __aiter__(self) -> "Responses":
        return self

    def __anext__(self) -> Deferred[bytes]:
        self.coming.append(Deferred())
        return self.coming[-1]

    def cancel(self) -> None:
        """End it, as a real one does."""
        self.cancelled += 1
        if self.coming and not self.coming[-1].called:
            self.coming[-1].errback(Cancelled("cancelled"))


class DestinationTests(SynchronousTestCase):
    """A destination whose channel the test plays."""

    def setUp(self) -> None:
        """It answers its health checks."""
        self.asked: list[tuple[str, str]] = []
        self.calls: list[Deferred[bytes]] = []
        self.responses = Responses()
        self.breaker = Breaker("the post")
        self.breaker.serving()
        self.destination = Destination("post.v1.PostService", self, self.breaker)

    def __getattr__(self, shape: str) -> Callable[..., Any]:
        """The channel's four shapes."""
        if shape not in ("unary_unary", "stream_unary", "unary_stream", "stream_stream"):
            raise AttributeError(shape)

        def shaped(path: str) -> Callable[..., Any]:
            self.asked.append((shape, path))

            def call(request: Any, timeout: float | None, metadata: Any) -> Any:
                if shape.endswith("stream"):
                    return self.responses
                self.calls.append(Deferred(lambda _: None))
                return self.calls[-1]

            return call

        return shaped

    def test_answer(self) -> None:
        """An answer is passed on, and a callable is made once for each method."""
        for _ in range(2):
            call = self.destination.call("/p/A", b"", 1.0, [])
            self.calls[-1].callback(b"fine")
            self.assertEqual(self.successResultOf(call), b"fine")
        self.destination.call("/p/C", iter([b""]), 1.0, [])
        self.assertEqual(self.asked, [("unary_unary", "/p/A"), ("stream_unary", "/p/C")])

    def test_what_errors_mean(self) -> None:
        """UNAVAILABLE raises doubt about the destination; errors that only somebody who is there can give do not, and what
        says nothing about it changes nothing. The caller gets the error as it is."""
        for error, state in (
            (NotFound("no"), CLOSED),
            (Internal("broken"), CLOSED),
            (DeadlineExceeded("late"), CLOSED),
            (Cancelled("gone"), CLOSED),
            (Unavailable("nobody"), HALF_OPEN),
        ):
            self.breaker.serving()
            call = self.destination.call("/p/A", b"", 1.0, [])
            self.calls[-1].errback(error)
            self.assertIs(self.failureResultOf(call, BookdError).value, error)
            self.assertIs(self.breaker.state, state, error)

    def test_breaker_opens(self) -> None:
        """A call that is under way when the breaker opens ends with UNAVAILABLE at once."""
        call = self.destination.call("/p/A", b"", 1.0, [])
        self.assertNoResult(call)
        self.breaker.down("gone")
        self.failureResultOf(call, Unavailable)

    def test_answers(self) -> None:
        """While there is doubt, whoever asks waits for the verdict."""
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(self.destination.answers())))
        self.breaker.doubt()
        asking = Deferred.fromCoroutine(self.destination.answers())
        self.assertNoResult(asking)
        self.breaker.down("gone")
        self.assertFalse(self.successResultOf(asking))

    def test_stream(self) -> None:
        """Responses come one by one; a stream that the caller closes is cancelled."""
        stream: Any = self.destination.stream("/p/S", b"", None, [])
        first = Deferred.fromCoroutine(stream.__anext__())
        self.responses.coming[-1].callback(b"1")
        self.assertEqual(self.successResultOf(first), b"1")
        self.assertEqual((self.asked, self.responses.cancelled), ([("unary_stream", "/p/S")], 0))
        self.successResultOf(Deferred.fromCoroutine(stream.aclose()))
        self.assertEqual(self.responses.cancelled, 1)

    def test_stream_breaks(self) -> None:
        """UNAVAILABLE on a stream raises doubt; a stream that is open when the breaker opens ends with UNAVAILABLE."""
        stream: Any = self.destination.stream("/p/S", b"", None, [])
        first = Deferred.fromCoroutine(stream.__anext__())
        self.responses.coming[-1].errback(Unavailable("broke"))
        self.failureResultOf(first, Unavailable)
        self.assertIs(self.breaker.state, HALF_OPEN)
        self.breaker.serving()
        self.responses = Responses()
        stream = self.destination.stream("/p/S", b"", None, [])
        first = Deferred.fromCoroutine(stream.__anext__())
        self.breaker.down("gone")
        self.failureResultOf(first, Unavailable)
        self.assertGreaterEqual(self.responses.cancelled, 1)
