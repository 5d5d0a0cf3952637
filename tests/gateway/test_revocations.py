"""Which access tokens are void before their time, and how a gateway hears of it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredQueue
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bookd.contract import metadata
from bookd.errors import DeadlineExceeded, OutOfRange, Unavailable
from bookd.gateway.revocations import PATH, PAUSE, RENEWED, TOPIC, Feed, Revocations
from bookd.wire.mom.v1.event_pb2 import Event
from bookd.wire.mom.v1.events_pb2 import StreamEventsRequest
from bookd.wire.policy.v1.policy_pb2 import Principal
from bookd.wire.users.v1.events_pb2 import SessionsRevoked, UserDeleted

SECOND = 1_000_000
NOW = 1_800_000_000 * SECOND


class RevocationsTests(SynchronousTestCase):
    """The table."""

    def setUp(self) -> None:
        self.now = NOW
        self.table = Revocations(900.0, lambda: self.now, entries=3)

    def test_session(self) -> None:
        """A session that has ended is void, whenever its token was issued; other sessions of the user are not."""
        self.table.note("ada", "s1", NOW)
        self.assertTrue(self.table.void("ada", "s1", NOW - SECOND))
        self.assertTrue(self.table.void("ada", "s1", NOW + SECOND))
        self.assertFalse(self.table.void("ada", "s2", NOW - SECOND))
        self.assertFalse(self.table.void("ada", "", NOW - SECOND))

    def test_user(self) -> None:
        """What was issued to a user until then is void; what is issued afterwards, and what others have, is not."""
        self.table.note("ada", "", NOW)
        self.assertTrue(self.table.void("ada", "s1", NOW))
        self.assertFalse(self.table.void("ada", "s1", NOW + 1))
        self.assertFalse(self.table.void("bob", "s2", NOW))

    def test_disorder(self) -> None:
        """An older end of a user's sessions, told later, takes nothing back."""
        self.table.note("ada", "", NOW)
        self.table.note("ada", "", NOW - 60 * SECOND)
        self.assertTrue(self.table.void("ada", "s1", NOW - SECOND))

    def test_names_do_not_mix(self) -> None:
        """A user whose id is another's session id is not that session."""
        self.table.note("ada", "x", NOW)
        self.assertFalse(self.table.void("x", "s1", NOW))

    def test_forgotten_with_the_tokens(self) -> None:
        """What is older than any token is not kept, and what gets so is forgotten."""
        self.table.note("ada", "", NOW - 901 * SECOND)
        self.assertEqual(len(self.table), 0)
        self.table.note("ada", "", NOW)
        self.now += 901 * SECOND
        self.table.note("bob", "", self.now)
        self.assertEqual(len(self.table), 1)

    def test_bounded(self) -> None:
        """A table that is full errs on the safe side: what was issued until its oldest entry is void, whoever has it."""
        for number in range(5):
            self.table.note("ada", f"s{number}", NOW + number)
        self.assertEqual(len(self.table), 3)
        self.assertTrue(self.table.void("ada", "s0", NOW))
        self.assertTrue(self.table.void("ada", "s4", NOW + 9))
        self.assertTrue(self.table.void("bob", "other", NOW + 1))
        self.assertFalse(self.table.void("bob", "other", NOW + 2))


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


def ended(sequence: int, user_id: str = "ada", session_id: str = "") -> Event:
    """The event of an end, now."""
    revoked = SessionsRevoked(user_id=user_id, session_id=session_id)
    revoked.revoked_at.FromMicroseconds(NOW)
    event = Event(type=TOPIC, sequence=f"{sequence:020}")
    event.data.Pack(revoked)
    return event


class FeedTests(SynchronousTestCase):
    """How the table is kept up to date."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.channel = Channel()
        self.table = Revocations(900.0, lambda: NOW)
        self.feed = Feed(self.channel, self.table, self.clock)
        self.feed.startService()

    def tearDown(self) -> None:
        if self.feed.running:
            stopped = self.feed.stopService()
            assert stopped is not None
            self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(all(stream.cancelled for stream in self.channel.streams))

    def test_asks(self) -> None:
        """A gateway that starts asks, as itself, for all that is kept of this kind, for a bounded time."""
        (stream,) = self.channel.streams
        self.assertEqual(stream.request, StreamEventsRequest(types=[TOPIC], after="0"))
        self.assertEqual(stream.timeout, RENEWED)
        principal = Principal.FromString(stream.carried[metadata.PRINCIPAL])
        self.assertEqual((principal.subject, list(principal.roles)), ("gateway", ["admin"]))

    def test_hears(self) -> None:
        """What is told is in the table at once; an event of another kind is passed over."""
        (stream,) = self.channel.streams
        other = Event(sequence=f"{6:020}")
        other.data.Pack(UserDeleted(user_id="bob"))
        stream.give(other)
        stream.give(ended(7))
        self.assertTrue(self.table.void("ada", "s1", NOW))
        self.assertFalse(self.table.void("bob", "s1", NOW))

    def test_goes_on(self) -> None:
        """After a stream's time is over, or it broke, the next goes on behind the last event."""
        self.channel.streams[0].give(ended(7))
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
        """A MOM that does not know the place is asked for all it has."""
        self.channel.streams[0].give(ended(7))
        self.channel.streams[0].give(OutOfRange("forgotten"))
        self.clock.advance(PAUSE)
        self.assertEqual(self.channel.streams[1].request.after, "0")

    def test_mom_away(self) -> None:
        """While the MOM is away, what is known holds, and it is asked again and again; what came meanwhile is caught up."""
        self.channel.streams[0].give(ended(7))
        self.channel.broken = Unavailable("no")
        self.channel.streams[0].give(Unavailable("gone"))
        for _ in range(20):
            self.clock.advance(PAUSE)
        self.assertTrue(self.table.void("ada", "s1", NOW))
        self.channel.broken = None
        self.clock.advance(PAUSE)
        self.channel.streams[-1].give(ended(8, "bob"))
        self.assertTrue(self.table.void("bob", "s2", NOW))

    def test_stops_in_a_pause(self) -> None:
        """It stops in a pause, too."""
        self.channel.streams[0].give(CancelledError())
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
