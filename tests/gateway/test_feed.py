"""How a gateway follows events that concern itself."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredQueue
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bookd.contract import metadata
from bookd.errors import DeadlineExceeded, OutOfRange, Unavailable
from bookd.gateway.feed import NEXT, OLDEST, PATH, PAUSE, RENEWED, Feed
from bookd.wire.mom.v1.event_pb2 import Event
from bookd.wire.mom.v1.events_pb2 import StreamEventsRequest
from bookd.wire.policy.v1.policy_pb2 import Principal

TOPIC = "kites.v1.KiteChanged"


class Stream:
    """A stream whose events, and whose end, the test gives."""

    def __init__(self, request: bytes, timeout: float, carried: Any) -> None:
        self.request = StreamEventsRequest.FromString(request)
        self.timeout = timeout
        self.carried = dict(carried)
        self.cancelled = False
        self._queue: DeferredQueue[Any] = DeferredQueue()
        self._waiting: Deferred[Any] | None = None

    def give(self, item: Event | Exception | None) -> None:
        self._queue.put(item)

    def cancel(self) -> None:
        self.cancelled = True
        if self._waiting is not None:
            self._waiting.cancel()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._items()

    async def _items(self) -> AsyncIterator[bytes]:
        while True:
            self._waiting = self._queue.get()
            item = await self._waiting
            self._waiting = None
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item.SerializeToString()


class Channel:
    """Keeps the streams that were opened."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.broken: Exception | None = None

    def unary_stream(self, method: str) -> Callable[..., Stream]:
        assert method == PATH

        def call(request: bytes, timeout: float, metadata: Any) -> Stream:
            if self.broken is not None:
                raise self.broken
            self.streams.append(Stream(request, timeout, metadata))
            return self.streams[-1]

        return call


def event(sequence: int) -> Event:
    """An event of that place."""
    return Event(type=TOPIC, sequence=f"{sequence:020}")


class FeedTests(SynchronousTestCase):
    """A feed that begins with the oldest event."""

    begin = OLDEST

    def setUp(self) -> None:
        self.clock = Clock()
        self.channel = Channel()
        self.heard: list[str] = []
        self.missed = 0

        def missed() -> None:
            self.missed += 1

        self.feed = Feed(
            self.channel,
            [TOPIC],
            lambda event: self.heard.append(event.sequence),
            self.clock,
            what="what has changed",
            begin=self.begin,
            missed=missed,
        )
        self.feed.startService()

    def tearDown(self) -> None:
        if self.feed.running:
            stopped = self.feed.stopService()
            assert stopped is not None
            self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(all(stream.cancelled for stream in self.channel.streams))

    def test_asks(self) -> None:
        """A gateway that starts asks, as itself, for the events of its kinds from its beginning on, for a bounded time."""
        (stream,) = self.channel.streams
        self.assertEqual(stream.request, StreamEventsRequest(types=[TOPIC], after=self.begin))
        self.assertEqual(stream.timeout, RENEWED)
        principal = Principal.FromString(stream.carried[metadata.PRINCIPAL])
        self.assertEqual((principal.subject, list(principal.roles)), ("gateway", ["admin"]))

    def test_hears(self) -> None:
        """What is told is heard at once, in order."""
        for number in (6, 7):
            self.channel.streams[0].give(event(number))
        self.assertEqual(self.heard, [f"{number:020}" for number in (6, 7)])

    def test_goes_on(self) -> None:
        """After a stream's time is over, or it broke, the next goes on behind the last event."""
        self.channel.streams[0].give(event(7))
        self.channel.streams[0].give(DeadlineExceeded("time is over"))
        self.assertEqual(self.channel.streams[1].request.after, f"{7:020}")
        self.channel.streams[1].give(Unavailable("gone"))
        self.assertEqual(len(self.channel.streams), 2)
        self.clock.advance(PAUSE)
        self.assertEqual(self.channel.streams[2].request.after, f"{7:020}")
        self.channel.streams[2].give(None)
        self.clock.advance(PAUSE)
        self.assertEqual(len(self.channel.streams), 4)

    def test_lost_place(self) -> None:
        """A MOM that does not know the place is asked as at first."""
        self.channel.streams[0].give(event(7))
        self.channel.streams[0].give(OutOfRange("forgotten"))
        self.clock.advance(PAUSE)
        self.assertEqual(self.channel.streams[1].request.after, self.begin)

    def test_mom_away(self) -> None:
        """While the MOM is away it is asked again and again, and what may be missed is told; what came meanwhile is caught
        up."""
        self.channel.streams[0].give(event(7))
        self.channel.broken = Unavailable("no")
        before = self.missed
        self.channel.streams[0].give(Unavailable("gone"))
        for _ in range(20):
            self.clock.advance(PAUSE)
        self.assertGreater(self.missed, before)
        self.channel.broken = None
        self.clock.advance(PAUSE)
        self.assertEqual(self.channel.streams[-1].request.after, f"{7:020}")
        self.channel.streams[-1].give(event(8))
        self.assertEqual(self.heard, [f"{number:020}" for number in (7, 8)])

    def test_stops_in_a_pause(self) -> None:
        """It stops in a pause, too."""
        self.channel.streams[0].give(CancelledError())
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)


class NextTests(FeedTests):
    """A feed that begins with what happens next."""

    begin = NEXT

    def test_gap(self) -> None:
        """Between two streams that both begin with what happens next, something may be missed; not behind a known place."""
        self.assertEqual(self.missed, 1)
        self.channel.streams[0].give(DeadlineExceeded("time is over"))
        self.assertEqual(self.missed, 2)
        self.channel.streams[1].give(event(7))
        self.channel.streams[1].give(DeadlineExceeded("time is over"))
        self.assertEqual((len(self.channel.streams), self.missed), (3, 2))
