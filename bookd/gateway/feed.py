"""Follows events that concern the gateway itself: which sessions have ended, what makes its kept answers stale.

Each gateway follows by itself, as an ordinary stream: all gateways need all of these events, and what one heard is of use
only for a while, so nothing is to be kept for a gateway that is away. A stream that breaks is opened again, behind the last
event that came.
"""

from collections.abc import Callable, Sequence
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

PATH = "/bookd.mom.v1.EventService/StreamEvents"
# Where a feed begins: with the oldest event that the MOM keeps, or with what happens next.
OLDEST, NEXT = "0", ""
# A stream that may have died without a word is opened again after so many seconds, and one that failed after a pause.
RENEWED, PAUSE = 20.0, 0.5
# Who asks for the events: the gateway itself.
_SELF = Principal(subject="gateway", roles=["admin"]).SerializeToString()


class Channel(Protocol):
    """What is needed of `bookd.bridge.channel.Channel`."""

    def unary_stream(self, method: str) -> Callable[..., Any]: ...


class Feed(Service):
    """Hands events of some types to `heard`, for as long as it runs. `what` says for people what they tell. It begins, and
    begins anew when the MOM has forgotten its place, at `begin`; `missed` is called whenever some may
    have been, or come late."""

    log = Logger()

    def __init__(
        self,
        channel: Channel,
        types: Sequence[str],
        heard: Callable[[Event], None],
        reactor: Any,
        *,
        what: str,
        begin: str = OLDEST,
        missed: Callable[[], None] = lambda: None,
    ) -> None:
        self._channel = channel
        self._types = types
        self._heard = heard
        self._reactor = reactor
        self._what = what
        self._begin = self._after = begin
        self._may_miss = missed
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
                self._after = self._begin  # the MOM has forgotten the place, or is another one
            except Exception as error:
                self._missed(error)
            await self._rest()

    async def _listen(self) -> None:
        if self._after == NEXT:
            self._may_miss()
        request = StreamEventsRequest(types=self._types, after=self._after).SerializeToString()
        stream = self._stream = self._channel.unary_stream(PATH)(
            request, timeout=RENEWED, metadata=[(metadata.PRINCIPAL, _SELF)]
        )
        try:
            async for raw in stream:
                self._found()
                event = Event.FromString(raw)
                self._heard(event)
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
        self._may_miss()
        if self.running and not self._lost:
            self._lost = True
            self.log.warn("the MOM does not tell {what}: {error}", what=self._what, error=error)

    def _found(self) -> None:
        if self._lost:
            self._lost = False
            self.log.info("the MOM tells again {what}", what=self._what)
