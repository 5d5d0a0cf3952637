"""Which access tokens are void although they have not expired.

The users daemon tells when sessions end before their time (`bookd.users.v1.SessionsRevoked`). Each gateway follows these
events by itself, as an ordinary stream: all gateways need all of them, and what one heard is of use only as long as
tokens live, so nothing is to be kept for a gateway that is away. A gateway that starts, or has lost its place, begins with
the oldest event that the MOM keeps; one whose stream broke goes on behind the last event it has.

What is promised: while the MOM runs, a token is refused within seconds of the end of its session. While it does not, the
gateway goes on with what it knows, and catches up afterwards; a token of which it has not heard is then good until it
expires.

The table is bounded. When it is full, the oldest entry is replaced by a line in time: all tokens that were issued until
then are void, whoever they belong to, and their owners get others by their refresh tokens.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from bookd.contract import metadata
from bookd.errors import DeadlineExceeded, OutOfRange
from bookd.wire.mom.v1.event_pb2 import Event
from bookd.wire.mom.v1.events_pb2 import StreamEventsRequest
from bookd.wire.policy.v1.policy_pb2 import Principal
from bookd.wire.users.v1.events_pb2 import SessionsRevoked

PATH = "/bookd.mom.v1.EventService/StreamEvents"
TOPIC: str = SessionsRevoked.DESCRIPTOR.full_name
OLDEST = "0"
ENTRIES = 100_000
# A stream that may have died without a word is opened again after so many seconds, and one that failed after a pause.
RENEWED, PAUSE = 20.0, 0.5
# Who asks for the events: the gateway itself.
_SELF = Principal(subject="gateway", roles=["admin"]).SerializeToString()


class Revocations:
    """The table. Times are microseconds since the epoch; tokens live no longer than `lifetime` seconds."""

    def __init__(self, lifetime: float, now: Callable[[], int], entries: int = ENTRIES) -> None:
        self._lifetime = round(lifetime * 1e6)
        self._now = now
        self._entries = entries
        self._ended: OrderedDict[str, int] = OrderedDict()  # by session or user, the oldest first
        self._line = 0

    def __len__(self) -> int:
        return len(self._ended)

    def note(self, user_id: str, session_id: str, revoked_at: int) -> None:
        """A session has ended, or, when it is empty, all of the user's."""
        oldest = self._now() - self._lifetime
        while self._ended and next(iter(self._ended.values())) < oldest:
            self._ended.popitem(last=False)
        if revoked_at < oldest:
            return
        key = f"session {session_id}" if session_id else f"user {user_id}"
        self._ended[key] = max(revoked_at, self._ended.get(key, 0))
        self._ended.move_to_end(key)
        while len(self._ended) > self._entries:
            self._line = max(self._line, self._ended.popitem(last=False)[1])

    def void(self, subject: str, session: str, issued: int) -> bool:
        """Whether a token of `subject` and `session` that was issued then is void."""
        if issued <= self._line:
            return True
        return (bool(session) and f"session {session}" in self._ended) or issued <= self._ended.get(
            f"user {subject}", -1
        )


class Channel(Protocol):
    """What is needed of `bookd.bridge.channel.Channel`."""

    def unary_stream(self, method: str) -> Callable[..., Any]: ...


class Feed(Service):
    """Keeps a table up to date, for as long as it runs."""

    log = Logger()

    def __init__(self, channel: Channel, revocations: Revocations, reactor: Any) -> None:
        self._channel = channel
        self._revocations = revocations
        self._reactor = reactor
        self._after = OLDEST
        self._lost = False
        self._stream: Any = None
        self._following: Deferred[None] | None = None
        self._pausing: Deferred[None] | None = None

    def startService(self) -> None:
        """Begin to follow."""
        super().startService()
        self._following = Deferred.fromCoroutine(self._follow())

    def stopService(self) -> Deferred[None] | None:
        """Fires when the stream has ended."""
        super().stopService()
        if self._stream is not None:
            self._stream.cancel()
        if self._pausing is not None:
            self._pausing.cancel()
        return self._following

    async def _follow(self) -> None:
        while self.running:
            try:
                await self._listen()
            except DeadlineExceeded:
                self._found()
                continue
            except OutOfRange:
                self._after = OLDEST  # the MOM has forgotten the place, or is another one
            except Exception as error:
                self._missed(error)
            await self._rest()

    async def _listen(self) -> None:
        request = StreamEventsRequest(types=[TOPIC], after=self._after).SerializeToString()
        stream = self._stream = self._channel.unary_stream(PATH)(
            request, timeout=RENEWED, metadata=[(metadata.PRINCIPAL, _SELF)]
        )
        try:
            async for raw in stream:
                self._found()
                event = Event.FromString(raw)
                revoked = SessionsRevoked()
                if event.data.Unpack(revoked):
                    self._revocations.note(revoked.user_id, revoked.session_id, revoked.revoked_at.ToMicroseconds())
                self._after = event.sequence
        finally:
            self._stream = None
            stream.cancel()

    async def _rest(self) -> None:
        if not self.running:
            return
        self._pausing = deferLater(self._reactor, PAUSE)
        try:
            await self._pausing
        except CancelledError:
            pass
        finally:
            self._pausing = None

    def _missed(self, error: Exception) -> None:
        if self.running and not self._lost:
            self._lost = True
            self.log.warn("the MOM does not tell which sessions have ended: {error}", error=error)

    def _found(self) -> None:
        if self._lost:
            self._lost = False
            self.log.info("the MOM tells again which sessions have ended")
